"""One suite's page in Markdown: tables, figure, setting, and what is missing or left out."""

import json
from collections.abc import Sequence

from lrbench.config import Suite
from lrbench.config.task import METRIC_NAMES
from lrbench.core.escaping import for_markdown
from lrbench.leaderboard import summary, tables, verdicts
from lrbench.leaderboard.claims import CLAIMS, LEAST_SEEDS, Decision
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.markup import NOTHING, bullets, code, table
from lrbench.leaderboard.row_pages import linked

READING = """## How to read the decisions

- *Effect*: with its 95 % interval, in points of accuracy (of error for C4), or as a difference of T for C1 (delta method).
- *p* is two-sided. For C1 it tests the gains multiplied crosswise, so that nothing is divided; it need not agree with the
  interval. For C3 it covers both controls: the larger p where both effects are below zero, otherwise twice the smaller p of
  those above zero.
- *p (Holm)* adjusts for all targets of the suite under one claim and boundary, with or without results.
- *Detectable*: the smallest effect that these seeds detect by itself in four of five repetitions, after Holm; *none* where that
  is more than 100 points. C3 needs two such effects at once, which are detected together less often.
- For the source, seeds vary and the test images are fixed.
- C4's null never rises as source error falls. If networks without decay transfer worse the longer they train, C4 attributes
  that to decay."""


def render_suite(
    suite: Suite,
    bodies: Sequence[Evidence],
    decisions: Sequence[Sequence[Decision]],
    drawn: Sequence[Figure],
) -> str:
    """The page of one suite.

    Args:
        suite: The suite.
        bodies: Full results first, then those of partial data.
        decisions: Of the claims, one list for each body.
        drawn: The figures of the full results; partial data has none.
    """
    parts = [f"# {for_markdown(suite.title or suite.name)}", _lead(suite, bodies)]
    for body, decided in zip(bodies, decisions, strict=True):
        if body.partial:
            parts.append(
                "## Partial data\n\nThe results below were made with data that was not whole (`--partial`). They are "
                "compared among themselves only."
            )
        parts += _body(body, decided, [] if body.partial else drawn)
    if any(body.there or not body.partial for body in bodies):
        parts.append(READING)
    parts.append(_setting(suite, bodies))
    parts += _left_over(bodies)
    return "\n\n".join(part for part in parts if part) + "\n"


def progress(bodies: Sequence[Evidence]) -> tuple[int, int]:
    """Cells that are there, and cells that a complete suite has."""
    body = bodies[0]
    return body.there, body.expected


def headline_block(evidence: Evidence, protocol: str, *, links: bool = False) -> str:
    """The headline table of one protocol with the words that it needs; its rows linked to their pages, if wanted."""
    there = {(entry.arm, entry.stage) for entry in evidence.stored} if links else set()

    def name(row: Row) -> str:
        return linked(evidence.name, row) if row in there else tables.row_name(row)

    return f"{tables.headline(evidence, protocol, name=name)}\n\n{for_markdown(legend(evidence, protocol))}"


def plain_lead(suite: Suite) -> str:
    """What a suite is, in a sentence."""
    return (
        f"{suite.model.architecture} pretrained on {tables.target_title(suite.source)} at {suite.input.size} px, a snapshot at "
        f"every boundary of the learning rate, each transferred to {len(suite.targets)} targets."
    )


def _lead(suite: Suite, bodies: Sequence[Evidence]) -> str:
    there, expected = progress(bodies)
    lines = [f"Suite `{suite.name}`: {for_markdown(plain_lead(suite))} `stage0` is the initialisation.", _arms(suite)]
    if there < expected:
        lines.append(f"**Incomplete: {there:,} of {expected:,} cells are there.** What is missing is listed below.")
    if len(suite.seeds) < LEAST_SEEDS:
        lines.append(
            f"**{len(suite.seeds)} pretraining seed{'s' if len(suite.seeds) > 1 else ''}: too few to conclude anything** "
            "(three are the least)."
        )
    return "\n\n".join(lines)


