"""Reading the text files that name images: split lists and the lists of the `lists` layout."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from lrbench.errors import InputError
from lrbench.registry.loading import task_folders
from lrbench.registry.task import ListedSplit, Task


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; empty lines and the mark of a byte order are passed over.

    Only line feeds end a line (with a carriage return before them, or none): names may hold spaces and anything else.
    The last line needs no end.

    Raises:
        InputError: The file is not text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file (UTF-8): {error.reason} at byte {error.start}.") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line]


def hash_problem(path: Path, pinned: str) -> str | None:
    """A clause that says that a file does not have its pinned hash (`md5:…` or `sha256:…`), or None."""
    algorithm, _, expected = pinned.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found == expected:
        return None
    return (
        f"{path} is not the list that the task pins ({algorithm} {found}, not {expected}); it was cut short or edited"
    )


def read_test_list(task: Task, split: ListedSplit, beside: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Read the shipped list of a `listed` split.

    Args:
        task: The task, for messages.
        split: The split's description.
        beside: Folders to look in after those of the task files.

    Returns:
        The lines, without comments (`#`), and problems (another hash than the task pins).

    Raises:
        InputError: The list is nowhere, or names an image twice.
    """
    # The hash in the TOML says which list is meant, so it does not matter where it is found.
    tried = [folder / split.test for folder in (*task_folders(), *beside)]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise InputError(
            f"the split list {split.test!r} of task {task.name} was not found. Looked at: "
            f"{'; '.join(map(str, tried))}. It belongs beside the task's TOML file, in a folder of LRBENCH_TASKS."
        )
    problem = hash_problem(path, f"sha256:{split.sha256}")
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    refuse_twice(task, path, lines)
    return lines, [problem] if problem else []


def refuse_twice(task: Task, path: Path, names: Sequence[str]) -> None:
    """Refuse a list that names an image twice: it would be counted twice.

    Raises:
        InputError: Names the image.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path} of task {task.name} names {name!r} twice. Get the original list again.")
        seen.add(name)


def refuse_outside(path: Path, name: str) -> None:
    """Refuse a listed name that leads out of the folder of the images.

    Raises:
        InputError: Names the line.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"{path} names {name!r}, which leads out of the folder of the images. Correct that line.")
