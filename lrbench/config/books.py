"""Names of tasks with a code book: `ps10-k4-book7` is the generated task `ps10-k4` with `files.options.book = 7`."""

import re
from typing import Any

from lrbench.core.errors import InputError

_BOOK = re.compile(r"(?P<task>.+)-book(?P<book>0|[1-9]\d{0,5})")


def book_name(task: str, book: int) -> str:
    """Return the name of a task with another code book."""
    return f"{task}-book{book}"


def split_book(name: str) -> tuple[str, int | None]:
    """Return the name of a task without its code book, and the book; None for a name without one."""
    match = _BOOK.fullmatch(name)
    return (name, None) if match is None else (match["task"], int(match["book"]))


def with_book(content: dict[str, Any], book: int) -> dict[str, Any]:
    """Return the content of a task with a code book.

    Raises:
        InputError: The task's generator has no code books.
    """
    files, name = content.get("files"), content["name"]
    if not isinstance(files, dict) or files.get("generator") != "ps10":
        raise InputError(
            f"{book_name(name, book)}: {name} has no code books. Remove -book{book}, or choose a task of generator ps10."
        )
    changed = {
        "name": book_name(name, book),
        "files": {**files, "options": {**files.get("options", {}), "book": book}},
    }
    if title := content.get("title"):
        changed["title"] = f"{title}, book {book}"
    return {**content, **changed}
