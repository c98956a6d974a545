"""Text files that name images: split lists, and the lists of the `lists` layout."""

import hashlib
import os
import posixpath
from collections.abc import Container, Sequence
from pathlib import Path

from lrbench.config.registry import task_folders
from lrbench.config.splits import ListedSplit
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes
from lrbench.data.layouts.display import shorten

MOST_LIST_BYTES = 256 << 20
"""Limit on a file that names images or classes: about six million names."""
# Characters in a line, and digits in a number.
_LONGEST_LINE, _DIGITS = 8192, 19


def read_text(path: Path) -> str:
    """Return the text of a list or a table, without a byte-order mark.

    Raises:
        InputError: It is not a regular file, not UTF-8, or too large.
    """
    try:
        content = read_bytes(path, limit=MOST_LIST_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}. Copy it again.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        form = "as CSV in UTF-8" if path.suffix.lower() in (".csv", ".tsv") else "in UTF-8"
        kind = " (it looks like UTF-16)" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        raise InputError(
            f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}{kind}. Save it {form}."
        ) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without line ends and byte-order mark.

    Only line feeds end a line, with or without a carriage return: names may contain spaces and any other character.

    Raises:
        InputError: The file is not text, or a line is too long to name an image.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    long = next((number for number, line in enumerate(lines, start=1) if len(line) > _LONGEST_LINE), None)
    if long is not None:
        raise InputError(
            f"{path}, line {long}: the line has {len(lines[long - 1]):,} characters, more than the limit of "
            f"{_LONGEST_LINE:,}. Get the original list."
        )
    return [line for line in lines if line]


def is_number(text: str) -> bool:
    """Return whether a text is a non-negative whole number of at most 18 digits."""
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS


def describe_hash_mismatch(path: Path, pinned: str, which: str = "the task pins") -> str | None:
    """Return a clause if a file does not have its pinned hash (`md5:…` or `sha256:…`), else None.

    Args:
        path: The list.
        pinned: Its hash.
        which: Words after `the list that`, for the message.
    """
    algorithm, _, expected = pinned.partition(":")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, algorithm).hexdigest()
    if actual == expected:
        return None
    return f"{path} is not the list that {which} ({algorithm} {actual}, not {expected}); it was truncated or edited"


def read_test_list(
    task: Task, split: ListedSplit, folders: Sequence[Path], images: Container[str]
) -> tuple[list[str], list[str]]:
    """Read the list of a `listed` split.

    Args:
        task: The task. The list is looked for next to its TOML first, then next to those of the registered tasks.
        split: The split's description.
        folders: Further folders to look in.
        images: Existing images, as `class/file`. They are never comments: a class name may begin with `#`.

    Returns:
        The lines after the comments at the top, which begin with `# `, and problems (a hash that the task does not pin).

    Raises:
        InputError: The list was not found, or names an image twice.
    """
    own = () if task.folder is None else (task.folder,)
    # The hash in the TOML identifies the list, so any folder will do.
    tried = [folder / split.test for folder in dict.fromkeys((*own, *task_folders(), *folders))]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise InputError(
            f"the split list {split.test!r} of task {task.name} was not found. Looked at: {'; '.join(map(str, tried))}. Put "
            "it next to the task's TOML file."
        )
    problem = describe_hash_mismatch(path, f"sha256:{split.sha256}")
    lines = read_lines(path)
    start = 0
    while start < len(lines) and (lines[start] + " ").startswith("# ") and lines[start] not in images:
        start += 1
    reject_duplicates(task, path, lines[start:])
    return lines[start:], [problem] if problem else []


def reject_duplicates(task: Task, path: Path, names: Sequence[str]) -> None:
    """Reject a list that names an image twice, since the image would count twice.

    Raises:
        InputError: Names the image.
    """
    seen: set[str] = set()
    for name in names:
        plain = posixpath.normpath(name)
        if plain in seen:
            raise InputError(f"{path} of task {task.name} names {shorten(name)} twice. Get the original list.")
        seen.add(plain)


def reject_outside_path(path: Path, name: str, line: int | None = None) -> None:
    """Reject a listed name that is outside the image folder.

    Raises:
        InputError: Names the line.
    """
    where = f"{path}, line {line}," if line else f"{path}"
    if name.startswith("/") or name[1:3] == ":/":
        raise InputError(f"{where} names {shorten(name)}, an absolute path. Make it relative to the image folder.")
    if ".." in name.split("/"):
        raise InputError(f"{where} names {shorten(name)}, which is outside the image folder. Correct that line.")