def _arms(suite: Suite) -> str:
    """What each arm of the suite is, a line each."""
    schedule = suite.schedule
    first, rates = schedule.rates[0], " to ".join(f"{rate:g}" for rate in schedule.rates)

    def epochs(numbers: Sequence[int]) -> str:
        return ", ".join(map(str, numbers))

    words = {
        "step": f"the rate falls from {rates} after epochs {epochs(schedule.boundaries)}",
        "hold": "each stage again from the same weights, momentum and order of images, at the rate of the stage before",
        "constant": f"the rate stays {first:g}; shares stages 0 and 1 with `step` and stage 2 with `hold`",
        "average": "the mean of the weights at the epochs' ends of `hold` in that stage",
        "constant-average": "the mean of the weights at the epochs' ends of `constant`; shares stage 2 with `average`",
        "trail": f"intermediate weights of the run without decay, after epochs {epochs(schedule.trail_epochs)}",
        "early": f"`step` with its boundaries at epochs {epochs(schedule.ends_of('early')[1:-1])}",
        "late": f"`step` with its boundaries at epochs {epochs(schedule.ends_of('late')[1:-1])}",
        "small": f"the rate is {schedule.small_rate:g} from the start",
        "cosine": f"the rate falls from {first:g} to 0 along half a cosine; snapshots at the epochs of `step`'s boundaries",
        "raise": f"from the end of `step`, {schedule.raised_epochs} epochs more at {first:g}",
    }
    lines = [f"- `{arm}`: {words[arm]}." for arm in suite.arms]
    if schedule.warmup:
        lines.append(f"- In every arm the rate rises to its first value over the first {schedule.warmup} epochs.")
    return "\n".join(lines)


def _body(body: Evidence, decisions: Sequence[Decision], drawn: Sequence[Figure]) -> list[str]:
    level = "###" if body.partial else "##"
    # A transfer made on the side with partial data says nothing of the suite's own cells.
    parts = [] if body.partial and not body.there else _own(body, decisions, drawn, level)
    for other in tables.others(body):
        parts.append(
            f"{level} {other}: other transfers\n\n{tables.other_transfers(body, other)}\n\n"
            "Transfers of these snapshots that the suite does not name, made one by one; read as the tables above."
            + _of_other_weights(body, other)
        )
        if other == "logme":
            parts.append(_scores(body, [column.task for column in body.extra if column.protocol == other]))
    report = tables.source_report(body)
    if report:
        parts.append(
            f"{level} What the source taught\n\n{report}\n\nShares of images, in percent, mean ± half the 95 % interval "
            "over seeds."
        )
        parts += [_figure(body, each) for each in drawn if each.name == "source-learned"]
    return parts


def _of_other_weights(body: Evidence, protocol: str) -> str:
    """Which transfers made one by one are of other weights than the suite's own cells, because a snapshot was made anew."""
    others = body.of_other_weights([column for column in body.extra if column.protocol == protocol])
    if not others:
        return ""
    named = ", ".join(f"{tables.row_name(row)} of seed {seed}" for row, seed in others)
    return f" Of other weights than in the tables above, because snapshots were made anew in between: {named}."


def _own(body: Evidence, decisions: Sequence[Decision], drawn: Sequence[Figure], level: str) -> list[str]:
    """What the suite's own cells say."""
    suite = body.suite
    parts = [
        f"{level} In short\n\n{for_markdown(summary.in_short(body, decisions))}",
        bullets(summary.grounds(body, decisions)),
        f"{level} Verdicts\n\n{_claims()}",
    ]
    for protocol in suite.protocols:
        parts.append(f"{level}# {protocol}: verdict of each claim\n\n{verdicts.overview(body, decisions, protocol)}")
    for protocol in suite.protocols:
        parts.append(f"{level} {protocol}: accuracy\n\n{headline_block(body, protocol, links=True)}")
        if protocol == "logme":
            parts.append(_scores(body, [column.task for column in tables.of_protocol(body, protocol)]))
        if protocol == suite.protocols[0]:
            parts += [_figure(body, each) for each in drawn if each.name != "source-learned"]
        parts += [f"{level} {protocol}: {title}\n\n{text}" for title, text in _comparisons(body, protocol)]
        parts.append(
            f"{level} {protocol}: decisions\n\n{verdicts.details(body, decisions, protocol)}\n\n"
            "[How to read the decisions](#how-to-read-the-decisions)"
        )
        parts.append(
            f"{level} {protocol}: each run alone\n\n{verdicts.within_runs(body, protocol)}\n\n"
            "One run's difference in points with its interval over test images (paired bootstrap) and McNemar's exact p, where "
            "every image counts alike and there is one transfer seed. It says nothing of another pretraining run, so it "
            "decides nothing. The crossed bootstrap resamples seeds and images independently; with few seeds it is too narrow, "
            "and decides nothing either."
        )
    return parts


