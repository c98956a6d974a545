"""Finding a data set's folder under the data roots, and saying what to do when it is not there."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lrbench.errors import InputError
from lrbench.registry.task import OneOrMore, Task


def candidates(value: OneOrMore) -> tuple[str, ...]:
    """One or several candidate folders of a TOML, as a tuple."""
    return (value,) if isinstance(value, str) else value


def beneath(folder: Path, candidate: str) -> Path:
    """`folder/candidate`, and `folder` itself for `"."`."""
    return folder if candidate == "." else folder / candidate


def locate(
    task: Task, roots: Sequence[Path], names: OneOrMore, *, wanted: str, objection: Callable[[Path], str | None]
) -> Path:
    """The first candidate folder, under the first data root, that looks like the data set.

    Args:
        task: The task, for messages.
        roots: Data roots, in order.
        names: Candidate folders relative to each data root.
        wanted: What is looked for, in words.
        objection: Says why a folder is not the one, or None when it is. Must be cheap.

    Raises:
        InputError: Nowhere found: names every path tried and how to get the data. Or a file stands where a folder
            should be.
    """
    tried = []
    for root in roots:
        for name in candidates(names):
            path = beneath(root, name)
            refuse_file(task, path)
            reason = objection(path) if os.path.isdir(path) else "no such folder"
            if reason is None:
                return path
            tried.append(f"{path} ({reason})")
    raise InputError(
        f"the data of task {task.name} was not found. Looked for {wanted} at: {'; '.join(tried)}. {how_to_get(task)}"
    )


def refuse_file(task: Task, path: Path) -> None:
    """Refuse a path that leads to or through a file where folders are needed.

    Raises:
        InputError: Names the file.
    """
    blocking = next((str(part) for part in (path, *path.parents) if os.path.isfile(part)), None)
    if blocking:
        raise InputError(
            f"{blocking} is a file, but task {task.name} needs a folder there"
            f"{'' if blocking == str(path) else f' (it looks for {path})'}. If it is the archive, unpack it; else move "
            "it aside or name another folder with --data-root."
        )


def how_to_get(task: Task) -> str:
    """How to get a task's data, as sentences for a message."""
    elsewhere = "If you have it already, name the folder that holds it with --data-root or LRBENCH_DATA."
    if task.archives or task.files.layout in {"hub", "torchvision"}:
        by_hand = f" By hand: {task.manual}" if task.manual else ""
        return f"Fetch it with `lrbench data fetch {task.name}`.{by_hand} {elsewhere}"
    if task.manual:
        return f"{task.manual} {elsewhere}"
    return f"Put it at one of these places. {elsewhere}"
