"""Plug-ins: tasks and networks of other installed packages, found by their entry points.

An entry point of group `lrbench.tasks` names a package whose folder holds task TOML files. One of group `lrbench.models`
names a function that returns a network, which `python:NAME` refers to. Nothing is imported before it is used.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

GROUPS = ("lrbench.tasks", "lrbench.models")
"""Groups of entry points."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One entry point.

    Attributes:
        group: One of `GROUPS`.
        name: Its name.
        value: What it names: a package, or `package.module:function`.
        origin: Distribution and version that brings it.
        folder: Folder of a package of tasks; None for networks and for broken plug-ins.
        problem: Why it cannot be used; None if nothing is known to be wrong.
    """

    group: str
    name: str
    value: str
    origin: str
    folder: Path | None = None
    problem: str | None = None


@lru_cache(maxsize=1)
def plugins() -> tuple[Plugin, ...]:
    """Return all plug-ins, sorted by group and name. They are looked up once in a process."""
    found = []
    for group in GROUPS:
        for entry in entry_points(group=group):
            origin = "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
            folder, problem = _folder(entry.value) if group == "lrbench.tasks" else (None, _problem(entry.value))
            found.append(
                Plugin(group=group, name=entry.name, value=entry.value, origin=origin, folder=folder, problem=problem)
            )
    return tuple(sorted(found, key=lambda plugin: (plugin.group, plugin.name, plugin.origin)))


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
    module, colon, function = value.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), function)):
        return None
    return f"{value} is not written as package.module:function"
