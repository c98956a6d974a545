"""The mark in a folder that was unpacked whole, and the hashes of the lists in it as they came out of the archive.

An archive's hash is checked before it is unpacked; from then on these hold its official splits to what it held.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from lrbench.config.loading import is_shipped
from lrbench.config.task import IndexedFiles, ListsFiles, TableFiles, Task, TorchvisionFiles
from lrbench.core.errors import InputError
from lrbench.core.files import read_json, sha256_file, write_json
from lrbench.data.layouts.data_folder import candidates
from lrbench.data.layouts.list_files import describe_hash_mismatch

MARKER = ".lrbench-fetched.json"
"""The mark's file name."""
# Splits are text; the annotations that some archives hold beside them are far larger and none of lrbench's business.
# Food-101's are JSON.
_LIST_ENDINGS = (".txt", ".json", ".csv", ".tsv")
_LARGEST_LIST = 16 << 20


def mark_unpacked(folder: Path, *, archive: str, images: int) -> None:
    """Say in a folder, which readers pass over, that it was unpacked whole.

    Args:
        folder: What was unpacked.
        archive: The archive's file name.
        images: Number of images in it.
    """
    lists = {path.relative_to(folder).as_posix(): sha256_file(path) for path in _lists(folder)}
    # A name that is not UTF-8 cannot be written down, and no task can name it.
    write_json(
        folder / MARKER,
        {
            "archive": archive,
            "images": images,
            "lists": {name: digest for name, digest in lists.items() if name.isprintable()},
        },
    )


def is_marked(folder: Path) -> bool:
    """Whether a folder was unpacked whole."""
    return (folder / MARKER).is_file()


def changed_lists(task: Task, where: Path, roots: Sequence[Path]) -> list[str]:
    """The lists of a task's data that are no longer as they were unpacked, each a clause for a message.

    A list that is gone is not named: a reader that needs it says so. Nothing is known of data unpacked by other means.

    Args:
        task: The task.
        where: Folder in which its data was found.
        roots: Folders in which data is looked for.
    """
    problems = []
    meant = "" if is_shipped(task) else f" (where that was meant, delete {MARKER} in its folder)"
    used = _used(task)
    for folder in _unpacked(task, where, roots):
        told = _read_marker(folder)
        lists, archive = told.get("lists"), told.get("archive")
        for name, expected in lists.items() if isinstance(lists, dict) else ():
            path = folder / name
            if used is not None and path.name not in used:
                continue
            if os.path.isfile(path) and (
                problem := describe_hash_mismatch(path, f"sha256:{expected}", f"was unpacked from {archive}")
            ):
                problems.append(f"{problem} since{meant}")
    return problems


def _lists(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(_LIST_ENDINGS) and path.is_file() and path.stat().st_size <= _LARGEST_LIST:
                yield path


def _used(task: Task) -> set[str] | None:
    """File names of the lists that a task's splits are read from; None where a library knows which these are."""
    files = task.files
    if isinstance(files, TorchvisionFiles):
        return None
    names: list[str] = []
    if isinstance(files, ListsFiles | TableFiles):
        named = [files.train, files.val, files.test, files.file if isinstance(files, TableFiles) else None]
        names = [name for each in named if each for name in candidates(each)]
    elif isinstance(files, IndexedFiles):
        names = [files.images, files.labels, files.split, files.classes]
    return {PurePosixPath(name).name for name in names}


def _unpacked(task: Task, where: Path, roots: Sequence[Path]) -> list[Path]:
    """The marked folders of a task's archives among which its data was found."""
    goals = [where]
    for archive in task.archives:
        if archive.unpacks_to:
            goals.extend(base / archive.into / archive.unpacks_to for base in (where, *roots))
            goals.append(where / archive.unpacks_to)
    near = (goal for goal in goals if goal.is_relative_to(where) or where.is_relative_to(goal))
    return [goal for goal in dict.fromkeys(near) if is_marked(goal)]


def _read_marker(folder: Path) -> dict[str, object]:
    with suppress(OSError, InputError):
        told = read_json(folder / MARKER, "Delete it.")
        if isinstance(told, dict):
            return told
    return {}
