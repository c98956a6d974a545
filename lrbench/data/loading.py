"""From a task to its data: find the files, read the layout, and hold what is there against what the task pins."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from lrbench.config import load_task
from lrbench.config.loading import is_shipped
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
"""Where data is that lies in no folder."""


def find_task_data(task: Task, roots: Sequence[Path]) -> str:
    """Where a task's data is, without reading it all.

    Args:
        task: The task.
        roots: Folders in which data is looked for.

    Returns:
        A folder, or in a few words where else the images come from.

    Raises:
        InputError: It is not there; says what was looked for, where, and how to get it.
    """
    if task.files.layout == "synthetic":
        return "made on the spot"
    return str(LAYOUTS[task.files.layout].find(task, task.files, roots) or ON_THE_HUB)


def load_task_data(task: Task, roots: Sequence[Path], *, partial: bool = False) -> TaskData:
    """Read a task's splits; no image is decoded.

    Args:
        task: The task.
        roots: Folders in which data is looked for, in order.
        partial: Accept data that is not whole; it is then marked so.

    Raises:
        InputError: The data is missing, half-copied or another data set's; a class has no training image.
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
        cause = f"is not whole: {'; '.join(problems)}; and it " if problems else ""
        raise InputError(
            f"the data of task {task.name} at {reading.where} {cause}has one class, {reading.classes[0]!r}, and nothing can be "
            "told from it. Where that is not a class, the task's TOML names another folder, or another column, than it should."
        )
    if problems and not partial:
        again = (
            f"Copy or unpack it again. {how_to_get(task)}"
            if is_shipped(task)
            else f"Copy or unpack it again, or correct what {task.path} says of it (`classes`, `counts`, `least`, `most`)."
        )
        raise InputError(
            f"the data of task {task.name} at {reading.where} is not whole: {'; '.join(problems)}. {again} To go on with what "
            "is there, say --partial: every result is then marked partial and never ranked with full ones."
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
    """The changed lists of data that could not be read, each a clause; none where the data is not found."""
    if not task.archives:
        return []
    with suppress(InputError):
        where = LAYOUTS[task.files.layout].find(task, task.files, roots)
        return changed_lists(task, where, roots) if where else []
    return []


def unused_note(data: TaskData) -> str | None:
    """What lies among the images of a task and is not used, which a user may take for images; None where nothing does."""
    if not data.unused:
        return None
    if data.task.files.layout in {"lists", "table", "indexed"}:
        return (
            f"not used: {len(data.unused):,} images beside those of {data.task.name} that it does not list "
            f"({first_few(data.unused)})"
        )
    endings = ", ".join(ending.removeprefix(".") for ending in IMAGE_ENDINGS)
    beside = any(set(data.classes).isdisjoint(path.split("/")) for path in data.unused)
    return (
        f"not used: {len(data.unused):,} in {'or beside ' if beside else ''}the class folders of {data.task.name} "
        f"({first_few(data.unused)}). Images are files that lie directly in the folder of their class, with one "
        f"of the endings {endings}"
    )


def say_unused(data: TaskData, control: Control) -> None:
    """Say it to who runs work on data of which no count tells whether it is whole."""
    note = None if data.task.counts else unused_note(data)
    if note is not None:
        control.say(note)


def check_all(tasks: Sequence[Task], roots: Sequence[Path], *, partial: bool = False) -> None:
    """Read what is there of several tasks before work on any of them is begun; what is made on the spot is passed over.

    Raises:
        InputError: Data is missing or half-copied; names all that is.
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
def own_data(name: str, roots: tuple[Path, ...]) -> Identity | None:
    """What a user's own images are now, looked at once a process.

    Args:
        name: The task's name or the path of its TOML.
        roots: Folders in which data is looked for.

    Returns:
        None where they are not there, and for data that looking at takes a library.
    """
    task = load_task(name)
    if task.files.layout in {"hub", "torchvision", "synthetic"}:
        return None
    try:
        return load_task_data(task, roots, partial=True).identity
    except InputError:
        # A result stands where its images are gone.
        return None


def _differences(task: Task, reading: LayoutData) -> list[str]:
    """Where what is there is less or other than what the task pins, each a clause."""
    differences = []
    if task.classes is not None and len(reading.classes) != task.classes:
        differences.append(f"it has {len(reading.classes):,} classes, and the whole data set {task.classes:,}")
    for name, pinned in task.counts.items():
        split: SplitName = name
        found = len(reading.splits[split]) if split in reading.splits else 0
        if found != pinned:
            differences.append(f"it has {found:,} {split} images, and the whole data set {pinned:,}")
    if "test" not in task.counts:
        tested = np.bincount(reading.splits["test"].labels, minlength=len(reading.classes))
        untested = [reading.classes[label] for label in np.flatnonzero(tested == 0)]
        if untested:
            differences.append(
                f"it has no test image of {len(untested):,} of its {len(reading.classes):,} classes "
                f"({first_few(untested)}; if that is as it should be, say how many images there are: counts = "
                f"{{ train = {len(reading.splits['train'])}, test = {len(reading.splits['test'])} }} in the task's TOML)"
            )
    for pinned_by_class, bound, than, beyond in (
        (task.least, "least", "fewer", np.less),
        (task.most, "most", "more", np.greater),
    ):
        for name, pinned in pinned_by_class.items():
            labels = reading.splits[name].labels if name in reading.splits else np.array([], dtype=np.int64)
            by_class = np.bincount(labels, minlength=len(reading.classes))
            wrong = [
                f"{reading.classes[label]} ({by_class[label]:,})" for label in np.flatnonzero(beyond(by_class, pinned))
            ]
            if wrong:
                shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else "")
                differences.append(
                    f"classes of the whole data set have {pinned:,} {name} images at {bound}, and these have {than}: {shown}"
                )
    return differences
