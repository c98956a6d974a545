"""`lrbench recommend`: which of these snapshots to transfer to your data."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import DataRootOption, JsonOption, NoCacheOption, PartialOption, emit_json, note, warn

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
        typer.Option("--seed", metavar="K", help="Transfer seed. [default: the suite's first, or 0]"),
    ] = None,
    probed: Annotated[
        int, typer.Option("--probe", metavar="N", min=1, help="How many of the best by LogME are probed.")
    ] = 5,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    json_: JsonOption = False,
) -> None:
    """Say which snapshot to transfer to a task: LogME for all, the probe for the best of them.

    Snapshots are ranked on validation images; test images only say how good the first is, and whether its lead is more than
    chance.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.data.loading import find_task_data
    from lrbench.effective import keep_for_results
    from lrbench.errors import FailureError
    from lrbench.recommend import expand, on_equal_terms
    from lrbench.recommend import recommend as compare
    from lrbench.registry import load_task
    from lrbench.workspace import Place, Workspace, data_roots

    workspace = Workspace.current()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    find_task_data(load_task(task), place.roots)
    named = expand(snapshots or _of_suite(workspace, suite), workspace, suite)
    references, settings, default_seed = on_equal_terms(named)
    if references and (own := references[0].suite) is not None:
        keep_for_results(workspace, own)
    note(f"{len(references)} snapshots, of which the {min(probed, len(references))} best by LogME are probed")
    with showing_progress(f"recommend {task}") as control:
        found = compare(
            references, task, settings, place, control, probed=probed, seed=default_seed if seed is None else seed
        )
    if json_:
        emit_json({"task": task, "p": found.p, "ranked": [_record(each) for each in found.ranked]})
    else:
        _show(found)
    for each in found.ranked:
        if each.problem:
            warn(f"{each.reference.text} was left out: {each.problem}")
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


def _show(found: "Recommendation") -> None:
    from tabulate import tabulate

    rows = []
    for each in found.ranked:
        interval = each.test_interval
        rows.append(
            {
                "snapshot": each.reference.text,
                "LogME": "" if each.logme is None else f"{each.logme:.3f}",
                "validation %": "" if each.validation is None else f"{100 * each.validation:.1f}",
                "test top-1 % (95 %)": ""
                if each.probe is None or interval is None
                else f"{100 * each.probe.result.metrics['top1']:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})",
                "time": f"{each.seconds:.1f} s",
            }
        )
    typer.echo(tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True))
    best = found.best
    if best is None:
        return
    words = f"\nTransfer {best.reference.text}: the probe is best on validation."
    if found.p is not None:
        second = found.ranked[1].reference.text
        words += (
            f" On the test images it and {second} differ by more than chance (McNemar, p = {found.p:.2g})."
            if found.p < _LEVEL
            else f" On the test images it and {second} do not differ by more than chance (McNemar, p = {found.p:.2g}), so "
            "either will do."
        )
    typer.echo(words)


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
