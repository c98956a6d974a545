"""Names of files, classes and columns in messages."""

import os
from collections.abc import Sequence

# Characters of a name in a message.
_LONGEST_SHOWN = 200


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 appear as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """`'a', 'b', 'c', …`: the first names, quoted, for a message."""
    return ", ".join(map(shorten, names[:limit])) + (", …" if len(names) > limit else "")


def shorten(text: str, *, quote: bool = True) -> str:
    """A name or a line for a message, quoted, of which no more than its beginning is shown where it is long."""
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    return repr(cut) if quote else cut
