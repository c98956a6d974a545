"""What every layout's reader gives back, and the images of a split that lie in files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.data.examples import Split, SplitName
from lrbench.data.layouts.display import first_few, printable
from lrbench.data.layouts.file_images import FileImages

Sample = tuple[str, str]
"""One image: its class, and its path relative to the folder of the images (`/` between parts)."""


@dataclass(frozen=True, kw_only=True)
class LayoutData:
    """A task's data as found, before it is held against what the task pins.

    Attributes:
        where: Where it was found, for messages.
        classes: Class names in the order of their labels.
        splits: The splits; none is empty.
        problems: Signs that the data is incomplete, each a clause for a message.
        drawn: The test images where lrbench drew the split, sorted; empty where the data set brings one.
        edition: What tells this data from another edition of it, where its images' names do not (`hub`).
        unused: Content that is not used: of class folders, files that are no images by their endings, and folders; images
            beside class folders; images beside listed ones that no list names.
    """

    where: str
    classes: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    problems: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    edition: str = ""
    unused: tuple[str, ...] = ()


def from_files(
    task: Task,
    *,
    root: Path,
    images: Path,
    classes: Sequence[str],
    samples: Mapping[SplitName, Sequence[Sample]],
    ids: Mapping[SplitName, Sequence[str]] | None = None,
    problems: Sequence[str] = (),
    drawn: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> LayoutData:
    """Assemble a reading from the images found on disk.

    Args:
        task: The task.
        root: The data set's folder, for messages.
        images: Folder that the samples' paths are relative to.
        classes: Class names in the order of their labels; those without any image are left out.
        samples: The images of each split.
        ids: Names of a split's images where they are not their paths.
        problems: What the reader found missing.
        drawn: Test images that were drawn, where the data set has no split of its own.
        unused: Content that is not used.

    Raises:
        InputError: A split without images, or a class with test images but none to train on.
    """
    present = {name for split in samples.values() for name, _ in split}
    names = tuple(name for name in classes if name in present)
    reject_empty_splits(task, str(root), {split: len(found) for split, found in samples.items()}, problems)
    reject_untrained_classes(
        task, str(root), {split: {name for name, _ in found} for split, found in samples.items()}, problems
    )
    label_of = {name: label for label, name in enumerate(names)}
    splits: dict[SplitName, Split] = {}
    for split, found in samples.items():
        paths = tuple(path for _, path in found)
        splits[split] = Split(
            ids=tuple(map(printable, (ids or {}).get(split, paths))),
            labels=np.array([label_of[name] for name, _ in found], dtype=np.int64),
            images=FileImages(root=images, paths=paths, task=task.argument, upright=task.upright),
        )
    return LayoutData(
        where=str(root),
        classes=tuple(map(printable, names)),
        splits=splits,
        problems=tuple(problems),
        drawn=tuple(map(printable, drawn)),
        unused=tuple(map(printable, unused)),
    )


def from_labels(
    task: Task, where: str, names: Sequence[str], splits: Mapping[SplitName, Split], *, offset: int = 0
) -> LayoutData:
    """Assemble a reading from splits whose labels a library gives.

    Args:
        task: The task.
        where: Where the data is, for messages.
        names: Class names in the order of the labels; those without any image are left out. None where numbers are the names.
        splits: The splits.
        offset: What was subtracted from every label.

    Raises:
        InputError: A split without images, a label below zero or beyond the names, or a class with test images but none to
            train on.
    """
    reject_empty_splits(task, where, {split: len(images) for split, images in splits.items()})
    present = sorted(set().union(*(np.unique(split.labels).tolist() for split in splits.values())))
    if present[0] < 0:
        raise InputError(
            f"the data of task {task.name} at {where} has the label {present[0] + offset}, which is below {offset}: a split "
            "without labels, or a wrong files.label_offset in the task's TOML."
        )
    if names and present[-1] >= len(names):
        raise InputError(
            f"the data of task {task.name} at {where} has the label {present[-1] + offset} and only {len(names)} class names. "
            "Check files.label_offset in the task's TOML."
        )
    name_of = {label: names[label] if names else str(label + offset) for label in present}
    reject_untrained_classes(
        task, where, {split: {name_of[label] for label in np.unique(each.labels)} for split, each in splits.items()}
    )
    return LayoutData(
        where=where,
        classes=tuple(map(printable, name_of.values())),
        splits={split: replace(each, labels=np.searchsorted(present, each.labels)) for split, each in splits.items()},
    )


@contextmanager
def prepend_causes(causes: Sequence[str]) -> Iterator[None]:
    """Put what is known to be wrong before an error that may be its consequence.

    Args:
        causes: What is wrong, each a clause.
    """
    try:
        yield
    except InputError as error:
        if causes:
            raise InputError(f"{'; '.join(causes)}. A consequence may be: {error}") from error
        raise


def reject_empty_splits(task: Task, where: str, counts: Mapping[SplitName, int], problems: Sequence[str] = ()) -> None:
    """Refuse data with no image at all in one of its splits.

    Args:
        task: The task.
        where: Where the data is.
        counts: The number of images in each split.
        problems: What else is missing, which may be the cause.

    Raises:
        InputError: Names the split.
    """
    for split, count in counts.items():
        if count == 0:
            raise InputError(
                f"the data of task {task.name} at {where} {_cause(problems)}has no {split} image at all. Copy the whole data "
                "set there, or check the split that the task's TOML asks for."
            )


def reject_untrained_classes(
    task: Task, where: str, classes: Mapping[SplitName, set[str]], problems: Sequence[str] = ()
) -> None:
    """Refuse data in which a class is tested but never trained on: its accuracy would be zero for a reason of copying.

    Args:
        task: The task.
        where: Where the data is.
        classes: The classes of each split's images.
        problems: What else is missing, which may be the cause.

    Raises:
        InputError: Names the classes.
    """
    for split in ("test", "val"):
        missing = sorted(classes.get(split, set()) - classes["train"])
        if missing:
            raise InputError(
                f"the data of task {task.name} at {where} {_cause(problems)}has {split} images of {_class_words(missing)}, but "
                f"no training image of {'it' if len(missing) == 1 else 'them'}. Copy the missing training images, or take "
                f"the {split} images out as well."
            )


def _cause(problems: Sequence[str]) -> str:
    """The words before a consequence that say what may have caused it."""
    return f"is incomplete: {'; '.join(problems)}; and it " if problems else ""


def _class_words(names: Sequence[str]) -> str:
    return f"class {names[0]!r}" if len(names) == 1 else f"{len(names)} classes ({first_few(names)})"
