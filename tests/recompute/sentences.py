"""The sentences of a suite's main page that have results, settings and counts."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.recompute.results import Decision, Results

TASKS = Path(__file__).resolve().parents[2] / "tasks"
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}
MEANINGS = {
    "supported": "makes features transfer worse",
    "contradicted": "makes features transfer better",
    "mixed: iterate noise": "transfers worse than one control and better than the other",
    "equivalent": "makes no difference beyond {:g} points",
    "inconclusive": "has an open effect",
}


def sentences(results: Results, decisions: Sequence[Decision]) -> Iterator[str]:
    """Return the sentences with results, settings and counts."""
    suite, seeds, targets = results.suite, results.seeds, len(results.suite["targets"])
    plural = "s" * (len(seeds) != 1)
    yield answer(results, decisions)
    yield f"in points on average over {targets} targets"
    yield f"# {suite['title'] or suite['name']}"
    yield f"{suite['model']['architecture']} is pretrained on {title(suite['source'])} at {suite['input']['size']} px;"
    yield f"transferred to {targets} targets"
    accuracy, stages = results.source_accuracy, range(1, results.stages + 1)
    complete = [seed for seed in seeds if all((("step", stage), seed) in accuracy for stage in stages)]
    if complete:
        means = [sum(accuracy[("step", stage), seed] for seed in complete) / len(complete) for stage in stages]
        path = " → ".join(f"{100 * mean:.1f}" for mean in means)
        count = f"{len(complete)} of " * (len(complete) < len(seeds)) + str(len(seeds))
        yield f"at the end of stages 1 to {stages[-1]}: {path} % (mean over {count} pretraining seed{plural})"
    completed, expected = results.counts()
    if completed < expected:
        yield f"Incomplete: {completed:,} of {expected:,} cells have results."
    for protocol in suite["protocols"]:
        yield legend(results, protocol)
    yield from arms(results)
    yield from registration(results)


def title(task: str) -> str:
    """Return the title of a task, which may contain numbers; of a task that is not shipped, its name."""
    path = TASKS / f"{task}.toml"
    return str(tomllib.loads(path.read_text(encoding="utf-8")).get("title", task)) if path.is_file() else task


def answer(results: Results, decisions: Sequence[Decision]) -> str:
    seeds, name = len(results.seeds), results.suite["name"]
    if seeds < 3:
        count = f"{seeds} pretraining seed{'s' * (seeds != 1)}"
        return f"{name} ({count}): no claim is decided, because at least 3 pretraining seeds are needed."
    start = f"{name} ({seeds} pretraining seeds): "
    causal = [decision for decision in results.by_place(decisions, "C3") if decision.testable]
    if not causal:
        return f"{start}the causal claim C3 cannot be decided, because it needs the arms hold and average."
    if all(decision.verdict == "inconclusive" for decision in causal):
        return f"{start}whether learning-rate decay makes features transfer worse remains open under every protocol."
    clauses = []
    for word, meaning in MEANINGS.items():
        places = []
        for protocol in results.deciding():
            members = [decision for decision in causal if decision.protocol == protocol]
            equal = [decision for decision in members if decision.verdict == word]
            if members and len(equal) == len(members):
                places.append(protocol)
            else:
                names = {"mean": "mean over boundaries"}
                places += [f"{protocol} ({names.get(decision.place, decision.place)})" for decision in equal]
        if places:
            listed = " and ".join(filter(None, (", ".join(places[:-1]), places[-1])))
            clauses.append(f"{meaning.format(results.margin)} under {listed}")
    targets = len(results.suite["targets"])
    return f"{start}on average over {targets} targets, learning-rate decay {'; it '.join(clauses)}."


def legend(results: Results, protocol: str) -> str:
    names = {
        task: METRICS[results.columns[protocol, task].metric]
        for task in results.suite["targets"]
        if (protocol, task) in results.columns
    }
    same = len(set(names.values())) == 1
    headline = (
        f"{next(iter(names.values()))} accuracy"
        if same
        else ", ".join(f"{task} {name}" for task, name in names.items())
    )
    if len(results.seeds) == 1:
        return f"Headline metric: {headline}."
    return (
        f"over {len(results.seeds)} pretraining seeds and their test images. An interval that reaches 0 or 100 is given by its "
        f"ends, and omitted if it covers everything. Headline metric: {headline}."
    )


def arms(results: Results) -> Iterator[str]:
    """Return the rates and epochs in the list of arms, from the records of the results."""
    for arm in results.suite["arms"]:
        places = {
            stage: results.places[arm, stage]
            for name, stage in results.rows
            if (name, stage) in results.places and name == arm
        }
        epochs = [epoch for epoch, _ in places.values()]
        rates = [f"{rate:g}" for _, rate in places.values()]
        if arm == "step" and len(places) > 2:
            yield f"the rate falls from {' to '.join(rates[1:])} after epochs {', '.join(map(str, epochs[1:-1]))}."
        elif arm == "constant" and rates:
            extra = epochs[-1] - results.suite["schedule"]["epochs"]
            yield f"the rate stays {rates[-1]}" + f", for {extra} more epochs" * (extra > 0)
        elif arm in ("trail", "small-trail"):
            yield f"after epochs {', '.join(map(str, epochs))}."
        elif arm in ("early", "late"):
            yield f"with its boundaries at epochs {', '.join(map(str, epochs[:-1]))}."
        elif arm == "small" and rates:
            yield f"the rate is {rates[0]} from the start"
        elif arm == "cosine":
            yield f"the rate falls from {results.suite['schedule']['rates'][0]:g} to 0 along"
        elif arm == "raise" and rates:
            yield f"{epochs[0] - results.suite['schedule']['epochs']} more epochs at {rates[0]} after"
    if warmup := results.suite["schedule"]["warmup"]:
        yield f"over the first {warmup} epochs."


def registration(results: Results) -> Iterator[str]:
    """Return the date, the hash and the counts of the registration; settings and protocol versions count as registered."""
    content = results.registration
    if content is None:
        yield "Exploratory: the suite was not registered before its results."
        return
    identity = f"{content['registered'][:10]} (registrations/{content['name']}.json, sha256 {content['sha256'][:12]})"
    if content["suite"] | {"title": ""} != results.suite | {"title": ""}:
        yield f"Exploratory: the suite differs from the one registered on {identity}"
        return
    yield f"Registered on {identity}"
    old = {int(match[1]) for cell in content["existing"] if (match := re.match(r".*?-seed(\d+)-stage", cell))}
    entries = results.entries
    late = entries.computed.isna() | (entries.computed.fillna("") < content["registered"]) | entries.seed.isin(old)
    if late.any():
        yield f"{late.sum():,} of {len(entries):,} results are exploratory"
