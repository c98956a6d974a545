"""The data that every layout's reader returns, and checks that all readers share."""

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
"""Class of one image, and its path relative to the image folder (`/` between parts)."""


@dataclass(frozen=True, kw_only=True)
class LayoutData:
    """A task's data as found on disk, before it is compared with the counts and classes that the task pins.

    Attributes:
        where: Folder or name of the data, for messages.
        classes: Class names in the order of their labels.
        splits: The splits; none is empty.
        problems: Signs that the data is incomplete, each a clause for a message.
        drawn: Test images of a split that lrbench drew, sorted; empty if the data set has its own split.
        edition: Identifies the version of the data if the image names do not (`hub`).
        unused: Content that is not used: files in class folders that are not images, nested folders, images next to
            class folders, and images that no list names.
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
    groups: Mapping[Sample, str] | None = None,
    unused: Sequence[str] = (),
) -> LayoutData:
    """Build the layout data of images that are files.

    Args:
        task: The task.
        root: The data set's folder, for messages.
        images: Folder that the samples' paths are relative to.
        classes: Class names in the order of their labels; classes without images are left out.
        samples: The images of each split.
        ids: Image names by split, if they differ from the paths.
        problems: Signs that the data is incomplete.
        drawn: Test images that were drawn, if the data set has no split.
        groups: Group of each sample whose images belong together; empty if the task names none.
        unused: Content that is not used.

    Raises:
        InputError: A split has no images, or a class has test images but no training images.
    """
    present = {name for split in samples.values() for name, _ in split}
    names = tuple(name for name in classes if name in present)
    reject_empty_splits(task, str(root), {split: len(members) for split, members in samples.items()}, problems)
    reject_untrained_classes(
        task, str(root), {split: {name for name, _ in members} for split, members in samples.items()}, problems
    )
    label_of = {name: label for label, name in enumerate(names)}
    splits: dict[SplitName, Split] = {}
    for split, members in samples.items():
        paths = tuple(path for _, path in members)
        splits[split] = Split(
            ids=tuple(map(printable, (ids or {}).get(split, paths))),
            labels=np.array([label_of[name] for name, _ in members], dtype=np.int64),
            images=FileImages(root=images, paths=paths, task=task.argument, upright=task.upright),
            groups=tuple(groups[member] for member in members) if groups else None,
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
    """Build the layout data of splits whose labels come from a library.

    Args:
        task: The task.
        where: Folder or name of the data, for messages.
        names: Class names in the order of the labels, or empty to name classes by their numbers. Classes without images
            are left out.
        splits: The splits.
        offset: Number that was subtracted from every label.

    Raises:
        InputError: A split has no images, a label is negative or has no name, or a class has test images but no training
            images.
    """
    reject_empty_splits(task, where, {split: len(images) for split, images in splits.items()})
    present = sorted(set().union(*(np.unique(split.labels).tolist() for split in splits.values())))
    if present[0] < 0:
        raise InputError(
            f"the data of task {task.name} at {where} has the label {present[0] + offset}, which is below {offset}. Either a "
            "split has no labels, or files.label_offset in the task's TOML is wrong."
        )
    if names and present[-1] >= len(names):
        raise InputError(
            f"the data of task {task.name} at {where} has the label {present[-1] + offset} but only {len(names)} class names. "
            "Check files.label_offset in the task's TOML."
        )
    name_of = {label: names[label] if names else str(label + offset) for label in present}
    reject_untrained_classes(
        task, where, {name: {name_of[label] for label in np.unique(split.labels)} for name, split in splits.items()}
    )
    return LayoutData(
        where=where,
        classes=tuple(map(printable, name_of.values())),
        splits={name: replace(split, labels=np.searchsorted(present, split.labels)) for name, split in splits.items()},
    )


@contextmanager
def prepend_causes(causes: Sequence[str]) -> Iterator[None]:
    """Put known problems before an error that they may have caused.

    Args:
        causes: The problems, each a clause.
    """
    try:
        yield
    except InputError as error:
        if causes:
            raise InputError(f"{'; '.join(causes)}. This may have caused: {error}") from error
        raise


def reject_empty_splits(task: Task, where: str, counts: Mapping[SplitName, int], problems: Sequence[str] = ()) -> None:
    """Reject data with a split that has no images.

    Args:
        task: The task.
        where: Folder or name of the data.
        counts: Number of images in each split.
        problems: Known problems, which may be the cause.

    Raises:
        InputError: Names the split.
    """
    for split, count in counts.items():
        if count == 0:
            raise InputError(
                f"the data of task {task.name} at {where} {_describe_cause(problems)}has no {split} images. Copy the whole "
                "data set, or correct the split in the task's TOML."
            )


def reject_untrained_classes(
    task: Task, where: str, classes: Mapping[SplitName, set[str]], problems: Sequence[str] = ()
) -> None:
    """Reject data in which a class is tested but has no training images: its accuracy would always be zero.

    Args:
        task: The task.
        where: Folder or name of the data.
        classes: Classes of each split's images.
        problems: Known problems, which may be the cause.

    Raises:
        InputError: Names the classes.
    """
    if task.untrained_classes:
        return
    for split in ("test", "val"):
        missing = sorted(classes.get(split, set()) - classes["train"])
        if missing:
            named = f"class {missing[0]!r}" if len(missing) == 1 else f"{len(missing)} classes ({first_few(missing)})"
            raise InputError(
                f"the data of task {task.name} at {where} {_describe_cause(problems)}has {split} images of {named}, but "
                f"no training images. Copy the missing training images, or remove these {split} images."
            )


def _describe_cause(problems: Sequence[str]) -> str:
    return f"is incomplete ({'; '.join(problems)}) and " if problems else ""