def _scores(body: Evidence, targets: Sequence[str]) -> str:
    return f"{tables.logme_scores(body, targets)}\n\n{tables.LOGME} Mean ± half the 95 % interval over seeds."


def _comparisons(body: Evidence, protocol: str) -> list[tuple[str, str]]:
    """The tables that compare snapshots, each with its title and what it says."""
    found = [
        (
            "which checkpoint?",
            f"{table(summary.which_checkpoint(body, protocol))}\n\nBy paired differences, each at 95 %.",
        ),
        (
            "difference to the stage before",
            f"{tables.differences(body, protocol)}\n\nPaired over seeds and images, in points.",
        ),
        (
            "transferability T of each stage",
            f"{tables.transferability(body, protocol)}\n\n"
            "T is the gain on the target over the gain on the source, from the stage before to this one, with Fieller's "
            "95 % interval; *undefined* where the source's gain cannot be told from zero. T shrinks by saturation alone, "
            "so it is read beside the differences and the controls. On the scale of log-odds, on which no accuracy is a "
            f"ceiling:\n\n{tables.transferability(body, protocol, scale='logit')}",
        ),
    ]
    words = {
        "hold": "`hold` left `step` at the boundary before with the same weights, momentum and data order, and trained for as "
        "many updates",
        "average": "`average` is the mean of `hold`'s weights",
        "constant": "`constant` never let the rate fall",
        "constant-average": "`constant-average` is the mean of its weights",
        "small": "`small` had a small rate from the start",
        "early": "`early` let the rate fall sooner",
        "late": "`late` let it fall later",
        "cosine": "`cosine` let it fall all along",
    }
    for title, falling, meaning in (
        ("decay against its controls", False, "letting the rate fall transferred worse than the control"),
        ("other ways to let the rate fall", True, "`step` transferred worse than the other"),
    ):
        controls = tables.controls(body, protocol, falling=falling)
        if controls:
            said = [
                text for arm, text in words.items() if arm in body.suite.arms and (arm in tables.FALLING) == falling
            ]
            found.append(
                (
                    title,
                    f"{controls}\n\n{'; '.join(said)}. Below zero: {meaning}. Paired over seeds and images, in points.",
                )
            )
    return found


def _target(name: str) -> str:
    """A task's name, with its title where it has one."""
    title = tables.target_title(name)
    return code(name) if title == name else f"{code(name)} ({for_markdown(title)})"


def _claims() -> str:
    listed = "\n".join(f"- **{claim.name} {claim.title}**: {claim.statement}." for claim in CLAIMS)
    return (
        f"The claims, fixed before any result:\n\n{listed}\n\nEach is *supported*, *contradicted* or *inconclusive* for a "
        "target and protocol: supported where it is at every boundary, contradicted where it is at any."
    )


