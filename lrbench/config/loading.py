"""Reading TOML files into tasks and suites, with errors that name the file, the key and what was expected."""

import importlib.resources
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lrbench.config import own_tasks
from lrbench.config.explain import explain, suggestion
from lrbench.config.strict import Strict, name_problem
from lrbench.config.suite import Suite
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes, user_path

Record = TypeVar("Record", bound=Strict)
# The largest that comes with lrbench has 4 KiB.
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Found:
    """One TOML file of a registry: where it is, the name it gives itself, and a second file of that name."""

    path: Path
    name: str
    twin: Path | None = None


def shipped_folder(package: str) -> Path:
    """Folder of the TOML files shipped as `lrbench.tasks` or `lrbench.suites`.

    Raises:
        InputError: lrbench is neither installed nor run from its source tree.
    """
    try:
        return Path(str(importlib.resources.files(package)))
    except ModuleNotFoundError as error:
        # A source tree that is not installed keeps them beside the package.
        checkout = Path(__file__).resolve().parents[2]
        folder = checkout / {"lrbench.tasks": "tasks", "lrbench.suites": "benchmark/suites"}[package]
        if (checkout / "setup.cfg").is_file() and folder.is_dir():
            return folder
        raise InputError(
            f"{package} was not found beside {checkout / 'lrbench'}. Install lrbench from its source folder: `pip install .`."
        ) from error


def means_a_file(name_or_path: str) -> bool:
    """Whether what stands for a task or a suite is the path of its TOML, and not its name."""
    return name_or_path.endswith(".toml") or os.sep in name_or_path


def is_shipped(task: Task) -> bool:
    """Whether a task comes with lrbench, and is not the user's own."""
    return task.folder == shipped_folder("lrbench.tasks")


def task_folders() -> tuple[Path, ...]:
    """The shipped tasks, then the folders that `LRBENCH_TASKS` adds.

    Raises:
        InputError: `LRBENCH_TASKS` names something that is not a folder.
    """
    named = os.environ.get("LRBENCH_TASKS", "").split(os.pathsep)
    added = tuple(user_path(part) for part in named if part)
    for folder in added:
        if not os.path.isdir(folder):
            raise InputError(
                f"LRBENCH_TASKS names {folder}, which is not a folder. It holds folders of task TOML files, separated "
                f"by {os.pathsep!r}."
            )
    return (shipped_folder("lrbench.tasks"), *added)


def find_tasks() -> dict[str, Found]:
    """Every known task's file by name: the registered ones, without `broken_tasks`, and those that suites name by file."""
    found = find_registered_tasks()
    for name, path in own_tasks.remembered().items():
        if path.is_file():
            found.setdefault(name, Found(path=path, name=name))
    return found


def find_registered_tasks() -> dict[str, Found]:
    """The file of every task in `task_folders`, by name."""
    return _scan(task_folders())[0]


def broken_tasks() -> list[str]:
    """What is wrong with files in the tasks' folders from which no name can be read: it concerns no other task."""
    return _scan(task_folders())[1]


def find_suites() -> dict[str, Found]:
    """Every shipped suite's file by name."""
    return _scan((shipped_folder("lrbench.suites"),))[0]


def suite_path(name_or_path: str) -> Path:
    """The TOML file of a suite that is named, or whose file's path is given."""
    return _locate("suite", name_or_path, find_suites)


def load_task(name_or_path: str, asked: str = "") -> Task:
    """Read and validate one task.

    Args:
        name_or_path: A registered name, or the path of a TOML file.
        asked: What names it, where that is not the command line: `suite quick, targets`.

    Raises:
        InputError: No such task (or one that it is `like`), a TOML that is not well formed, a key that is unknown or
            wrong, or a file whose task has the name of another registered one.
    """
    path = _locate("task", name_or_path, find_tasks, broken_tasks, asked)
    content = _read(path)
    _refuse_the_other_kind("task", content, path)
    task = validated(Task, _like_another(content, path), path)
    known = find_registered_tasks()
    _refuse_twin("task", task.name, path, known)
    task.read_from(path, registered=task.name in known)
    return task


def load_suite(name_or_path: str, changes: Sequence[str] = ()) -> Suite:
    """Read and validate one suite, after changing the values that `--set key.sub=value` names.

    Its source and targets may be paths of task files: relative to the suite's file in it, to the current folder in `--set`.

    Raises:
        InputError: As `load_task`; also for a change that is not `key=value` or whose key leads nowhere.
    """
    path = suite_path(name_or_path)
    content = _read(path)
    _refuse_the_other_kind("suite", content, path)
    _name_task_files(content, path.parent, str(path))
    apply_changes(content, changes)
    _name_task_files(content, Path(), "--set")
    suite = validated(Suite, content, path, changed=bool(changes))
    _refuse_twin("suite", suite.name, path, find_suites())
    return suite


