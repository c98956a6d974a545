"""Names that look the same but differ on disk: in composed and decomposed Unicode, and in the case of file endings."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def unify_unicode_forms(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the first of the names that differ from it only in Unicode form."""
    first: dict[str, str] = {}
    return {name: first.setdefault(unicodedata.normalize("NFC", name), name) for name in names}


def normalize_name(name: str) -> str:
    """Return the name in composed Unicode with its ending in lower case."""
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + ending.lower()


class PathLookup:
    """Finds files of a folder by normalized names. Each folder below it is listed once.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[str, dict[str, set[str]]] = {}

    def find(self, path: str) -> str | None:
        """Return the path of the file as it is spelt on disk; None if there is none, or several match equally well."""
        if os.path.isfile(self._root / path):
            return path
        on_disk = ""
        for part in path.split("/"):
            names = self._list_folder(on_disk).get(normalize_name(part), set())
            if part not in names and len(names) != 1:
                return None
            on_disk = os.path.join(on_disk, part if part in names else next(iter(names)))
        return on_disk if os.path.isfile(self._root / on_disk) else None

    def _list_folder(self, folder: str) -> dict[str, set[str]]:
        if folder not in self._listings:
            listing: dict[str, set[str]] = {}
            try:
                for name in [*os.listdir(self._root / folder), ".", ".."]:
                    listing.setdefault(normalize_name(name), set()).add(name)
            except OSError:
                # Missing or unreadable: nothing is found in it.
                pass
            self._listings[folder] = listing
        return self._listings[folder]
