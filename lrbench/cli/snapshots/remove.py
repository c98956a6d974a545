"""`lrbench snapshots remove`: remove snapshots with the files that belong to them."""

from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import confirmed, note, show, some

if TYPE_CHECKING:
    from lrbench.store.deletion import Deletion


def remove(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF", help="stage2, arm/stage2, suite/arm/seed1/stage2, foreign/NAME, or a .safetensors file."
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="Suite of a snapshot named without one. [default: the one pretrained last]",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove snapshots with their statistics, states and saved progress. Results and other snapshots stay."""
    from lrbench.core.control import Control, stopping_on_signals
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.store.deletion import delete, plan_deletion
    from lrbench.store.references import SuiteSnapshot, WeightsFile, resolve_reference

    workspace = Workspace.current()
    deletions: dict[str, Deletion] = {}
    for reference in references:
        parsed = resolve_reference(reference, workspace, suite=suite)
        if not isinstance(parsed, SuiteSnapshot | WeightsFile):
            raise InputError(f"{reference} is not a file that lrbench stores. Name a snapshot on this machine.")
        deletions[parsed.text] = plan_deletion(parsed.path, workspace)
    _note_consequences(list(deletions.values()))
    if not yes and not confirmed(_question(len(deletions))):
        raise InputError("Nothing was removed. Pass --yes to remove without confirmation.")
    control = Control()
    with stopping_on_signals(control):
        for deletion in deletions.values():
            delete(deletion, control)
            for file in deletion.files:
                show(f"removed {file}")


def _note_consequences(deletions: "list[Deletion]") -> None:
    going = {deletion.path.absolute() for deletion in deletions}
    for deletion in deletions:
        beside = [file.name for file in deletion.files if file != deletion.path]
        also = f", with {', '.join(beside)}" if beside else ""
        note(f"{deletion.path}{also}")
        children = [str(child) for child in deletion.children if child.absolute() not in going]
        if children:
            note(
                f"  {len(children)} snapshots were trained from it, and are refused if it is retrained with different weights: "
                f"{some(children)}"
            )
    note("Results in the leaderboard stay; the next `lrbench run` trains missing snapshots again.")


def _question(count: int) -> str:
    return "Remove this snapshot?" if count == 1 else f"Remove these {count} snapshots?"