def _name_task_files(content: dict[str, Any], folder: Path, where: str) -> None:
    """Replace the task files among a suite's source and targets by their tasks' names, and keep their paths beside.

    Raises:
        InputError: A file is not there or is not a task; or two of them have one name.
    """
    files = content.get("task_files", {})
    if not isinstance(files, dict):
        return
    paths = {name: str((folder / path).absolute()) for name, path in files.items() if isinstance(path, str)}

    def name_of(given: Any, key: str) -> Any:
        if not isinstance(given, str) or not means_a_file(given):
            return given
        path = str((folder / user_path(given)).absolute())
        name = load_task(path, f"{where}, {key}").name
        if paths.setdefault(name, path) != path:
            raise InputError(f"{where}: {path} and {paths[name]} are both called {name!r}. Give one another `name`.")
        return name

    for path in paths.values():
        load_task(path, f"{where}, task_files")
    if "source" in content:
        content["source"] = name_of(content["source"], "source")
    if isinstance(content.get("targets"), list):
        content["targets"] = [name_of(given, "targets") for given in content["targets"]]
    if paths:
        content["task_files"] = {**files, **paths}


def validated(model: type[Record], content: dict[str, Any], where: Path | str, *, changed: bool = False) -> Record:
    """A record from what a TOML, options or the effective suite beside snapshots say.

    Args:
        model: What it should be.
        content: The content.
        where: Where it was said, for errors.
        changed: Whether `--set` changed it since.

    Raises:
        InputError: A key that is unknown or wrong.
    """
    place = f"{where} (after --set)" if changed else str(where)
    try:
        # Through JSON, where strict validation takes lists for tuples and whole numbers for floats, but nothing else.
        return model.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise InputError(f"{place}: {explain(model, error)}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place}: {_unusable(error)}") from error


def apply_changes(content: dict[str, Any], changes: Sequence[str], *, option: str = "--set") -> None:
    """Change values in place as `--set key.sub=value` says.

    Args:
        content: What is changed.
        changes: What was said.
        option: The option that said it, for errors.

    Raises:
        InputError: A change is not `key=value`, or its key leads through a value.
    """
    for change in changes:
        _apply(content, change, option)


def differences(before: dict[str, Any], after: dict[str, Any], table: str = "") -> list[str]:
    """Which values differ, tables within tables too, each as `schedule.batch was 64 and is now 32`."""
    changes = []
    for key in (*after, *(key for key in before if key not in after)):
        old, new, name = before.get(key), after.get(key), f"{table}.{key}" if table else key
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, name)
        elif old != new:
            was, now = ("not set" if value is None else value for value in (old, new))
            changes.append(f"{name} was {was} and is now {now}")
    return changes


# Of these tables a task that is like another says only what differs; everything else that it says stands for the whole.
_COMPLETED = ("files", "prepare", "about")


