"""`lrbench features`: features of a task's images as a file."""

from pathlib import Path
from typing import Annotated

import typer

from lrbench.cli.common import (
    DataRootOption,
    NoCacheOption,
    PartialOption,
    note,
    show,
    warn,
    warn_of_random_weights,
)


def features(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="stage2, arm/stage2, suite/arm/seed1/stage2, a .safetensors file, timm:NAME, hf-hub:OWNER/NAME or "
            "python:MODULE:FUNCTION.",
        ),
    ],
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A task's name, or the path of a task TOML.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="FILE",
            help="File to write: .parquet with image names, labels, splits and features; or .npy with the features alone, and "
            "the rest in a .csv of the same name.",
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", metavar="SUITE", help="Suite of a snapshot named without one. [default: the one pretrained last]"
        ),
    ] = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Write the features of every image of a task under a snapshot: the input of its classifier, as the probe reads it."""
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.core.files import user_path
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.data.loading import find_task_data
    from lrbench.store.references import resolve_reference

    workspace = Workspace.for_writing()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    parsed = resolve_reference(reference, workspace, suite=suite)
    # Missing data is reported before a network is loaded.
    find_task_data(load_task(task), place.roots)
    from lrbench.transfer.feature_files import write_features

    with showing_progress(f"features {task}") as control:
        written = write_features(parsed, task, user_path(output), place, control)
    note(f"{written.images:,} images, {written.width:,} features each")
    if written.partial:
        warn("the data is incomplete: the file has the features of the existing images.")
    if written.random:
        warn_of_random_weights(parsed.text)
    for file in written.files:
        show(str(file))
