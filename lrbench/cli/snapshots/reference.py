"""Snapshots named on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="stage2, arm/stage2, suite/arm/seed1/stage2, or a .safetensors file.")
]
SuiteOption = Annotated[
    str | None,
    typer.Option(
        "--suite", metavar="SUITE", help="Suite of a snapshot named without one. [default: the one pretrained last]"
    ),
]


def snapshot_file(reference: str, suite: str | None) -> Path:
    """Return the file of a named snapshot.

    Raises:
        InputError: There is no such file.
    """
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.store.references import SuiteSnapshot, WeightsFile, missing_message, resolve_reference

    parsed = resolve_reference(reference, Workspace.current(), suite=suite)
    if not isinstance(parsed, SuiteSnapshot | WeightsFile):
        raise InputError(
            f"{reference} is not a file on this machine. Name a snapshot of a suite, or a .safetensors file."
        )
    if not parsed.path.is_file():
        raise InputError(f"{missing_message(parsed)} `lrbench snapshots list` lists the existing ones.")
    return parsed.path


def find_snapshots(workspace: Any, suite: str | None) -> list[tuple[Path, str]]:
    """Return the path and name of all snapshots, or of those of one suite.

    Raises:
        InputError: The suite has no snapshots.
    """
    from lrbench.config import suggestion
    from lrbench.core.errors import InputError
    from lrbench.store.snapshots import snapshot_files

    root = workspace.checkpoints
    if suite is not None and not (root / suite).is_dir():
        known = sorted(path.name for path in root.glob("*/") if any(path.glob("**/*.safetensors")))
        advice = f" Suites with snapshots: {', '.join(known)}." if known else " Run `lrbench pretrain` to make some."
        raise InputError(
            f"There are no snapshots of suite {suite!r} in {root.absolute()}.{suggestion(suite, known)}{advice}"
        )
    folders = [root / suite] if suite else sorted(root.glob("*/"))
    paths = sorted(path for folder in folders for path in snapshot_files(folder))
    return [(path, str(path.relative_to(root).with_suffix(""))) for path in paths]