def legend(body: Evidence, protocol: str) -> str:
    """What the numbers of a table of accuracies are, as plain text."""
    columns = [column for column in (*body.columns, *body.extra) if column.protocol == protocol]
    metrics = {column.task: METRIC_NAMES[body.values[column].metric] for column in columns if column in body.values}
    kinds = sorted(set(metrics.values()))
    words = (
        f"Headline metric: {kinds[0]} accuracy."
        if len(kinds) == 1
        else "Headline metric: " + ", ".join(f"{task} {kind}" for task, kind in metrics.items()) + "."
    )
    seeds = len(body.seeds)
    interval = (
        f"mean ± half the 95 % interval over {seeds} pretraining seeds (Student's t; targets include the test images' share), "
        "its ends where 0 or 100 cuts it, none where it excludes nothing"
        if seeds > 1
        else "one pretraining seed, so no interval"
    )
    some = any(
        level is not None and level.seeds < seeds
        for column in columns
        for level in (body.level(row, column) for row in body.rows)
    )
    bold = (
        "Bold: best of its column, and its lead over every other row is beyond the interval of their paired difference; no "
        f"bold means no such lead{', or that a row lacks seeds' if some else ''}. "
    )
    return f"Percent, {interval}. {words} {bold if seeds > 1 else ''}{NOTHING}: no result yet."


def _figure(body: Evidence, figure: Figure) -> str:
    return f"![{figure.caption}](figures/{body.name}-{figure.name}.svg)"


def _setting(suite: Suite, bodies: Sequence[Evidence]) -> str:
    schedule = suite.schedule
    stages = ", ".join(
        f"stage {stage}: epochs {start + 1} to {end} at {rate:g}"
        for stage, (start, end, rate) in enumerate(
            zip(schedule.ends[:-1], schedule.ends[1:], schedule.rates, strict=True), start=1
        )
    )
    entries = [entry for body in bodies for entry in body.stored]
    devices = sorted({entry.device for entry in entries} - {""})
    versions = sorted({entry.versions for entry in entries})
    fingerprints = {
        entry.task: f"{_target(entry.task)}, {code(entry.fingerprint[:12])}: {entry.train_count:,} training and "
        f"{entry.test_count:,} test images, {entry.classes} classes"
        # Few-shot transfers train on fewer.
        for entry in {
            (entry.task, entry.fingerprint): entry for entry in sorted(entries, key=lambda entry: entry.train_count)
        }.values()
    }
    sources = sorted({entry.source_fingerprint for entry in entries} - {""})
    lines = [
        f"- Network: {code(suite.model.architecture)}"
        + (f" with {for_markdown(str(suite.model.arguments))}" if suite.model.arguments else "")
        + f", {suite.input.size} px input.",
        f"- Schedule of `step`: {stages}; batch {schedule.batch}, momentum {schedule.momentum:g}, weight decay "
        f"{schedule.weight_decay:g}, augmentation {schedule.augmentation}.",
        f"- Arms: {', '.join(suite.arms)}. Pretraining seeds: {', '.join(map(str, suite.seeds))}. Transfer seeds: "
        f"{', '.join(map(str, suite.transfer_seeds))}.",
        f"- Source: {', '.join([_target(suite.source), *(code(fingerprint[:12]) for fingerprint in sources)])}.",
        *[
            " ".join([f"- Target: {fingerprints[name]}.", *map(for_markdown, tables.target_notes(name))])
            for name in suite.targets
            if name in fingerprints
        ],
        *[f"- Device: {for_markdown(device)}." for device in devices],
        *[
            f"- Versions: {for_markdown(', '.join(f'{name} {value}' for name, value in json.loads(record).items()))}."
            for record in versions
        ],
        f"- Every cell's record and per-image predictions: [results/{suite.name}](results/{suite.name}). A row's name in the "
        "tables of accuracy links to its own.",
    ]
    return "## Setting\n\n" + "\n".join(lines)


def _left_over(bodies: Sequence[Evidence]) -> list[str]:
    parts = []
    for body in bodies:
        word = " (partial data)" if body.partial else ""
        missing = tables.missing_cells(body)
        if missing and (body.there or not body.partial):
            parts.append(f"## Missing{word}\n\n" + bullets(missing))
        if body.apart:
            rows = [
                {"cell": entry.cell, "accuracy": f"{100 * entry.headline:.1f}", "why it stands apart": reason}
                for entry, reason in sorted(body.apart, key=lambda pair: pair[0].cell)
            ]
            parts.append(f"## Kept apart{word}\n\nThese are not comparable with the tables.\n\n{table(rows)}")
        if body.problems:
            parts.append(f"## Left out{word}\n\nThese files could not be read.\n\n" + bullets(body.problems))
    return parts
