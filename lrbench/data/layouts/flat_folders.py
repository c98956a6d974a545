"""Labels of a split whose folder is flat: what else on disk says the class of each image.

ImageNet's validation archive unpacks flat; who has not moved its images has one of the files read here.
"""

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from lrbench.config.task import SplitFoldersFiles, Task
from lrbench.core.errors import InputError
from lrbench.data.layouts.data_folder import how_to_get
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.image_folders import list_images
from lrbench.data.layouts.label_files import choose_label_reader, has_class_positions, stem
from lrbench.data.layouts.unicode_names import unify_unicode_forms

# A copy of Kaggle's has its solutions three folders above the images: ILSVRC/Data/CLS-LOC.
_LEVELS_ABOVE = 3


def read_flat_folder(
    task: Task, files: SplitFoldersFiles, root: Path, folder: str, classes: Sequence[str]
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The images of a flat folder with their classes.

    Args:
        task: The task, for messages.
        files: Names in `flat_labels` the files that may hold the classes, in the order in which they are tried.
        root: The data set's folder; the files are sought in it and in the three folders above.
        folder: The flat folder, relative to `root`.
        classes: The classes' folder names, sorted; also of those that are still archives, since lists count classes.

    Returns:
        Class, path relative to `root`, and name (`folder/class/file`, as if the images lay in class folders, so that the
        two layouts are one data set) of each image; and problems, each a clause.

    Raises:
        InputError: Nothing says the classes, or what says them is damaged.
    """
    images, unreadable = list_images(root / folder)
    problems = [f"in {folder}, {problem}" for problem in unreadable]
    if not images:
        raise InputError(
            f"{root / folder} of task {task.name} holds no image that can be read: {'; '.join(problems)}. {how_to_get(task)}"
        )
    above = [root, *list(root.absolute().parents)[:_LEVELS_ABOVE]]
    uncountable = None
    for name in files.flat_labels:
        path = next((each / name for each in above if os.path.exists(each / name)), None)
        if path is None:
            continue
        if has_class_positions(path, classes) and count_all_classes(task, files) not in {None, len(classes)}:
            uncountable = path
            continue
        samples, missing = _joined(
            task, path, folder, images, choose_label_reader(path)(path, images, classes), classes
        )
        return samples, [*problems, *missing]
    known = set(classes)
    named = {image: _class_in_name(image, known) for image in images}
    if all(named.values()):
        samples = [
            (klass, f"{folder}/{image}", f"{folder}/{klass}/{_without_class(image, klass)}")
            for image, klass in named.items()
            if klass
        ]
        return sorted(samples, key=lambda sample: (sample[0], sample[2])), problems
    if uncountable is not None:
        raise InputError(
            f"{uncountable} says the classes of task {task.name}'s images as numbers, which count the "
            f"{count_all_classes(task, files):,} classes in the order of their names; but {root / files.train} holds "
            f"{len(classes):,}, so the numbers would mean other classes. Copy the training classes that are missing, or take "
            f"out what is no class. {how_to_get(task)}"
        )
    wanted = (
        f" Nor was any of {', '.join(files.flat_labels)} found in {root} or the folders above it."
        if files.flat_labels
        else ""
    )
    raise InputError(
        f"{root / folder} is flat: its images ({images[0]}, …) lie in it directly, and not in one folder for each class, "
        f"so task {task.name} has no labels for them.{wanted} Move each image into {root / folder}/<class>/, with the same "
        f"class folder names as for training{', or put one of those files there' if wanted else ''}. {how_to_get(task)}"
    )


def count_all_classes(task: Task, files: SplitFoldersFiles) -> int | None:
    """How many classes the whole data set has, of which the task takes every so-many-th; None where it pins no number."""
    return None if task.classes is None else task.classes * files.every


def _joined(
    task: Task, path: Path, folder: str, images: Sequence[str], labels: Mapping[str, str], classes: Sequence[str]
) -> tuple[list[tuple[str, str, str]], list[str]]:
    known = set(classes)
    class_of = unify_unicode_forms([*classes, *labels.values()])
    labels = {image: class_of[klass] for image, klass in labels.items()}
    strange = sorted({klass for klass in labels.values() if klass not in known})
    samples = [
        (labels[stem(image)], f"{folder}/{image}", f"{folder}/{labels[stem(image)]}/{image}")
        for image in images
        if stem(image) in labels
    ]
    problems = []
    if strange:
        samples = [sample for sample in samples if sample[0] in known]
        problems.append(f"{path} names {len(strange):,} classes that have no training folder ({first_few(strange)})")
    unlabelled = [image for image in images if stem(image) not in labels]
    if unlabelled:
        problems.append(f"{len(unlabelled):,} images in {folder} are not in {path} ({first_few(unlabelled)})")
    absent = sorted(labels.keys() - {stem(image) for image in images})
    if absent and not task.counts:
        problems.append(
            f"{len(absent):,} of {len(labels):,} images that {path} names are not in {folder} ({first_few(absent)})"
        )
    if not samples:
        raise InputError(
            f"{path} labels none of the images of task {task.name} in {folder} ({images[0]}, …). Is it the file of another "
            "data set? Take it away, or get the right one."
        )
    return sorted(samples, key=lambda sample: (sample[0], sample[2])), problems


def _class_in_name(image: str, known: Set[str]) -> str | None:
    """The class in `ILSVRC2012_val_00000293_n01440764.JPEG`, as the Hub's archives name ImageNet's images."""
    last = stem(image).rpartition("_")[2]
    return last if last in known else None


def _without_class(image: str, klass: str) -> str:
    name, ending = os.path.splitext(image)
    return name.removesuffix(f"_{klass}") + ending
