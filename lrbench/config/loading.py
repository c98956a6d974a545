"""Loading of tasks and suites, with errors that name the file, the key and the expected value."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lrbench.config.books import split_book, with_book
from lrbench.config.explain import explain, suggestion
from lrbench.config.registry import (
    find_registered_tasks,
    find_suites,
    find_tasks,
    is_path,
    is_shipped,
    refuse_duplicate,
    refuse_other_kind,
    suite_path,
    task_path,
)
from lrbench.config.strict import Strict
from lrbench.config.suite import Suite
from lrbench.config.task import Task
from lrbench.config.toml_files import apply_changes, read_toml, representation_problem
from lrbench.core.errors import InputError
from lrbench.core.files import user_path

Record = TypeVar("Record", bound=Strict)
# Tables in which a task with `like` overrides single keys. Other tables are replaced.
_MERGED_TABLES = ("files", "prepare", "about")


def load_task(name_or_path: str, source: str = "") -> Task:
    """Read and validate a task.

    Args:
        name_or_path: A registered name, one with a code book (`ps10-k4-book7`), or the path of a TOML file.
        source: Key or option that gives it, for errors (`suite quick, targets`); empty for the command line.

    Raises:
        InputError: There is no such task, its TOML is malformed, a key is unknown or wrong, its `like` is not a registered
            task, or a different registered task has its name.
    """
    path, book = _task_file(name_or_path, source)
    content = read_toml(path)
    refuse_other_kind("task", content, path)
    complete = _complete(content, path)
    task = validate(Task, complete if book is None else with_book(complete, book), path)
    registered = find_registered_tasks()
    refuse_duplicate(task.name, path, registered)
    task.read_from(path, registered=split_book(task.name)[0] in registered)
    return task


def is_shipped_task(name: str) -> bool:
    """Return whether lrbench ships the task of a name, which may have a code book."""
    if find_registered_tasks().keys().isdisjoint({name, split_book(name)[0]}):
        return False
    try:
        return is_shipped(load_task(name))
    except InputError:
        # Such as a code book of a task that has none.
        return False


def _task_file(name_or_path: str, source: str) -> tuple[Path, int | None]:
    """Return the TOML file of a task, and the code book in its name if no file has the name itself."""
    name, book = (name_or_path, None) if is_path(name_or_path) else split_book(name_or_path)
    if book is None or name_or_path in find_tasks():
        return task_path(name_or_path, source), None
    return task_path(name, source), book


def load_suite(name_or_path: str, changes: Sequence[str] = ()) -> Suite:
    """Read and validate a suite.

    The source and targets may be paths of task files, relative to the suite's file, or to the current folder in `changes`.

    Args:
        name_or_path: A shipped suite's name, or the path of a TOML file.
        changes: Changes of values, each `key.subkey=value`.

    Raises:
        InputError: As for `load_task`; also if a change is not `key=value` or its key passes through a value.
    """
    path = suite_path(name_or_path)
    content = read_toml(path)
    refuse_other_kind("suite", content, path)
    resolve_task_files(content, path.parent, str(path))
    apply_changes(content, changes)
    resolve_task_files(content, Path(), "--set")
    suite = validate(Suite, content, path, changed=bool(changes))
    refuse_duplicate(suite.name, path, find_suites())
    return suite


def validate(model: type[Record], content: dict[str, Any], where: Path | str, *, changed: bool = False) -> Record:
    """Validate content as a record.

    Args:
        model: Type of the record.
        content: Content of a TOML file, of options, or of a suite stored next to snapshots.
        where: Source of the content, for errors.
        changed: True if `--set` changed the content.

    Raises:
        InputError: A key is unknown or wrong.
    """
    place = f"{where} (after --set)" if changed else str(where)
    try:
        # In JSON mode, strict validation accepts lists for tuples and integers for floats, and no other conversions.
        return model.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise InputError(f"{place}: {explain(model, error)}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place}: {representation_problem(error)}") from error


def resolve_task_files(content: dict[str, Any], folder: Path, where: str) -> None:
    """Replace task files among a suite's source and targets by the tasks' names, and add their paths to `task_files`.

    Raises:
        InputError: A file is missing or not a task, or two files have the same name.
    """
    files = content.get("task_files", {})
    if not isinstance(files, dict):
        return
    paths = {name: str((folder / path).absolute()) for name, path in files.items() if isinstance(path, str)}

    def name_of(value: Any, key: str) -> Any:
        if not isinstance(value, str) or not is_path(value):
            return value
        path = str((folder / user_path(value)).absolute())
        name = load_task(path, f"{where}, {key}").name
        if paths.setdefault(name, path) != path:
            raise InputError(f"{where}: {path} and {paths[name]} are both called {name!r}. Give one another `name`.")
        return name

    for path in paths.values():
        load_task(path, f"{where}, task_files")
    if "source" in content:
        content["source"] = name_of(content["source"], "source")
    if isinstance(content.get("targets"), list):
        content["targets"] = [name_of(target, "targets") for target in content["targets"]]
    if paths:
        content["task_files"] = {**files, **paths}


def _complete(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a task's content, completed by the registered task in its key `like`."""
    like = content.pop("like", None)
    if like is None:
        return content
    known = find_tasks()
    if not isinstance(like, str) or like not in known:
        hint = suggestion(like, known) if isinstance(like, str) else ""
        raise InputError(f"{path}: `like` names a registered task, not {like!r}.{hint} `lrbench tasks` lists them.")
    base = read_toml(known[like].path)
    if "like" in base:
        raise InputError(f"{path}: {like!r} is itself like {base['like']!r}. Name that one in `like`.")
    for table in _MERGED_TABLES:
        own, other = content.get(table), base.get(table)
        # Keys of one layout mean nothing to another.
        if isinstance(own, dict) and isinstance(other, dict) and own.get("layout") in (None, other.get("layout")):
            content[table] = {**other, **own}
    # A variant of a task is not in its groups.
    base.pop("groups", None)
    if "counts" in content:
        # The bounds on images per class hold only for the counts of the other task.
        base = {key: value for key, value in base.items() if key not in {"least", "most"}}
    return {**base, **content}
