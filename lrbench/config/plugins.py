"""Plug-ins of other installed packages, named by their entry points.

An entry point of group `lrbench.tasks` names a package whose folder holds task TOML files. One of group `lrbench.models`
names a function that returns a network, which `python:NAME` refers to. Neither is imported before it is used. Entry points of
groups `lrbench.protocols` and `lrbench.arms` name records, which `lrbench.config.records` loads.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

GROUPS = ("lrbench.tasks", "lrbench.models", "lrbench.protocols", "lrbench.arms")
"""Groups of entry points."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One entry point.

    Attributes:
        group: One of `GROUPS`.
        name: Its name.
        value: What it names: a package, or an object as `package.module:name`.
        distribution: Distribution that brings it.
        version: Version of the distribution.
        folder: Folder of a package of tasks; None for other groups and for broken plug-ins.
        problem: Why it cannot be used; None if nothing is known to be wrong.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str
    folder: Path | None = None
    problem: str | None = None

    @property
    def origin(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}"


@lru_cache(maxsize=1)
def plugins() -> tuple[Plugin, ...]:
    """Return all plug-ins, sorted by group and name. They are looked up once in a process."""
    known = []
    for group in GROUPS:
        for entry in entry_points(group=group):
            folder, problem = _folder(entry.value) if group == "lrbench.tasks" else (None, _problem(entry.value))
            known.append(
                Plugin(
                    group=group,
                    name=entry.name,
                    value=entry.value,
                    distribution="unknown" if entry.dist is None else entry.dist.name,
                    version="unknown" if entry.dist is None else entry.dist.version,
                    folder=folder,
                    problem=problem,
                )
            )
    return tuple(sorted(known, key=lambda plugin: (plugin.group, plugin.name, plugin.origin)))


def task_folders_of_plugins() -> tuple[Path, ...]:
    """Return the folders of tasks that other packages bring."""
    return tuple(plugin.folder for plugin in plugins() if plugin.folder is not None)


def network_function(name: str) -> str | None:
    """Return `package.module:function` of the plug-in that gives a network of this name, or None."""
    for plugin in plugins():
        if plugin.group == "lrbench.models" and plugin.name == name and plugin.problem is None:
            return plugin.value
    return None


def network_names() -> list[str]:
    """Return the names of the networks that plug-ins give."""
    return [plugin.name for plugin in plugins() if plugin.group == "lrbench.models" and plugin.problem is None]


def _folder(package: str) -> tuple[Path | None, str | None]:
    try:
        spec = importlib.util.find_spec(package)
    except Exception as error:
        # A parent package may raise anything when it is imported.
        return None, f"{package} cannot be found: {type(error).__name__}: {error}"
    locations = None if spec is None else spec.submodule_search_locations
    folder = next((Path(location) for location in locations or () if Path(location).is_dir()), None)
    return folder, None if folder is not None else f"{package} is not a package with a folder"


def _problem(value: str) -> str | None:
    module, colon, name = value.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), name)):
        return None
    return f"{value} is not written as package.module:name"
