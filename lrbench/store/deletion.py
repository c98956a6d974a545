"""Deleting a snapshot with the files that belong to it, after finding out what was made from it."""

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
    """What deleting a snapshot comes to.

    Attributes:
        path: The snapshot.
        files: Its files that exist, the weights first.
        children: Snapshots of its run that were made from it, directly or through others.
    """

    path: Path
    files: tuple[Path, ...]
    children: tuple[Path, ...]


def plan_deletion(path: Path, workspace: Workspace) -> Deletion:
    """Find the files of a snapshot and what was made from it; nothing is deleted.

    Raises:
        InputError: It is missing, or it is not a snapshot in this workspace.
    """
    place, root = Path(os.path.abspath(path)), Path(os.path.abspath(workspace.checkpoints))
    if not place.is_relative_to(root) or place.suffix != ".safetensors" or place.name.endswith(".bn.safetensors"):
        raise InputError(
            f"{path} is not a snapshot in {workspace.checkpoints}, so lrbench does not delete it. Name a snapshot that "
            "`lrbench snapshots list` shows, or delete the file yourself."
        )
    parts = (path, batchnorm_path(path), state_path(path), progress_path(path))
    files = tuple(part for part in parts if os.path.lexists(part) and not part.is_dir())
    if not files:
        raise InputError(f"there is no snapshot {path}. `lrbench snapshots list` shows those that exist.")
    return Deletion(path=path, files=files, children=_made_from(path))


def delete(deletion: Deletion, control: Control) -> None:
    """Delete a snapshot's files, the weights first: without them the rest counts for nothing.

    Raises:
        LrbenchError: A file cannot be deleted, or the command was stopped while another process makes the snapshot.
    """
    with locked(deletion.path, control):
        for file in deletion.files:
            with writing(file):
                file.unlink(missing_ok=True)
        sync_folder(deletion.path.parent)


def _made_from(path: Path) -> tuple[Path, ...]:
    """What headers name as made from a snapshot, in the order in which it was made."""
    folders = Path(os.path.abspath(path)).parents
    if len(folders) < 3 or not folders[0].name.startswith("seed"):
        return ()
    parents: dict[Path, str] = {}
    for other in snapshot_files(folders[2]):
        try:
            parents[other] = read_metadata(other).parent or ""
        except InputError:
            # A damaged one is of no use with its parent, either.
            continue
    found: dict[Path, None] = {}
    names = [_name(Path(os.path.abspath(path)), folders[2])]
    for name in names:
        for other in (other for other, parent in parents.items() if parent == name and other not in found):
            found[other] = None
            names.append(_name(other, folders[2]))
    return tuple(found)


def _name(path: Path, suite_folder: Path) -> str:
    return str(path.relative_to(suite_folder).with_suffix(""))
