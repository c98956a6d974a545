"""Task and suite files by name: the shipped ones, those of plug-ins, in `LRBENCH_TASKS`, and those that suites name."""

import importlib.resources
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from lrbench.config import own_tasks
from lrbench.config.explain import suggestion
from lrbench.config.plugins import task_folders_of_plugins
from lrbench.config.strict import name_problem
from lrbench.config.task import Task
from lrbench.config.toml_files import read_toml
from lrbench.core.errors import InputError
from lrbench.core.files import user_path

Kind = Literal["task", "suite", "study"]
_Stamp = tuple[str, int, int]
# Keys that only files of one kind have.
_KIND_KEYS: dict[Kind, tuple[str, ...]] = {
    "task": ("files", "like"),
    "suite": ("schedule", "targets"),
    "study": ("suites", "like"),
}
_SHIPPED = {
    "lrbench.tasks": "tasks",
    "lrbench.suites": "benchmark/suites",
    "lrbench.study_files": "benchmark/studies",
}


@dataclass(frozen=True, kw_only=True)
class RegisteredFile:
    """A TOML file of a task or suite.

    Attributes:
        path: The file.
        name: The `name` in it.
        twin: A file with the same name and different content, if there is one.
    """

    path: Path
    name: str
    twin: Path | None = None


def shipped_folder(package: str) -> Path:
    """Return the folder of the TOML files shipped as one of the packages in `_SHIPPED`.

    Raises:
        InputError: lrbench is neither installed nor run from its source tree.
    """
    try:
        return Path(str(importlib.resources.files(package)))
    except ModuleNotFoundError as error:
        # A source tree without installation has them next to the package.
        checkout = Path(__file__).resolve().parents[2]
        folder = checkout / _SHIPPED[package]
        if (checkout / "setup.cfg").is_file() and folder.is_dir():
            return folder
        raise InputError(
            f"{package} was not found next to {checkout / 'lrbench'}. Install lrbench from its source folder: `pip install .`."
        ) from error


def is_path(name_or_path: str) -> bool:
    """Return True for the path of a TOML file, False for the name of a task or suite."""
    return name_or_path.endswith(".toml") or os.sep in name_or_path


def is_shipped(task: Task) -> bool:
    """Return True if a task is shipped with lrbench."""
    return task.folder == shipped_folder("lrbench.tasks")


def task_folders() -> tuple[Path, ...]:
    """Return the folder of the shipped tasks, those of plug-ins, then the folders in `LRBENCH_TASKS`.

    Raises:
        InputError: `LRBENCH_TASKS` names something that is not a folder.
    """
    added = tuple(user_path(part) for part in os.environ.get("LRBENCH_TASKS", "").split(os.pathsep) if part)
    for folder in added:
        if not os.path.isdir(folder):
            raise InputError(
                f"LRBENCH_TASKS names {folder}, which is not a folder. List folders of task TOML files, separated by "
                f"{os.pathsep!r}."
            )
    return (shipped_folder("lrbench.tasks"), *task_folders_of_plugins(), *added)


def find_tasks() -> dict[str, RegisteredFile]:
    """Return the files of all known tasks by name: the registered ones and those that suites name by file."""
    files = find_registered_tasks()
    for name, path in own_tasks.remembered().items():
        if path.is_file():
            files.setdefault(name, RegisteredFile(path=path, name=name))
    return files


def find_registered_tasks() -> dict[str, RegisteredFile]:
    """Return the files of the tasks in `task_folders` by name."""
    return _scan(task_folders())[0]


def broken_tasks() -> list[str]:
    """Return the problems of files in `task_folders` from which no name can be read."""
    return _scan(task_folders())[1]


def find_groups() -> dict[str, list[str]]:
    """Return the names of the tasks of every group, in the order of their files; groups are named by `groups` in the tasks."""
    groups: dict[str, list[str]] = {}
    for name, file in find_tasks().items():
        named = read_toml(file.path).get("groups", [])
        for group in named if isinstance(named, list) else []:
            groups.setdefault(str(group), []).append(name)
    return dict(sorted(groups.items()))


def tasks_named(names: Sequence[str]) -> list[str]:
    """Return tasks without repetition, given groups, names and paths of tasks, each several separated by commas.

    Raises:
        InputError: A group and a task have the same name.
    """
    groups, tasks = find_groups(), find_tasks()
    found: list[str] = []
    for name in (part.strip() for text in names for part in text.split(",")):
        if name in groups and name in tasks:
            raise InputError(
                f"{name!r} is the name of a task and of a group of tasks. Rename the group in the tasks' TOML files."
            )
        found += groups.get(name, [name])
    return list(dict.fromkeys(found))


def find_suites() -> dict[str, RegisteredFile]:
    """Return the files of the shipped suites by name."""
    return _scan((shipped_folder("lrbench.suites"),))[0]


def find_studies() -> dict[str, RegisteredFile]:
    """Return the files of the shipped studies by name."""
    return _scan((shipped_folder("lrbench.study_files"),))[0]


def study_path(name_or_path: str) -> Path:
    """Return the TOML file of a study, given its name or path.

    Raises:
        InputError: There is no such study.
    """
    return _locate("study", name_or_path, find_studies, list)


def suite_path(name_or_path: str) -> Path:
    """Return the TOML file of a suite, given its name or path.

    Raises:
        InputError: There is no such suite.
    """
    return _locate("suite", name_or_path, find_suites, list)


