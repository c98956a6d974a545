"""Names of files, classes and columns in messages."""

import os
from collections.abc import Sequence

# Characters of a name in a message.
_LONGEST_SHOWN = 200


def printable(name: str) -> str:
    """Return a file name as text that can be written anywhere; bytes that are not UTF-8 become `\\xe9`."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names, quoted: `'a', 'b', 'c', …`."""
    return ", ".join(map(shorten, names[:limit])) + (", …" if len(names) > limit else "")


def shorten(text: str, *, quote: bool = True) -> str:
    """Return a name or a line for a message, cut after 200 characters."""
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    return repr(cut) if quote else cut
