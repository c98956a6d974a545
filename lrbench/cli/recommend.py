"""`lrbench recommend`: which of these snapshots to transfer to your data."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import (
    DataRootOption,
    JsonOption,
    NoCacheOption,
    PartialOption,
    emit_json,
    note,
    show,
    some,
    warn,
)

if TYPE_CHECKING:
    from lrbench.recommend import Candidate, Recommendation

# Beyond this, the first's lead over the second on the test images may be chance.
_LEVEL = 0.05


def recommend(
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A task's name, or the path of a task TOML.")],
    snapshots: Annotated[
        list[str] | None,
        typer.Option(
            "--snapshots",
            metavar="REF",
            help="A snapshot as in `lrbench transfer`, or a folder of .safetensors files. Repeatable. [default: every "
            "snapshot of the suite, of its first pretraining seed]",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", metavar="SUITE", help="Suite of snapshots that name none. [default: the one pretrained last]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="K", min=0, help="Transfer seed. [default: the suite's first, or 0]"),
    ] = None,
    probed: Annotated[
        int, typer.Option("--probe", metavar="N", min=1, help="How many of the best by LogME are probed.")
    ] = 5,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Compute also what is there, and replace what was computed otherwise.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Say which snapshot to transfer to a task: LogME for all, the probe for the best of them.

    Snapshots are ranked on validation images; test images only say how good the first is, and whether its lead is more than
    chance. The results are kept like those of `lrbench transfer`, and used again.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.data.loading import find_task_data
    from lrbench.effective import keep_for_results
    from lrbench.errors import FailureError
    from lrbench.recommend import expand, on_equal_terms
    from lrbench.recommend import recommend as compare
    from lrbench.references import passed_over
    from lrbench.registry import load_task
    from lrbench.registry.task import METRIC_NAMES
    from lrbench.workspace import Place, Workspace, data_roots

    workspace = Workspace.for_writing()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    find_task_data(load_task(task), place.roots)
    named = expand(snapshots or _of_suite(workspace, suite), workspace, suite)
    references, settings, default_seed = on_equal_terms(named)
    if references and (own := references[0].suite) is not None:
        keep_for_results(workspace, own)
    others = [path for each in snapshots or () if Path(each).is_dir() for path in passed_over(Path(each))]
    if others:
        note(f"passed over: {some(others)}; `lrbench snapshots add FILE... --architecture NAME` takes such weights in")
    with showing_progress(f"recommend {task}") as control:
        found = compare(
            references,
            task,
            settings,
            place,
            control,
            probed=probed,
            seed=default_seed if seed is None else seed,
            again=again,
        )
    if json_:
        against = None if found.second is None else found.second.reference.text
        lead = None if found.lead is None else {"against": against, **asdict(found.lead)}
        emit_json({"task": task, "lead": lead, "ranked": [_record(each) for each in found.ranked]})
    else:
        _show(found, METRIC_NAMES[load_task(task).metric])
    # What stands in the way of many is said once.
    for problem in dict.fromkeys(each.problem for each in found.ranked if each.problem):
        names = [each.reference.text for each in found.ranked if each.problem == problem]
        warn(f"{some(names)} {'was' if len(names) == 1 else 'were'} left out: {problem}")
    if any(each.probe is not None and each.probe.result.partial for each in found.ranked):
        warn("the data was not whole: these results are marked partial, and the ranking is of what is there.")
    if found.best is None:
        raise FailureError(f"none of the snapshots could be probed on {task}; the warnings above say why.")


def _of_suite(workspace: Any, name: str | None) -> list[str]:
    from lrbench.arms import snapshot_keys
    from lrbench.effective import suite_in_use
    from lrbench.errors import InputError
    from lrbench.snapshots import snapshot_path

    suite = suite_in_use(workspace, name)
    keys = snapshot_keys(suite, seed=suite.seeds[0])
    there = [f"{suite.name}/{key}" for key in keys if snapshot_path(workspace.checkpoints, suite.name, key).is_file()]
    if not there:
        raise InputError(
            f"no snapshot of suite {suite.name}, seed {suite.seeds[0]}, is here. `lrbench pretrain {suite.name}` makes them; "
            "or name others with --snapshots."
        )
    return there


def _show(found: "Recommendation", metric: str) -> None:
    from tabulate import tabulate

    rows = [_row(each, metric) for each in found.ranked]
    show(tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True))
    if found.best is not None:
        show(f"\n{_words(found, metric)}")


def _row(candidate: "Candidate", metric: str) -> dict[str, str]:
    probe, interval = candidate.probe, candidate.test_interval
    row = {
        "snapshot": candidate.reference.text,
        "LogME": "" if candidate.logme is None else f"{candidate.logme:.3f}",
        f"validation {metric} %": "" if candidate.validation is None else f"{100 * candidate.validation:.1f}",
    }
    if metric != "top-1":
        row[f"test {metric} %"] = "" if probe is None else f"{100 * probe.result.headline:.1f}"
    row["test top-1 % (95 %)"] = (
        ""
        if probe is None or interval is None
        else f"{100 * probe.result.metrics['top1']:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    )
    return {**row, "time": f"{candidate.seconds:.1f} s"}


def _words(found: "Recommendation", metric: str) -> str:
    best, lead, other = found.ranked[0].reference.text, found.lead, found.second
    twins = [each.reference.text for each in found.ranked[1:] if each.probe and each.weights == found.ranked[0].weights]
    same = f" ({', '.join(twins)} {'is' if len(twins) == 1 else 'are'} the same weights)" if twins else ""
    if lead is None or other is None:
        return f"Transfer {best}{same}: nothing else was probed."
    second = other.reference.text
    low, high = (100 * end for end in lead.interval)
    told_apart = lead.p < _LEVEL
    ahead = lead.difference > 0
    meaning = (
        "more than chance"
        if told_apart and ahead
        else "more than chance, so the validation images misled, or the seed did: look at both"
        if told_apart
        else "which may be chance: these images do not tell the two apart"
    )
    tied = ", as is the second: a tie" if found.ranked[0].validation == other.validation else ""
    return (
        f"Transfer {best}{same}: the probe's {metric} is best on validation{tied}. On the {lead.images:,} test images its "
        f"top-1 is {100 * lead.difference:+.1f} points against that of {second} (95 % interval {low:+.1f} to {high:+.1f}, "
        f"McNemar's p {lead.p:.2g}), {meaning}."
    )


def _record(candidate: "Candidate") -> dict[str, Any]:
    return {
        "snapshot": candidate.reference.text,
        "logme": candidate.logme,
        "validation": candidate.validation,
        "metrics": None if candidate.probe is None else candidate.probe.result.metrics,
        "test_top1_interval": candidate.test_interval,
        "seconds": round(candidate.seconds, 3),
        "problem": candidate.problem,
    }
