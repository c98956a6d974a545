"""Loading a task's data: find the files, read the layout, and compare the result with what the task pins."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from lrbench.config import load_task
from lrbench.config.registry import is_shipped
from lrbench.config.task import Task
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.memo import memoised
from lrbench.data.archives.marker import changed_lists
from lrbench.data.examples import Identity, SplitName, TaskData
from lrbench.data.layouts.data_folder import how_to_get
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.image_folders import IMAGE_ENDINGS
from lrbench.data.layouts.layout_data import LayoutData, prepend_causes
from lrbench.data.layouts.registry import LAYOUTS

ON_THE_HUB = "read through `datasets`"
"""Location of data that `datasets` keeps in its cache."""


def find_task_data(task: Task, roots: Sequence[Path]) -> str:
    """Return the location of a task's data without reading it.

    Args:
        task: The task.
        roots: Data roots that are searched.

    Returns:
        A folder, or a phrase for data that is in no folder.

    Raises:
        InputError: The data is missing; the message names the paths tried and how to get it.
    """
    if task.files.layout == "synthetic":
        return "generated"
    return str(LAYOUTS[task.files.layout].find(task, task.files, roots) or ON_THE_HUB)


def load_task_data(task: Task, roots: Sequence[Path], *, partial: bool = False) -> TaskData:
    """Read the classes and splits of a task. No image is decoded.

    Args:
        task: The task.
        roots: Data roots that are searched in order.
        partial: Whether to accept incomplete data, which is marked as partial.

    Raises:
        InputError: The data is missing, incomplete or of a different data set, or a class has no training image.
    """
    if task.files.layout == "synthetic":
        from lrbench.data.synthetic import load_synthetic

        return load_synthetic(task)
    try:
        reading = LAYOUTS[task.files.layout].read(task, task.files, roots)
    except InputError:
        with prepend_causes(_changed_lists(task, roots)):
            raise
    changed = changed_lists(task, Path(reading.where), roots) if task.archives else []
    problems = (*reading.problems, *changed, *_differences(task, reading))
    if len(reading.classes) < 2:
        cause = f"is incomplete: {'; '.join(problems)}; and it " if problems else ""
        raise InputError(
            f"the data of task {task.name} at {reading.where} {cause}has only one class, {reading.classes[0]!r}; a task needs "
            "two. If that is not a class, correct the folder or the column in the task's TOML."
        )
    if problems and not partial:
        again = (
            f"Copy or unpack it again. {how_to_get(task)}"
            if is_shipped(task)
            else f"Copy or unpack it again, or correct `classes`, `counts`, `least` or `most` in {task.path}."
        )
        raise InputError(
            f"the data of task {task.name} at {reading.where} is incomplete: {'; '.join(problems)}. {again} To use it anyway, "
            "pass --partial: results are then marked as partial and not ranked with complete ones."
        )
    return TaskData(
        task=task,
        classes=reading.classes,
        splits=reading.splits,
        partial=bool(problems),
        problems=problems,
        drawn=reading.drawn,
        edition=reading.edition,
        unused=reading.unused,
        tolerant=partial,
    )


def _changed_lists(task: Task, roots: Sequence[Path]) -> list[str]:
    """Return the changed lists of data that could not be read, as clauses; empty if the data is not found."""
    if not task.archives:
        return []
    with suppress(InputError):
        where = LAYOUTS[task.files.layout].find(task, task.files, roots)
        return changed_lists(task, where, roots) if where else []
    return []


def describe_unused(data: TaskData) -> str | None:
    """Return a message about files in the data that are not used, which a user may expect to be used; None without any."""
    if not data.unused:
        return None
    if data.task.files.layout in {"lists", "table", "indexed"}:
        return (
            f"not used: {len(data.unused):,} images in the folders of {data.task.name} that its lists do not name "
            f"({first_few(data.unused)})"
        )
    endings = ", ".join(ending.removeprefix(".") for ending in IMAGE_ENDINGS)
    is_outside = any(set(data.classes).isdisjoint(path.split("/")) for path in data.unused)
    return (
        f"not used: {len(data.unused):,} files or folders in {'or next to ' if is_outside else ''}the class folders of "
        f"{data.task.name} ({first_few(data.unused)}). Only files directly in a class folder with one of the endings {endings} "
        "are images"
    )


def report_unused(data: TaskData, control: Control) -> None:
    """Report unused files of a task without pinned counts, whose data may therefore be incomplete."""
    message = None if data.task.counts else describe_unused(data)
    if message is not None:
        control.say(message)


def check_task_data(tasks: Sequence[Task], roots: Sequence[Path], *, partial: bool = False) -> None:
    """Check that the data of all tasks is complete, before work on any of them starts.

    Raises:
        InputError: Data is missing or incomplete; the message covers all tasks.
    """
    problems = []
    for task in tasks:
        try:
            if task.files.layout != "synthetic":
                load_task_data(task, roots, partial=partial)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(" Also: ".join(problems))


@memoised(64)
def user_data_identity(name: str, roots: tuple[Path, ...]) -> Identity | None:
    """Return the current identity of a task's data, read once per process.

    Args:
        name: Task name or path of its TOML.
        roots: Data roots that are searched.

    Returns:
        None if the data is missing, and for layouts that a library reads.
    """
    task = load_task(name)
    if task.files.layout in {"hub", "torchvision", "synthetic"}:
        return None
    try:
        return load_task_data(task, roots, partial=True).identity
    except InputError:
        # Results remain valid when their images are gone.
        return None


def _differences(task: Task, reading: LayoutData) -> list[str]:
    """Return the differences between the data and what the task pins, as clauses."""
    differences = []
    if task.classes is not None and len(reading.classes) != task.classes:
        differences.append(f"it has {len(reading.classes):,} classes, expected {task.classes:,}")
    for name, pinned in task.counts.items():
        split: SplitName = name
        count = len(reading.splits[split]) if split in reading.splits else 0
        if count != pinned:
            differences.append(f"it has {count:,} {split} images, expected {pinned:,}")
    if "test" not in task.counts:
        by_class = np.bincount(reading.splits["test"].labels, minlength=len(reading.classes))
        untested = [reading.classes[label] for label in np.flatnonzero(by_class == 0)]
        if untested:
            differences.append(
                f"it has no test image of {len(untested):,} of its {len(reading.classes):,} classes "
                f"({first_few(untested)}; if this is intended, add counts = {{ train = {len(reading.splits['train'])}, "
                f"test = {len(reading.splits['test'])} }} to the task's TOML)"
            )
    for pinned_by_class, bound, comparison, is_beyond in (
        (task.least, "least", "fewer", np.less),
        (task.most, "most", "more", np.greater),
    ):
        for name, pinned in pinned_by_class.items():
            labels = reading.splits[name].labels if name in reading.splits else np.array([], dtype=np.int64)
            by_class = np.bincount(labels, minlength=len(reading.classes))
            wrong = [
                f"{reading.classes[label]} ({by_class[label]:,})"
                for label in np.flatnonzero(is_beyond(by_class, pinned))
            ]
            if wrong:
                shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else "")
                differences.append(
                    f"each class should have at {bound} {pinned:,} {name} images, but these have {comparison}: {shown}"
                )
    return differences
