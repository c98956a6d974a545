"""`lrbench snapshots verify`: check snapshots."""

from typing import Annotated

import typer

from lrbench.cli.common import DataRootOption, JsonOption, PartialOption, emit_json, note, show, warn
from lrbench.cli.snapshots.reference import SuiteOption, find_snapshots, snapshot_file


def verify(
    reference: Annotated[str | None, typer.Argument(metavar="REF", help="Only this snapshot. [default: all]")] = None,
    suite: SuiteOption = None,
    source: Annotated[
        bool, typer.Option("--source", help="Also evaluate snapshots on their source, and compare the accuracy.")
    ] = False,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    json_: JsonOption = False,
) -> None:
    """Check snapshots: header, names, shapes, finite values, hash and parent.

    Exit status 1 if any snapshot is bad.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.models.verification import verify_snapshot
    from lrbench.pretraining.source import evaluate_again
    from lrbench.store.snapshots import read_metadata

    workspace = Workspace.current()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial)
    files = find_snapshots(workspace, suite) if reference is None else [(snapshot_file(reference, suite), reference)]
    problems: dict[str, str] = {}
    unread: dict[str, str] = {}
    unchecked: list[str] = []
    with showing_progress("verify snapshots") as control:
        for path, name in files:
            try:
                verify_snapshot(path)
            except InputError as error:
                problems[name] = str(error)
                continue
            if not read_metadata(path).checked:
                unchecked.append(name)
            try:
                if source and (problem := evaluate_again(path, place, control)):
                    problems[name] = problem
            except InputError as error:
                # The source's data is at fault, not the snapshot.
                unread[name] = str(error)
    if json_:
        emit_json(
            {
                "checked": len(files) - len(unread),
                "bad": problems,
                "not_evaluated": unread,
                "unchecked_header": unchecked,
            }
        )
    else:
        for name, problem in problems.items():
            show(f"{name}: {problem}")
    for problem in dict.fromkeys(unread.values()):
        warn(problem)
    if unchecked:
        warn(
            f"unchecked header in {len(unchecked)} of {len(files)} snapshots ({', '.join(unchecked[:3])}"
            f"{', …' if unchecked[3:] else ''}). An older lrbench wrote them without a hash, so changes are not detected."
        )
    if problems:
        raise FailureError(f"{len(problems)} of {len(files)} snapshots are bad.")
    if unread:
        raise InputError(
            f"{len(unread)} of {len(files)} snapshots could not be evaluated on their source; see the warnings above. Their "
            "headers, names, shapes and values are sound."
        )
    if not files:
        note(f"there are no snapshots in {workspace.checkpoints.absolute()}; nothing was checked")
        return
    checked = "header, names, shapes, finite values, hash, parent" + (", accuracy on the source" if source else "")
    note(f"{len(files)} snapshots are sound: {checked}")
