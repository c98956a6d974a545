"""Names that are one to a user and two to a file system: Unicode's composed and decomposed forms, and the case of endings."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def unify_unicode_forms(names: Iterable[str]) -> dict[str, str]:
    """For each name, the first of those that differ from it in their Unicode form alone."""
    first: dict[str, str] = {}
    return {name: first.setdefault(unicodedata.normalize("NFC", name), name) for name in names}


def normalize_name(name: str) -> str:
    """What names share that differ in their Unicode form, or in the case of their ending."""
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + ending.lower()


class PathLookup:
    """Files of a folder by names that are alike; each folder in it is listed once.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[str, dict[str, set[str]]] = {}

    def find(self, path: str) -> str | None:
        """The path of the file that is there, which may be spelt differently; None where none is, or several are alike."""
        if os.path.isfile(self._root / path):
            return path
        found = ""
        for part in path.split("/"):
            names = self._listing(found).get(normalize_name(part), set())
            if part not in names and len(names) != 1:
                return None
            found = os.path.join(found, part if part in names else next(iter(names)))
        return found if os.path.isfile(self._root / found) else None

    def _listing(self, folder: str) -> dict[str, set[str]]:
        if folder not in self._listings:
            listing: dict[str, set[str]] = {}
            try:
                for name in [*os.listdir(self._root / folder), ".", ".."]:
                    listing.setdefault(normalize_name(name), set()).add(name)
            except OSError:
                # No folder, or none that may be read: nothing is found in it.
                pass
            self._listings[folder] = listing
        return self._listings[folder]
