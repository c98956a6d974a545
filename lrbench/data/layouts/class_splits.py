"""Splits of images by class: the rules `first` and `drawn`."""

from collections.abc import Mapping, Sequence

from lrbench.config.splits import DrawnSplit, FirstSplit
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.seeds import derive
from lrbench.data.layouts.layout_data import Sample

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
