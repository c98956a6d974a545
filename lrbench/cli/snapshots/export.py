"""`lrbench snapshots export` and `push`: write a snapshot for timm or the Hub, and upload it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lrbench.cli.common import note, show, some
from lrbench.cli.snapshots.reference import ReferenceArgument, SuiteOption, snapshot_file

TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Task of your own to include in the model card. Repeatable. [default: only tasks that lrbench ships]",
    ),
]
LicenseOption = Annotated[
    str | None,
    typer.Option("--license", metavar="ID", help="License of the weights for the model card, such as apache-2.0."),
]


def export(
    reference: ReferenceArgument,
    to: Annotated[
        Literal["timm", "hf"],
        typer.Option("--to", help="timm: a folder for `local-dir:`. hf: the same with a model card, for the Hub."),
    ] = "timm",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Output folder. [default: named after the snapshot]")
    ] = None,
    tasks: TaskOption = None,
    license_: LicenseOption = None,
    suite: SuiteOption = None,
) -> None:
    """Write a snapshot as a folder that `timm.create_model("local-dir:DIR", pretrained=True)` loads."""
    from lrbench.models.export import export_snapshot

    path = snapshot_file(reference, suite)
    folder = out or Path("-".join([*path.parts[-4:-1], path.stem]))
    if to == "hf":
        _export_with_card(path, folder, tasks, license_)
    else:
        export_snapshot(path, folder)
    show(str(folder))


def push(
    reference: ReferenceArgument,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="hf://USER/NAME, a model of the Hugging Face Hub.")
    ],
    tasks: TaskOption = None,
    license_: LicenseOption = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new model public. [default: private]")] = False,
    suite: SuiteOption = None,
) -> None:
    """Upload a snapshot to the Hub with a model card: license, results and recipe. `hf auth login` logs in.

    `timm.create_model("hf-hub:USER/NAME", pretrained=True)` loads it, and so does `lrbench transfer --snapshot
    hf-hub:USER/NAME`.
    """
    from lrbench.core.files import temporary_folder
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.hub import upload
    from lrbench.sharing.places import parse_repository

    repository, path = parse_repository(destination, "model"), snapshot_file(reference, suite)
    workspace = Workspace.for_writing()
    # The path of a file outside the workspace may hold private names.
    name = path.relative_to(workspace.checkpoints) if path.is_relative_to(workspace.checkpoints) else Path(path.name)
    with temporary_folder(workspace.cache, "outgoing") as folder:
        _export_with_card(path, folder, tasks, license_)
        show(upload(repository, folder, message=f"Upload {name.with_suffix('').as_posix()}", public=public))


def _export_with_card(path: Path, folder: Path, tasks: list[str] | None, licence: str | None) -> None:
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.model_card import find_transfers, model_card
    from lrbench.models.export import export_snapshot
    from lrbench.store.snapshots import read_metadata

    workspace = Workspace.current()
    transfers = find_transfers(path, read_metadata(path), workspace, tasks or ())
    export_snapshot(
        path, folder, lambda header, statistics: model_card(header, statistics, workspace, transfers, licence)
    )
    if transfers.left_out:
        note(f"the model card omits results on your own tasks {some(transfers.left_out)} (--task NAME includes them)")
    if licence is None:
        note("the model card states no license (--license ID states one)")
