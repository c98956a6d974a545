"""Marker file of a completely unpacked folder, with the hashes of the lists in it.

The hash of an archive is checked before it is unpacked. The marker lets later runs check that the official split lists have
not changed since.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from lrbench.config.files import IndexedFiles, ListsFiles, TableFiles, TorchvisionFiles
from lrbench.config.registry import is_shipped
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import read_json, sha256_file, write_json
from lrbench.data.layouts.data_folder import candidates
from lrbench.data.layouts.list_files import describe_hash_mismatch

MARKER = ".lrbench-fetched.json"
"""File name of the marker."""
# Split lists are text files, Food-101's are JSON. Larger files are annotations that lrbench does not read.
_LIST_ENDINGS = (".txt", ".json", ".csv", ".tsv")
_MAX_LIST_BYTES = 16 << 20


def mark_unpacked(folder: Path, *, archive: str, images: int) -> None:
    """Write the marker of a completely unpacked folder.

    Args:
        folder: The unpacked folder.
        archive: File name of the archive.
        images: Number of images in the folder.
    """
    lists = {path.relative_to(folder).as_posix(): sha256_file(path) for path in _find_lists(folder)}
    # JSON cannot hold a name that is not UTF-8, and no task can refer to one.
    write_json(
        folder / MARKER,
        {
            "archive": archive,
            "images": images,
            "lists": {name: digest for name, digest in lists.items() if name.isprintable()},
        },
    )


def is_marked(folder: Path) -> bool:
    """Return whether a folder was unpacked completely by lrbench."""
    return (folder / MARKER).is_file()


def changed_lists(task: Task, data_folder: Path, roots: Sequence[Path]) -> list[str]:
    """Return the lists of a task that have changed since they were unpacked, each as a clause for a message.

    A missing list is not reported, because its reader reports it. Folders without a marker are not checked.

    Args:
        task: The task.
        data_folder: Folder of its data.
        roots: Data roots that are searched.
    """
    problems = []
    advice = "" if is_shipped(task) else f" (if this was intended, delete {MARKER} in its folder)"
    used = _used_lists(task)
    for folder in _marked_folders(task, data_folder, roots):
        marker = _read_marker(folder)
        lists, archive = marker.get("lists"), marker.get("archive")
        for name, expected in lists.items() if isinstance(lists, dict) else ():
            path = folder / name
            if used is not None and path.name not in used:
                continue
            if os.path.isfile(path) and (
                problem := describe_hash_mismatch(path, f"sha256:{expected}", f"was unpacked from {archive}")
            ):
                problems.append(f"{problem}{advice}")
    return problems


def _find_lists(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(_LIST_ENDINGS) and path.is_file() and path.stat().st_size <= _MAX_LIST_BYTES:
                yield path


def _used_lists(task: Task) -> set[str] | None:
    """Return the file names of a task's split lists; None where torchvision chooses them."""
    files = task.files
    if isinstance(files, TorchvisionFiles):
        return None
    names: list[str] = []
    if isinstance(files, ListsFiles | TableFiles):
        settings = [files.train, files.val, files.test, files.file if isinstance(files, TableFiles) else None]
        names = [name for setting in settings if setting for name in candidates(setting)]
    elif isinstance(files, IndexedFiles):
        names = [files.images, files.labels, files.split, files.classes]
    return {PurePosixPath(name).name for name in names}


def _marked_folders(task: Task, data_folder: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the marked folders that contain the data folder or are in it."""
    targets = [data_folder]
    for archive in task.archives:
        if archive.unpacks_to:
            targets.extend(base / archive.into / archive.unpacks_to for base in (data_folder, *roots))
            targets.append(data_folder / archive.unpacks_to)
    related = (path for path in targets if path.is_relative_to(data_folder) or data_folder.is_relative_to(path))
    return [path for path in dict.fromkeys(related) if is_marked(path)]


def _read_marker(folder: Path) -> dict[str, object]:
    """Return the content of a marker; empty if it is damaged or of an earlier version."""
    with suppress(OSError, InputError):
        content = read_json(folder / MARKER, "Delete it.")
        if isinstance(content, dict):
            return content
    return {}
