"""Task files that a suite names: known by their tasks' names to every process that has the suite."""

from collections.abc import Mapping
from pathlib import Path

_paths: dict[str, Path] = {}


def remember(files: Mapping[str, str]) -> None:
    """Make tasks known by name in this process.

    Args:
        files: The TOML file of each task.
    """
    _paths.update({name: Path(path) for name, path in files.items()})


def remembered() -> Mapping[str, Path]:
    """The TOML file of each task that a suite of this process names."""
    return _paths
