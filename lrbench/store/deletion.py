"""Deletion of a snapshot and the files that belong to it."""

import os
from dataclasses import dataclass
from pathlib import Path

from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.files import sync_folder, writing
from lrbench.core.locks import locked
from lrbench.core.workspace import Workspace
from lrbench.store.snapshots import batchnorm_path, progress_path, read_metadata, snapshot_files, state_path


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Files that deleting a snapshot removes, and snapshots that depend on it.

    Attributes:
        path: The snapshot.
        files: Its files that exist, the weights first.
        children: Snapshots that were made from it, directly or through others.
    """

    path: Path
    files: tuple[Path, ...]
    children: tuple[Path, ...]


def plan_deletion(path: Path, workspace: Workspace) -> Deletion:
    """Find the files of a snapshot and the snapshots made from it. Nothing is deleted.

    Raises:
        InputError: The snapshot is missing, or it is not in this workspace.
    """
    absolute, root = Path(os.path.abspath(path)), Path(os.path.abspath(workspace.checkpoints))
    is_weights = absolute.suffix == ".safetensors" and not absolute.name.endswith(".bn.safetensors")
    if not is_weights or not absolute.is_relative_to(root):
        raise InputError(
            f"{path} is not a snapshot in {workspace.checkpoints}, so lrbench does not delete it. Name a snapshot that "
            "`lrbench snapshots list` shows, or delete the file yourself."
        )
    parts = (path, batchnorm_path(path), state_path(path), progress_path(path))
    files = tuple(part for part in parts if os.path.lexists(part) and not part.is_dir())
    if not files:
        raise InputError(f"there is no snapshot {path}. `lrbench snapshots list` shows those that exist.")
    return Deletion(path=path, files=files, children=_descendants(path))


def delete(deletion: Deletion, control: Control) -> None:
    """Delete a snapshot's files, the weights first, because they mark a snapshot as complete.

    Raises:
        LrbenchError: A file cannot be deleted, or the command was stopped while another process makes the snapshot.
    """
    with locked(deletion.path, control):
        for file in deletion.files:
            with writing(file):
                file.unlink(missing_ok=True)
        sync_folder(deletion.path.parent)


def _descendants(path: Path) -> tuple[Path, ...]:
    """Return the snapshots that were made from a snapshot by their headers, parents first."""
    folders = Path(os.path.abspath(path)).parents
    if len(folders) < 3 or not folders[0].name.startswith("seed"):
        return ()
    parents: dict[Path, str] = {}
    for other in snapshot_files(folders[2]):
        try:
            parents[other] = read_metadata(other).parent or ""
        except InputError:
            # A damaged snapshot is useless with its parent, too.
            continue
    descendants: dict[Path, None] = {}
    names = [_name(Path(os.path.abspath(path)), folders[2])]
    # The list grows while it is iterated.
    for name in names:
        children = [child for child, parent in parents.items() if parent == name and child not in descendants]
        descendants.update(dict.fromkeys(children))
        names.extend(_name(child, folders[2]) for child in children)
    return tuple(descendants)


def _name(path: Path, suite_folder: Path) -> str:
    return str(path.relative_to(suite_folder).with_suffix(""))
