"""Reading the text files that name images: split lists and the lists of the `lists` layout."""

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
"""Of a file that names images or classes: six million names."""
# Characters in a line, and digits in a number.
_LONGEST_LINE, _DIGITS = 8192, 19


def read_text(path: Path) -> str:
    """The text of a list or a table, without the mark of a byte order.

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
        kind = " (it begins as UTF-16 does)" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        raise InputError(
            f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}{kind}. Save it {form}."
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; empty lines and the mark of a byte order are passed over.

    Only line feeds end a line (with a carriage return before them, or none): names may hold spaces and anything else.
    The last line needs no end.

    Raises:
        InputError: The file is not text, or has a line that is too long to name an image.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    long = next((number for number, line in enumerate(lines, start=1) if len(line) > _LONGEST_LINE), None)
    if long is not None:
        raise InputError(
            f"{path}, line {long}: it has {len(lines[long - 1]):,} characters, more than the {_LONGEST_LINE:,} that name an "
            "image. Get the original list again."
        )
    return [line for line in lines if line]


def is_number(text: str) -> bool:
    """Whether a text is a whole number of no more digits than any class has."""
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS


def describe_hash_mismatch(path: Path, pinned: str, which: str = "the task pins") -> str | None:
    """A clause that says that a file does not have its pinned hash (`md5:…` or `sha256:…`), or None.

    Args:
        path: The list.
        pinned: Its hash.
        which: What the list is that has that hash, in words after `the list that`.
    """
    algorithm, _, expected = pinned.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found == expected:
        return None
    return f"{path} is not the list that {which} ({algorithm} {found}, not {expected}); it was cut short or edited"


def read_test_list(
    task: Task, split: ListedSplit, beside: Sequence[Path], images: Container[str]
) -> tuple[list[str], list[str]]:
    """Read the list of a `listed` split.

    Args:
        task: The task: the list is sought beside its TOML, then beside those of the registered tasks.
        split: The split's description.
        beside: Folders to look in after those.
        images: The images that are there, as `class/file`. They are never comments: a class folder's name may begin with `#`.

    Returns:
        The lines after the comments at the head, which begin with `# `; and problems (another hash than the task pins).

    Raises:
        InputError: The list is nowhere, or names an image twice.
    """
    own = () if task.folder is None else (task.folder,)
    # The hash in the TOML says which list is meant, so it does not matter where it is found.
    tried = [folder / split.test for folder in dict.fromkeys((*own, *task_folders(), *beside))]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise InputError(
            f"the split list {split.test!r} of task {task.name} was not found. Looked at: "
            f"{'; '.join(map(str, tried))}. It belongs beside the task's TOML file."
        )
    problem = describe_hash_mismatch(path, f"sha256:{split.sha256}")
    lines = read_lines(path)
    start = 0
    while start < len(lines) and (lines[start] + " ").startswith("# ") and lines[start] not in images:
        start += 1
    reject_duplicates(task, path, lines[start:])
    return lines[start:], [problem] if problem else []


def reject_duplicates(task: Task, path: Path, names: Sequence[str]) -> None:
    """Refuse a list that names an image twice: it would be counted twice.

    Raises:
        InputError: Names the image.
    """
    seen: set[str] = set()
    for name in names:
        plain = posixpath.normpath(name)
        if plain in seen:
            raise InputError(f"{path} of task {task.name} names {shorten(name)} twice. Get the original list again.")
        seen.add(plain)


def reject_outside_path(path: Path, name: str, line: int | None = None) -> None:
    """Refuse a listed name that leads out of the folder of the images.

    Raises:
        InputError: Names the line.
    """
    where = f"{path}, line {line}," if line else f"{path}"
    if name.startswith("/") or name[1:3] == ":/":
        raise InputError(
            f"{where} names {shorten(name)}, a path from the root. Write it relative to the folder of the images."
        )
    if ".." in name.split("/"):
        raise InputError(
            f"{where} names {shorten(name)}, which leads out of the folder of the images. Correct that line."
        )
