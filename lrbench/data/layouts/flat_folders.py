"""Splits whose images are directly in one folder, without class folders; another file gives their classes.

ImageNet's validation archive unpacks this way.
"""

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from lrbench.config.files import SplitFoldersFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.wording import counted
from lrbench.data.layouts.data_folder import how_to_get
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.image_folders import list_images
from lrbench.data.layouts.label_files import choose_label_reader, has_class_positions, stem
from lrbench.data.layouts.unicode_names import unify_unicode_forms

# Kaggle's copy has its solutions three folders above the images: ILSVRC/Data/CLS-LOC.
_LEVELS_ABOVE = 3


def read_flat_folder(
    task: Task, files: SplitFoldersFiles, root: Path, folder: str, classes: Sequence[str]
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return the images of a flat folder with their classes.

    Args:
        task: The task, for messages.
        files: `flat_labels` names the files that may give the classes, in the order in which they are tried.
        root: The data set's folder. The files are looked for in it and in the three folders above.
        folder: The flat folder, relative to `root`.
        classes: Names of the class folders, sorted, with those that are still archives: lists may number all of them.

    Returns:
        Class, path relative to `root`, and name of each image, and problems, each a clause. The name is
        `folder/class/file`, as in class folders, so that both layouts are the same data set.

    Raises:
        InputError: No file gives the classes, or that file is damaged.
    """
    images, unreadable = list_images(root / folder)
    problems = [f"in {folder}, {problem}" for problem in unreadable]
    if not images:
        raise InputError(
            f"{root / folder} of task {task.name} has no readable image: {'; '.join(problems)}. {how_to_get(task)}"
        )
    expected = count_all_classes(task, files)
    folders = [root, *list(root.absolute().parents)[:_LEVELS_ABOVE]]
    positional = None
    for name in files.flat_labels:
        path = next((parent / name for parent in folders if os.path.exists(parent / name)), None)
        if path is None:
            continue
        if has_class_positions(path, classes) and expected not in {None, len(classes)}:
            positional = path
            continue
        labels = choose_label_reader(path)(path, images, classes)
        samples, label_problems = _join_labels(task, path, folder, images, labels, classes)
        return samples, [*problems, *label_problems]
    known = set(classes)
    class_of = {image: _class_in_name(image, known) for image in images}
    if all(class_of.values()):
        samples = [
            (klass, f"{folder}/{image}", f"{folder}/{klass}/{_without_class(image, klass)}")
            for image, klass in class_of.items()
            if klass
        ]
        return sorted(samples, key=lambda sample: (sample[0], sample[2])), problems
    if positional is not None:
        raise InputError(
            f"{positional} numbers the {expected:,} classes of task {task.name} in the order of their names, but "
            f"{root / files.train} has {len(classes):,} classes, so its numbers would mean other classes. Copy the missing "
            f"training classes, or remove folders that are not classes. {how_to_get(task)}"
        )
    label_files = ", ".join(files.flat_labels)
    missing = f" None of {label_files} was found in {root} or the three folders above it." if label_files else ""
    alternative = ", or add one of these files" if label_files else ""
    raise InputError(
        f"{root / folder} is flat: its images ({images[0]}, …) are not in class folders, so task {task.name} has no labels for "
        f"them.{missing} Move each image into {root / folder}/<class>/, with the class names of the training folders"
        f"{alternative}. {how_to_get(task)}"
    )


def count_all_classes(task: Task, files: SplitFoldersFiles) -> int | None:
    """Return the number of classes of the whole data set, of which the task takes every `files.every`-th; None if unknown."""
    return None if task.classes is None else task.classes * files.every


def _join_labels(
    task: Task, path: Path, folder: str, images: Sequence[str], labels: Mapping[str, str], classes: Sequence[str]
) -> tuple[list[tuple[str, str, str]], list[str]]:
    known = set(classes)
    class_of = unify_unicode_forms([*classes, *labels.values()])
    labels = {image: class_of[klass] for image, klass in labels.items()}
    unknown = sorted({klass for klass in labels.values() if klass not in known})
    samples = [
        (labels[stem(image)], f"{folder}/{image}", f"{folder}/{labels[stem(image)]}/{image}")
        for image in images
        if stem(image) in labels
    ]
    problems = []
    if unknown:
        samples = [sample for sample in samples if sample[0] in known]
        problems.append(f"{path} names classes without a training folder ({first_few(unknown)})")
    unlabelled = [image for image in images if stem(image) not in labels]
    if unlabelled:
        problems.append(
            f"{path} has no label for {counted(len(unlabelled), 'image')} in {folder} ({first_few(unlabelled)})"
        )
    missing = sorted(labels.keys() - {stem(image) for image in images})
    if missing and not task.counts:
        problems.append(
            f"{len(missing):,} of {len(labels):,} images in {path} are missing from {folder} ({first_few(missing)})"
        )
    if not samples:
        raise InputError(
            f"{path} labels none of the images of task {task.name} in {folder} ({images[0]}, …). It may belong to another data "
            "set; remove it, or get the right file."
        )
    return sorted(samples, key=lambda sample: (sample[0], sample[2])), problems


def _class_in_name(image: str, known: Set[str]) -> str | None:
    """Return the class in `ILSVRC2012_val_00000293_n01440764.JPEG`, as the Hub's archives name ImageNet's images."""
    last = stem(image).rpartition("_")[2]
    return last if last in known else None


def _without_class(image: str, klass: str) -> str:
    name, ending = os.path.splitext(image)
    return name.removesuffix(f"_{klass}") + ending
