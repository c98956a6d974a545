"""Labels of a split whose folder is flat: what else on disk says the class of each image.

ImageNet's validation archive unpacks flat; who has not moved its images has one of the files read here.
"""

import csv
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from lrbench.data.layouts.reading import first_few
from lrbench.data.layouts.scanning import image_names
from lrbench.data.layouts.search import how_to_get
from lrbench.data.layouts.splits import read_lines
from lrbench.errors import InputError
from lrbench.registry.task import SplitFoldersFiles, Task

# A copy of Kaggle's has its solutions three folders above the images: ILSVRC/Data/CLS-LOC.
_LEVELS_ABOVE = 3
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def flat_members(
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
    images, unreadable = image_names(root / folder)
    problems = [f"in {folder}, {problem}" for problem in unreadable]
    if not images:
        raise InputError(
            f"{root / folder} of task {task.name} holds no image that can be read: {'; '.join(problems)}. {how_to_get(task)}"
        )
    above = [root, *list(root.absolute().parents)[:_LEVELS_ABOVE]]
    uncountable = None
    for name in files.flat_labels:
        path = next((each / name for each in above if (each / name).exists()), None)
        if path is None:
            continue
        reader = _reader(path)
        if reader is _from_list and whole_number_of_classes(task, files) not in {None, len(classes)}:
            uncountable = path
            continue
        members, missing = _joined(task, path, folder, images, reader(path, images, classes), classes)
        return members, [*problems, *missing]
    known = set(classes)
    named = {image: _class_in_name(image, known) for image in images}
    if all(named.values()):
        members = [
            (klass, f"{folder}/{image}", f"{folder}/{klass}/{_without_class(image, klass)}")
            for image, klass in named.items()
            if klass
        ]
        return sorted(members, key=lambda member: (member[0], member[2])), problems
    if uncountable is not None:
        raise InputError(
            f"{uncountable} says the classes of task {task.name}'s images as numbers, which count the "
            f"{whole_number_of_classes(task, files):,} classes in the order of their names; but {root / files.train} holds "
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


def whole_number_of_classes(task: Task, files: SplitFoldersFiles) -> int | None:
    """How many classes the whole data set has, of which the task takes every so-many-th; None where it pins no number."""
    return None if task.classes is None else task.classes * files.every


def _joined(
    task: Task, path: Path, folder: str, images: Sequence[str], labels: Mapping[str, str], classes: Sequence[str]
) -> tuple[list[tuple[str, str, str]], list[str]]:
    known = set(classes)
    strange = sorted({klass for klass in labels.values() if klass not in known})
    members = [
        (labels[_stem(image)], f"{folder}/{image}", f"{folder}/{labels[_stem(image)]}/{image}")
        for image in images
        if _stem(image) in labels
    ]
    problems = []
    if strange:
        members = [member for member in members if member[0] in known]
        problems.append(f"{path} names {len(strange):,} classes that have no training folder ({first_few(strange)})")
    unlabelled = [image for image in images if _stem(image) not in labels]
    if unlabelled:
        problems.append(f"{len(unlabelled):,} images in {folder} are not in {path} ({first_few(unlabelled)})")
    if not members:
        raise InputError(
            f"{path} labels none of the images of task {task.name} in {folder} ({images[0]}, …). Is it the file of another "
            "data set? Take it away, or get the right one."
        )
    return sorted(members, key=lambda member: (member[0], member[2])), problems


def _reader(path: Path) -> Callable[[Path, Sequence[str], Sequence[str]], dict[str, str]]:
    if path.is_dir():
        return _from_development_kit
    return {".csv": _from_solutions, ".bin": _from_meta}.get(path.suffix, _from_list)


def _from_solutions(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Kaggle's `ImageId,PredictionString`; the first word of the second column is the class."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    found = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) < 2 or not row[1].split():
            raise InputError(f"{path}, line {number}: {','.join(row)!r} is not `ImageId,class …`. Get the file again.")
        found[row[0]] = row[1].split()[0]
    return found


def _from_list(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Lines `file index`, the index counting the classes in sorted order from 0."""
    found = {}
    for number, line in enumerate(read_lines(path), start=1):
        name, _, index = line.rstrip().rpartition(" ")
        if not name or not index.isdecimal():
            raise InputError(
                f"{path}, line {number}: {line!r} is not an image and the number of its class. Get it again."
            )
        if int(index) >= len(classes):
            raise InputError(
                f"{path}, line {number}: class {index} does not exist; there are {len(classes):,} classes, numbered from 0."
            )
        found[_stem(name.rpartition("/")[2])] = classes[int(index)]
    return found


def _from_meta(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """torchvision's `meta.bin`: the class of each validation image, in the order of their names."""
    import torch

    try:
        with warnings.catch_warnings():
            # Of torch's own, about a kind of pickle that is told of below.
            warnings.simplefilter("ignore")
            _, wnids = torch.load(path, weights_only=True)
        ordered = [str(wnid) for wnid in wnids]
    except Exception as error:
        # torch raises a handful of kinds on a file that is damaged or holds more than plain data.
        raise InputError(f"{path} is not torchvision's meta.bin ({type(error).__name__}). Take it away.") from error
    return _in_order(path, images, ordered)


def _from_development_kit(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The kit's ground truth, which counts classes by ILSVRC's own numbers, and its table of them."""
    from scipy.io import loadmat

    data = path / "data"
    try:
        synsets = loadmat(data / "meta.mat", squeeze_me=True)["synsets"]
        wnid_of = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
        numbers = [int(line) for line in read_lines(data / _GROUND_TRUTH)]
        ordered = [wnid_of[number] for number in numbers]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{path} is not ImageNet's development kit as it was published: {error}. It needs data/meta.mat and "
            f"data/{_GROUND_TRUTH}."
        ) from error
    return _in_order(path, images, ordered)


def _in_order(path: Path, images: Sequence[str], ordered: Sequence[str]) -> dict[str, str]:
    """Labels by the number in `ILSVRC2012_val_00000293.JPEG`, so that missing images shift nothing."""
    found = {}
    for image in images:
        match = re.search(r"(\d{8})$", _stem(image))
        if match and 0 < int(match[1]) <= len(ordered):
            found[_stem(image)] = ordered[int(match[1]) - 1]
    return found


def _class_in_name(image: str, known: Set[str]) -> str | None:
    """The class in `ILSVRC2012_val_00000293_n01440764.JPEG`, as the Hub's archives name ImageNet's images."""
    last = _stem(image).rpartition("_")[2]
    return last if last in known else None


def _without_class(image: str, klass: str) -> str:
    stem, ending = os.path.splitext(image)
    return stem.removesuffix(f"_{klass}") + ending


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
