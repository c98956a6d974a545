"""Task files that suites name, known by task name to every process that has the suite."""

from collections.abc import Mapping
from pathlib import Path

_paths: dict[str, Path] = {}


def remember(files: Mapping[str, str]) -> None:
    """Register task files in this process.

    Args:
        files: TOML file by task name.
    """
    _paths.update({name: Path(path) for name, path in files.items()})


def remembered() -> Mapping[str, Path]:
    """Return the TOML files of the tasks that suites of this process name, by task name."""
    return _paths
