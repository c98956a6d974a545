"""`lrbench snapshots export`: write a snapshot for timm or the Hub."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lrbench.cli.common import note, show, some
from lrbench.cli.snapshots.reference import ReferenceArgument, SuiteOption, snapshot_file


def export(
    reference: ReferenceArgument,
    to: Annotated[
        Literal["timm", "hf"],
        typer.Option("--to", help="timm: a folder for `local-dir:`. hf: the same with a model card, for the Hub."),
    ] = "timm",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Output folder. [default: named after the snapshot]")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Task of your own to include in the model card. Repeatable. [default: only tasks that lrbench ships]",
        ),
    ] = None,
    suite: SuiteOption = None,
) -> None:
    """Write a snapshot as a folder that `timm.create_model("local-dir:DIR", pretrained=True)` loads."""
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.model_card import model_card, transfer_table
    from lrbench.models.export import export_snapshot
    from lrbench.store.snapshots import read_metadata

    path = snapshot_file(reference, suite)
    folder = out or Path("-".join([*path.parts[-4:-1], path.stem]))
    if to != "hf":
        export_snapshot(path, folder)
        show(str(folder))
        return
    workspace = Workspace.current()
    transfers, left_out = transfer_table(path, read_metadata(path), workspace, tasks or ())
    export_snapshot(path, folder, lambda header, statistics: model_card(header, statistics, workspace, transfers))
    if left_out:
        note(f"the model card omits results on your own tasks {some(left_out)} (--task NAME includes them)")
    show(str(folder))
