"""Selection of stored results by name, and their removal."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lrbench.config import suggestion
from lrbench.core.errors import InputError
from lrbench.core.files import remove_file, sync_folder, user_path, writing
from lrbench.core.workspace import Workspace
from lrbench.store.results import is_record, suites_with_results


@dataclass(frozen=True, order=True)
class ResultName:
    """Name of a stored result.

    Attributes:
        suite: Suite, or `foreign`.
        cell: Key of the cell, which is its file name without suffix.
    """

    suite: str
    cell: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.cell}"

    def path(self, workspace: Workspace) -> Path:
        """Return the path of the record."""
        return workspace.results / self.suite / f"{self.cell}.json"


def select_results(workspace: Workspace, patterns: Sequence[str]) -> list[ResultName]:
    """Return the results that patterns match, sorted. No file is read.

    Args:
        workspace: The workspace.
        patterns: `SUITE/CELL`, `CELL` of any suite, `SUITE`, or the path of a record; with `*`, `?` and `[…]` as in a shell.
            All results if empty.

    Raises:
        InputError: A pattern matches nothing.
    """
    known = [
        ResultName(suite, name.removesuffix(".json"))
        for suite in suites_with_results(workspace.results)
        for name in os.listdir(workspace.results / suite)
        if is_record(name)
    ]
    selected: set[ResultName] = set() if patterns else set(known)
    for pattern in patterns:
        matched = {name for name in known if _matches(name, pattern, workspace)}
        if not matched:
            names = [*{name.suite for name in known}, *map(str, known), *(name.cell for name in known)]
            raise InputError(
                f"no result in {workspace.results} is named {pattern!r}.{suggestion(pattern, names)} "
                "`lrbench results list` shows the names of all results."
            )
        selected |= matched
    return sorted(selected)


def _matches(name: ResultName, pattern: str, workspace: Workspace) -> bool:
    if fnmatchcase(str(name), pattern) or pattern in (name.suite, name.cell) or fnmatchcase(name.cell, pattern):
        return True
    return pattern.endswith(".json") and user_path(pattern).absolute() == name.path(workspace).absolute()


def remove_results(workspace: Workspace, names: Sequence[ResultName]) -> None:
    """Remove results: of each, the record first, because it marks the predictions as complete.

    The suite as run is removed with the last result of its folder.

    Raises:
        LrbenchError: A file cannot be removed.
    """
    for name in names:
        path = name.path(workspace)
        remove_file(path)
        remove_file(path.with_suffix(".parquet"))
    for suite in sorted({name.suite for name in names}):
        folder = workspace.results / suite
        with writing(folder):
            if not any(map(is_record, os.listdir(folder))):
                remove_file(folder / "suite.json")
            if os.listdir(folder):
                sync_folder(folder)
            else:
                folder.rmdir()
