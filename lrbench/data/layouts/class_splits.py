"""Splits of images by class: the rules `first` and `drawn`."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from lrbench.config.splits import DrawnSplit, FirstSplit, Group
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.seeds import derive
from lrbench.core.wording import counted
from lrbench.data.layouts.layout_data import Sample
from lrbench.stats.grouping import hold_out_groups

ImagesByClass = Mapping[str, Sequence[str]]
"""The images of each class, sorted."""


def split_first(images: ImagesByClass, split: FirstSplit) -> tuple[set[Sample], set[Sample]]:
    """Train on the first images of each class.

    Returns:
        The test images, and the images that are in neither split.
    """
    tested: set[Sample] = set()
    left_out: set[Sample] = set()
    for name, names in images.items():
        rest = [(name, image) for image in names[split.train :]]
        tested.update(rest[: split.test_images])
        left_out.update(rest[len(rest) if split.test_images is None else split.test_images :])
    return tested, left_out


def draw_split(task: Task, split: DrawnSplit, images: ImagesByClass) -> tuple[set[Sample], set[Sample]]:
    """Rank each class's images by a hash of seed, class and name, and test on the first. No library's generator is used.

    Returns:
        The test images, and the images that are in neither split.

    Raises:
        InputError: A class has too few images for the rule.
    """
    tested: set[Sample] = set()
    left_out: set[Sample] = set()
    for name, names in images.items():
        if len(names) < 2:
            raise InputError(
                f"class {name!r} of task {task.name} has only one image, {names[0]!r}; a drawn split needs at least two, one "
                "to train on and one to test. Add images or remove the class."
            )
        ranked = sorted(names, key=lambda image, name=name: derive(split.seed, "test split", name, image))  # type: ignore[misc]
        if split.train is not None and len(names) <= split.train:
            raise InputError(
                f"class {name!r} of task {task.name} has {len(names):,} images, and files.split.train takes {split.train} of "
                "each class for training, so none is left to test. Add images, or lower files.split.train in the task's TOML."
            )
        wanted = round(split.test * len(names)) if split.train is None else len(names) - split.train
        count = min(len(names) - 1, max(1, wanted))
        used = min(count, split.test_images or count)
        tested.update((name, image) for image in ranked[:used])
        left_out.update((name, image) for image in ranked[used:count])
    return tested, left_out


def group_by_path(task: Task, group: Group, samples: Sequence[Sample]) -> dict[Sample, str]:
    """Return the group of each image from its path, by a pattern or a folder.

    Raises:
        InputError: A path has no group.
    """
    groups = {}
    for sample in samples:
        # As in tables: the same name may be in two Unicode forms.
        path = unicodedata.normalize("NFC", sample[1])
        if group.level is not None:
            folders = path.split("/")[:-1]
            if len(folders) < group.level:
                raise InputError(
                    f"image {path!r} of task {task.name} is in {counted(len(folders), 'folder')}, but "
                    f"files.split.group.level is {group.level}. Lower it, or name the group by a pattern."
                )
            groups[sample] = folders[group.level - 1]
            continue
        assert group.pattern is not None
        match = re.search(group.pattern, path)
        name = match and next((part for part in match.groups() if part is not None), match[0])
        if not name:
            raise InputError(
                f"the pattern {group.pattern!r} (files.split.group) does not occur in the path {path!r} of task {task.name}. "
                "Correct the pattern, or rename the image."
            )
        groups[sample] = name
    return groups


def draw_groups(task: Task, split: DrawnSplit, groups: Mapping[Sample, str]) -> set[Sample]:
    """Draw whole groups for testing, ranked by a hash of seed and group, with nearly the wanted share of each class.

    Args:
        task: The task.
        split: The rule.
        groups: Group of each image.

    Returns:
        The test images.

    Raises:
        InputError: A class has images of one group only, or no division has training and test images of each class.
    """
    samples = sorted(groups)
    names, group_of = np.unique([groups[sample] for sample in samples], return_inverse=True)
    classes, labels = np.unique([name for name, _ in samples], return_inverse=True)
    for label, name in enumerate(classes):
        only = np.unique(group_of[labels == label])
        if len(only) == 1:
            raise InputError(
                f"all images of class {str(name)!r} of task {task.name} are of one group, {str(names[only[0]])!r}, which "
                "cannot be on both sides of the split. Add images of other groups, or correct files.split.group."
            )
    order = sorted(range(len(names)), key=lambda group: derive(split.seed, "test groups", str(names[group])))
    tested = hold_out_groups(labels, group_of, split.test, order)[group_of]
    missing = [str(name) for label, name in enumerate(classes) if len(np.unique(tested[labels == label])) == 1]
    if missing:
        raise InputError(
            f"the groups of task {task.name} cannot be divided so that class {missing[0]!r} has training and test images. Add "
            "images of other groups, or change files.split.test or files.split.seed."
        )
    return {sample for sample, is_tested in zip(samples, tested, strict=True) if is_tested}