def task_path(name_or_path: str, source: str = "") -> Path:
    """Return the TOML file of a task, given its name or path.

    Args:
        name_or_path: A registered name, or the path of a TOML file.
        source: Key or option that gives it, for errors; empty for the command line.

    Raises:
        InputError: There is no such task.
    """
    return _locate("task", name_or_path, find_tasks, broken_tasks, source)


def refuse_other_kind(kind: Kind, content: dict[str, Any], path: Path) -> None:
    """Refuse a suite's content where a task is expected, and the reverse.

    Raises:
        InputError: The content is of the other kind.
    """
    other: Kind = "suite" if kind == "task" else "task"
    if not content.keys() & set(_KIND_KEYS[kind]) and content.keys() & set(_KIND_KEYS[other]):
        raise InputError(_other_kind_problem(kind, path))


def refuse_duplicate(name: str, path: Path, registered: Mapping[str, RegisteredFile]) -> None:
    """Refuse a file with the name of a registered one and different content.

    Args:
        name: The name in the file.
        path: The file.
        registered: The registered files of its kind by name.

    Raises:
        InputError: Another file has the name.
    """
    twin = registered.get(name)
    if twin is not None and twin.path.resolve() != path.resolve() and read_toml(twin.path) != read_toml(path):
        raise InputError(
            f"{path} has the name {name!r} of {twin.path}, so that their results would mix. Give it another `name`."
        )


def _scan(folders: Sequence[Path]) -> tuple[dict[str, RegisteredFile], list[str]]:
    """Return the files by name, and the problems of those without a name."""
    files, broken = _scan_stamped(tuple(stamp for folder in folders for stamp in _stamps(folder)))
    return dict(files), list(broken)


def _stamps(folder: Path) -> list[_Stamp]:
    """Return the path of each TOML file of a folder with its modification time and size, which are 0 if it cannot be read."""
    stamps = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".toml"):
                try:
                    status = entry.stat()
                except OSError:
                    stamps.append((entry.path, 0, 0))
                else:
                    stamps.append((entry.path, status.st_mtime_ns, status.st_size))
    return sorted(stamps)


# Every cell of a plan looks up its task, so that a scan whose files have not changed is remembered.
@lru_cache(maxsize=8)
def _scan_stamped(stamps: tuple[_Stamp, ...]) -> tuple[dict[str, RegisteredFile], list[str]]:
    files: dict[str, RegisteredFile] = {}
    broken = []
    for text, *_ in stamps:
        path = Path(text)
        try:
            name = read_toml(path).get("name")
        except InputError as error:
            broken.append(str(error))
            continue
        if not isinstance(name, str):
            broken.append(f'{path}: the key `name` is missing. The file starts with `name = "…"`.')
        elif problem := name_problem(name):
            broken.append(f"{path}: `name` {problem}.")
        elif name in files:
            if read_toml(path) != read_toml(files[name].path):
                files[name] = replace(files[name], twin=path)
        else:
            files[name] = RegisteredFile(path=path, name=name)
    return files, broken


def _listing(kind: Kind) -> str:
    return "`lrbench study` lists all studies" if kind == "study" else f"`lrbench {kind}s` lists all {kind}s"


def _locate(
    kind: Kind,
    name_or_path: str,
    find: Callable[[], dict[str, RegisteredFile]],
    find_broken: Callable[[], list[str]],
    source: str = "",
) -> Path:
    where = f"{source}: " if source else ""
    if is_path(name_or_path):
        path = user_path(name_or_path)
        if os.path.isdir(path):
            raise InputError(f"{where}{path} is a folder. Give the {kind}'s TOML file.")
        if not os.path.exists(path):
            raise InputError(
                f"{where}there is no {kind} file {path}. Give the path of a TOML file, or a name: {_listing(kind)}."
            )
        return path
    files = find()
    if name_or_path not in files:
        if kind != "study" and name_or_path in (find_suites() if kind == "task" else find_tasks()):
            raise InputError(_other_kind_problem(kind, name_or_path))
        if kind == "task" and (removed := own_tasks.remembered().get(name_or_path)):
            raise InputError(
                f"{where}there is no task file {removed}, which the suite names. Restore it, or change the suite."
            )
        file = f"{name_or_path}.toml"
        hint = f" A file {file} is here: give its path." if os.path.isfile(file) else suggestion(name_or_path, files)
        known = _listing(kind) if hint else f"Known: {', '.join(sorted(files))}"
        advice = "or add the folder of its TOML file to LRBENCH_TASKS" if source else "or give the path of a TOML file"
        unreadable = "".join(f" An unreadable file may be the one: {problem}" for problem in find_broken())
        raise InputError(f"{where}there is no {kind} called {name_or_path!r}.{hint} {known}; {advice}.{unreadable}")
    file_of_name = files[name_or_path]
    if file_of_name.twin is not None:
        raise InputError(
            f"two {kind}s are called {name_or_path!r}: {file_of_name.path} and {file_of_name.twin}. Give one of them another "
            "`name`."
        )
    return file_of_name.path


def _other_kind_problem(kind: Kind, name: str | Path) -> str:
    if kind == "suite":
        return (
            f"{name} is a task, not a suite. `lrbench transfer --snapshot REF --task {name}` transfers to it; a suite names it "
            "among its targets."
        )
    return f"{name} is a suite, not a task. `lrbench run {name}` runs it; `lrbench tasks` lists the tasks."
