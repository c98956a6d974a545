"""`lrbench snapshots list` and `show`: snapshots and their metadata."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lrbench.cli.common import JsonOption, emit_json, note, show
from lrbench.cli.snapshots.reference import ReferenceArgument, SuiteOption, find_snapshots, snapshot_file


def list_(
    suite: Annotated[str | None, typer.Argument(metavar="SUITE", help="Only snapshots of this suite.")] = None,
    json_: JsonOption = False,
) -> None:
    """List the snapshots."""
    from lrbench.core.workspace import Workspace

    rows = [_row(path, name) for path, name in find_snapshots(Workspace.current(), suite)]
    if json_:
        emit_json(rows)
        return
    from tabulate import tabulate

    if not rows:
        note("there are no snapshots. Run `lrbench pretrain` to make some.")
        return
    shown = [
        {
            "snapshot": row["snapshot"],
            "network": row.get("architecture", ""),
            "epoch": "" if row.get("epoch") is None else row["epoch"],
            "rate": "" if row.get("rate") is None else f"{row['rate']:g}",
            "source": "" if row.get("source_accuracy") is None else f"{100 * row['source_accuracy']:.1f} %",
            "note": row.get("problem", ""),
        }
        for row in rows
    ]
    show(tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True))


def show_(reference: ReferenceArgument, suite: SuiteOption = None) -> None:
    """Print a snapshot's metadata as JSON."""
    from lrbench.store.snapshots import batchnorm_mode, identity, read_metadata

    path = snapshot_file(reference, suite)
    metadata = read_metadata(path)
    emit_json(
        {
            **metadata.model_dump(mode="json"),
            "path": str(path),
            "sha256": identity(path),
            "batchnorm": batchnorm_mode(path, metadata),
            "header": "checked" if metadata.checked else "unchecked",
        }
    )


def _row(path: Path, name: str) -> dict[str, Any]:
    from lrbench.core.errors import InputError
    from lrbench.store.snapshots import read_metadata

    try:
        metadata = read_metadata(path)
    except InputError as error:
        return {"snapshot": name, "path": str(path), "problem": str(error)}
    keep = {"architecture", "epoch", "update", "rate", "source_accuracy", "suite", "arm", "stage", "seed"}
    return {"snapshot": name, "path": str(path), **metadata.model_dump(mode="json", include=keep)}
