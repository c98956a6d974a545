"""`lrbench tasks`: the data sets to pretrain on and to transfer to, and task files for your own."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli import new_task
from lrbench.cli.common import DataRootOption, JsonOption, emit_json, show, table, warn
from lrbench.cli.usage import Commands, ShowGroup

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lrbench.config import Task

app = Commands(
    cls=ShowGroup,
    help="List or show tasks, or write a task file. `lrbench tasks [TASK]` is short for `lrbench tasks show [TASK]`.",
)
app.command("new")(new_task.new)


@app.command("show")
def tasks(
    name: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="Show this task with all defaults: a name, or the path of a task TOML."),
    ] = None,
    data_root: DataRootOption = None,
    json_: JsonOption = False,
) -> None:
    """List the tasks and their groups, or show one task with all defaults."""
    from lrbench.config import broken_tasks, find_tasks, load_task
    from lrbench.config.registry import find_groups
    from lrbench.core.workspace import data_roots

    roots = data_roots(data_root)
    for problem in broken_tasks() if name is None else ():
        warn(problem)
    if name is not None:
        task = load_task(name)
        where, is_found = whereabouts(task, roots)
        record = _without_empty(task.model_dump(mode="json", exclude_none=True))
        if json_:
            emit_json({**record, "found": is_found, "where": where})
            return
        import tomli_w

        show(tomli_w.dumps(record).rstrip())
        show(f"\n# {where}")
        return
    known = _readable(find_tasks())
    if json_:
        emit_json(
            [{"name": task.name, "title": task.display_title, "found": whereabouts(task, roots)[1]} for task in known]
        )
        return
    show(table([_row(task, roots) for task in known], wrapped="title", spare=["headline", "classes"]))
    groups = [{"group": group, "tasks": ", ".join(members)} for group, members in find_groups().items()]
    show("\n" + table(groups, wrapped="tasks"))


def _without_empty(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without empty texts, lists and tables, which mean that nothing is set."""
    filled = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in record.items()}
    return {key: value for key, value in filled.items() if value not in ("", [], {})}


def _readable(names: "Iterable[str]") -> "list[Task]":
    """Return the tasks that can be loaded, and warn of the others."""
    from lrbench.config import load_task
    from lrbench.core.errors import InputError

    loaded = []
    for name in names:
        try:
            loaded.append(load_task(name))
        except InputError as error:
            warn(str(error))
    return loaded


def whereabouts(task: "Task", roots: "tuple[Path, ...]") -> tuple[str, bool]:
    """Return where a task's data is, or an error message, and whether it was found."""
    from lrbench.core.errors import InputError
    from lrbench.data.loading import ON_THE_HUB, find_task_data

    try:
        place = find_task_data(task, roots)
        return f"downloaded from the Hub at first use, {ON_THE_HUB}" if place == ON_THE_HUB else f"found: {place}", True
    except InputError as error:
        return str(error), False


def _row(task: "Task", roots: "tuple[Path, ...]") -> dict[str, Any]:
    from lrbench.config.task import METRIC_NAMES
    from lrbench.data.loading import ON_THE_HUB

    files = task.files
    where, is_found = whereabouts(task, roots)
    counts: dict[str, int] = {str(split): count for split, count in task.counts.items()}
    if files.layout == "synthetic":
        counts = {"train": files.train, "test": files.test}
    return {
        "task": task.name,
        "classes": task.classes or "",
        "train": f"{counts['train']:,}" if "train" in counts else "",
        "test": f"{counts['test']:,}" if "test" in counts else "",
        "headline": METRIC_NAMES[task.metric],
        "data": "Hub" if ON_THE_HUB in where else "here" if is_found else "missing",
        "title": task.display_title,
    }