def _like_another(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A task's content, completed by that of the registered task which it is `like`."""
    other = content.pop("like", None)
    if other is None:
        return content
    known = find_tasks()
    if not isinstance(other, str) or other not in known:
        hint = suggestion(other, known) if isinstance(other, str) else ""
        raise InputError(f"{path}: `like` names a registered task, not {other!r}.{hint} `lrbench tasks` lists them.")
    base = _read(known[other].path)
    if "like" in base:
        raise InputError(f"{path}: {other!r} is itself like {base['like']!r}. Name that one in `like`.")
    for table in _COMPLETED:
        if isinstance(content.get(table), dict) and isinstance(base.get(table), dict):
            content[table] = {**base[table], **content[table]}
    if "counts" in content:
        # Of other images the numbers of each class are others too.
        base = {key: value for key, value in base.items() if key not in {"least", "most"}}
    return {**base, **content}


def _unusable(error: Exception) -> str:
    """What is wrong with content that is well-formed and cannot be represented."""
    if isinstance(error, RecursionError):
        return "lists or tables are nested too deeply. Make them flat."
    return "a number has thousands of digits. Write a smaller one."


def _scan(folders: Sequence[Path]) -> tuple[dict[str, Found], list[str]]:
    """The files by name, and what is wrong with those that give none."""
    found: dict[str, Found] = {}
    broken = []
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            try:
                name = _read(path).get("name")
            except InputError as error:
                broken.append(str(error))
                continue
            if not isinstance(name, str):
                broken.append(f'{path}: the key `name` is missing. The file starts with `name = "…"`.')
            elif name_problem(name):
                broken.append(f"{path}: `name` {name_problem(name)}.")
            elif name in found:
                if _read(path) != _read(found[name].path):
                    found[name] = replace(found[name], twin=path)
            else:
                found[name] = Found(path=path, name=name)
    return found, broken


def _locate(kind: str, name_or_path: str, find: Any, broken: Any = list, asked: str = "") -> Path:
    if means_a_file(name_or_path):
        path = user_path(name_or_path)
        where = f"{asked}: " if asked else ""
        if os.path.isdir(path):
            raise InputError(f"{where}{path} is a folder; give the {kind}'s TOML file itself.")
        if not os.path.exists(path):
            raise InputError(
                f"{where}there is no {kind} file {path}. Give the path of a TOML file, or a name: {', '.join(sorted(find()))}."
            )
        return path
    found: dict[str, Found] = find()
    if name_or_path not in found:
        if name_or_path in (find_suites() if kind == "task" else find_tasks()):
            raise InputError(_of_the_other_kind(kind, name_or_path))
        beside = f"{name_or_path}.toml"
        near = (
            f" A file {beside} is here: give its path." if os.path.isfile(beside) else suggestion(name_or_path, found)
        )
        known = f"`lrbench {kind}s` lists those there are" if near else f"Known: {', '.join(sorted(found))}"
        way = "or name the folder of its TOML file in LRBENCH_TASKS" if asked else "or give the path of a TOML file"
        where = f"{asked}: " if asked else ""
        if kind == "task" and (gone := own_tasks.remembered().get(name_or_path)):
            raise InputError(
                f"{where}there is no task file {gone}, which the suite names. Put it back, or change the suite."
            )
        unread = "".join(f" A file that could not be read may be the one: {problem}" for problem in broken())
        raise InputError(f"{where}there is no {kind} called {name_or_path!r}.{near} {known}; {way}.{unread}")
    one = found[name_or_path]
    if one.twin is not None:
        raise InputError(
            f"two {kind}s are called {name_or_path!r}: {one.path} and {one.twin}. Give one of them another `name`."
        )
    return one.path


# Keys that files of one kind have and those of the other do not.
_TELLING = {"task": ("files", "like"), "suite": ("schedule", "targets")}


def _refuse_the_other_kind(kind: str, content: dict[str, Any], path: Path) -> None:
    other = "suite" if kind == "task" else "task"
    if not content.keys() & set(_TELLING[kind]) and content.keys() & set(_TELLING[other]):
        raise InputError(_of_the_other_kind(kind, path))


def _of_the_other_kind(kind: str, name: str | Path) -> str:
    """What to say of a task where a suite is asked for, and the other way round."""
    if kind == "suite":
        return (
            f"{name} is a task, not a suite: `lrbench transfer --snapshot REF --task {name}` transfers to it, and a suite "
            "names it among its targets."
        )
    return f"{name} is a suite, not a task: `lrbench run {name}` runs it, and `lrbench tasks` lists the tasks."


def _refuse_twin(kind: str, name: str, path: Path, found: dict[str, Found]) -> None:
    twin = found.get(name)
    # A copy that says the same is the same.
    if twin is not None and twin.path.resolve() != path.resolve() and _read(twin.path) != _read(path):
        raise InputError(
            f"{path} is called {name!r}, as {twin.path} already is; their results would mix. Give it another `name`."
        )


@lru_cache(maxsize=256)
def _parsed(path: Path, modified: int, size: int) -> str:
    try:
        text = read_bytes(path, limit=_LARGEST_FILE).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        return json.dumps(tomllib.loads(text), default=str)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not well-formed TOML: {error}. Correct that line.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file (UTF-8): {error.reason} at byte {error.start}.") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: {_unusable(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: It cannot be read, or it is not TOML.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}. Correct or delete it."
        ) from error
    # Read once a process, and a fresh copy each time: callers change what they get.
    content: dict[str, Any] = json.loads(_parsed(path, status.st_mtime_ns, status.st_size))
    return content


def _apply(content: dict[str, Any], change: str, option: str) -> None:
    key, equals, text = change.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        example = {"--argument": "img_size=256", "--input": "size=64"}.get(option, "schedule.batch=128")
        raise InputError(f"{option} takes key=value, such as {option} {example}; it was given {change!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except (RecursionError, ValueError) as error:
        raise InputError(f"{option} {key.strip()}: {_unusable(error)}") from error
    if isinstance(value, date | time):
        # No key is a date, but a name may look like one.
        value = text.strip()
    table = content
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"{option} {change}: `{part}` is a value, not a table, so it has no key `{parts[-1]}`.")
    table[parts[-1]] = value
