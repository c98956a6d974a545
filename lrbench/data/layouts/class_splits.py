"""The rules that split images by class: `first` and `drawn`."""

from collections.abc import Mapping, Sequence

from lrbench.config.splits import DrawnSplit, FirstSplit
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.seeds import derive
from lrbench.data.layouts.layout_data import Sample

Images = Mapping[str, Sequence[str]]
"""The images of each class, sorted."""


def split_first(images: Images, split: FirstSplit) -> tuple[set[Sample], set[Sample]]:
    """The test images, and those that are left out."""
    tested: set[Sample] = set()
    left_out: set[Sample] = set()
    for name, found in images.items():
        rest = [(name, image) for image in found[split.train :]]
        tested.update(rest[: split.test_images])
        left_out.update(rest[len(rest) if split.test_images is None else split.test_images :])
    return tested, left_out


def draw(task: Task, split: DrawnSplit, images: Images) -> tuple[set[Sample], set[Sample]]:
    """Rank each class's images by a hash of seed, class and name: no library's random numbers are involved.

    Returns:
        The test images, and those that are left out.

    Raises:
        InputError: A class is too small for the rule.
    """
    tested: set[Sample] = set()
    left_out: set[Sample] = set()
    for name, found in images.items():
        if len(found) < 2:
            raise InputError(
                f"class {name!r} of task {task.name} has a single image, {found[0]!r}; a drawn split needs at least two, "
                "one to train on and one to test. Add images or take the class out."
            )
        ranked = sorted(found, key=lambda image, name=name: derive(split.seed, "test split", name, image))  # type: ignore[misc]
        if split.train is not None and len(found) <= split.train:
            raise InputError(
                f"class {name!r} of task {task.name} has {len(found):,} images, and {split.train} of each class are for "
                "training: none would be left to test. Add images, or set a smaller files.split.train in the task's TOML."
            )
        wanted = round(split.test * len(found)) if split.train is None else len(found) - split.train
        count = min(len(found) - 1, max(1, wanted))
        kept = min(count, split.test_images or count)
        tested.update((name, image) for image in ranked[:kept])
        left_out.update((name, image) for image in ranked[kept:count])
    return tested, left_out
