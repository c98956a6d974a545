"""Files that say the class of each image of a flat folder: Kaggle's, Caffe's, torchvision's and ILSVRC's own."""

import csv
import io
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_bytes
from lrbench.data.layouts.display import first_few, shorten
from lrbench.data.layouts.list_files import MOST_LIST_BYTES, is_number, read_lines, read_text
from lrbench.data.layouts.matlab import read_struct

Reader = Callable[[Path, Sequence[str], Sequence[str]], dict[str, str]]
"""Takes the file, the images' names and the classes' names, sorted; gives the class of each image without its ending."""

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def choose_label_reader(path: Path) -> Reader:
    """The reader of a file, by its ending."""
    if path.is_dir():
        return _from_development_kit
    return {".csv": _from_solutions, ".bin": _from_meta}.get(path.suffix, _from_list)


def has_class_positions(path: Path, classes: Sequence[str]) -> bool:
    """Whether a file says classes as positions in the list of their names, so that none of them may be missing."""
    return choose_label_reader(path) is _from_list and not all(map(is_number, classes))


def stem(name: str) -> str:
    """An image's name without its ending."""
    return os.path.splitext(name)[0]


def _from_solutions(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Kaggle's `ImageId,PredictionString`; the first word of the second column is the class."""
    labels: dict[str, str] = {}
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path), newline="")), start=1):
            if number == 1:
                continue
            if len(row) < 2 or not row[1].split():
                raise InputError(
                    f"{path}, line {number}: {shorten(','.join(row))} is not `ImageId,class …`. Get the file again."
                )
            _add(path, number, labels, row[0], row[1].split()[0])
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}. Get the file again.") from error
    return labels


def _from_list(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Lines `file number`: the class of that name where classes are called by numbers, else of that position from 0."""
    class_of = _classes_by_number(path, classes)
    labels: dict[str, str] = {}
    for line_number, line in enumerate(read_lines(path), start=1):
        name, _, number = line.rstrip().rpartition(" ")
        if not name or not is_number(number):
            raise InputError(
                f"{path}, line {line_number}: {shorten(line)} is not an image and the number of its class. Get it again."
            )
        if int(number) not in class_of:
            known = (
                f"the {len(classes):,} classes are called by numbers ({first_few(classes)})"
                if all(map(is_number, classes))
                else f"there are {len(classes):,} classes, numbered from 0"
            )
            raise InputError(f"{path}, line {line_number}: class {number} does not exist; {known}. Correct the list.")
        _add(path, line_number, labels, stem(name.rpartition("/")[2]), class_of[int(number)])
    return labels


def _classes_by_number(path: Path, classes: Sequence[str]) -> dict[int, str]:
    """The class that each number stands for.

    Raises:
        InputError: It may stand for several.
    """
    advice = (
        "Name the classes themselves in a CSV file of image and class, or move each image into the folder of its class."
    )
    if all(map(is_number, classes)):
        named = {int(name): name for name in classes}
        if len(named) < len(classes):
            twin = next(name for name in classes if named[int(name)] != name)
            raise InputError(
                f"{path} says classes as numbers, and {twin!r} and {named[int(twin)]!r} are one number. {advice}"
            )
        return named
    # Names that begin with numbers, or differ in case, come in another order in other programs.
    natural = sorted(
        classes, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name.casefold())]
    )
    misplaced = next(
        (name for n, name in enumerate(classes) if name != natural[n] or (is_number(name) and int(name) != n)), None
    )
    if misplaced is not None:
        raise InputError(
            f"{path} says classes as numbers, which are ambiguous: {misplaced!r} has another place when names are sorted as "
            f"text than when they are sorted by their numbers. {advice}"
        )
    return dict(enumerate(classes))


def _add(path: Path, line: int, labels: dict[str, str], image: str, klass: str) -> None:
    """Note an image's class.

    Raises:
        InputError: It has another one already.
    """
    if labels.setdefault(image, klass) != klass:
        raise InputError(
            f"{path}, line {line}: image {shorten(image)} has class {klass!r}, and {labels[image]!r} in a line before. Get "
            "it again."
        )


def _from_meta(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """torchvision's `meta.bin`: the class of each validation image, in the order of their names."""
    import torch

    try:
        content = read_bytes(path, limit=MOST_LIST_BYTES)
        with warnings.catch_warnings():
            # torch's own, about a kind of pickle that the error below names.
            warnings.simplefilter("ignore")
            _, wnids = torch.load(io.BytesIO(content), weights_only=True)
        if not isinstance(wnids, list | tuple) or not all(isinstance(wnid, str) for wnid in wnids):
            raise TypeError("its second part is not a list of words")
    except InputError:
        raise
    except Exception as error:
        # torch raises a handful of kinds on a file that is damaged or holds more than plain data.
        raise InputError(f"{path} is not torchvision's meta.bin ({type(error).__name__}). Take it away.") from error
    return _in_order(images, wnids)


def _from_development_kit(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The kit's ground truth, which counts classes by ILSVRC's own numbers, and its table of them."""
    table, truth = path / "data" / "meta.mat", path / "data" / _GROUND_TRUTH
    advice = f"Get the kit of ILSVRC 2012 again: it needs data/{table.name} and data/{truth.name}."
    try:
        rows = read_struct(
            read_bytes(table, limit=MOST_LIST_BYTES), "synsets", ("ILSVRC2012_ID", "WNID"), limit=MOST_LIST_BYTES
        )
    except FileNotFoundError as error:
        raise InputError(f"there is no file {table}. {advice}") from error
    except ValueError as error:
        raise DamagedFile(table, str(error), advice) from error
    wnid_of = {str(number).removesuffix(".0"): str(wnid) for number, wnid in rows}
    if len(wnid_of) < len(rows):
        raise DamagedFile(table, "several classes have one number", advice)
    ordered = []
    for line, number in enumerate(read_lines(truth), start=1):
        if number.strip() not in wnid_of:
            raise InputError(
                f"{truth}, line {line}: {shorten(number)} is not the number of a class in {table}. {advice}"
            )
        ordered.append(wnid_of[number.strip()])
    return _in_order(images, ordered)


def _in_order(images: Sequence[str], ordered: Sequence[str]) -> dict[str, str]:
    """Labels by the number in `ILSVRC2012_val_00000293.JPEG`, so that missing images shift nothing."""
    labels = {}
    for image in images:
        match = re.search(r"(\d{8})$", stem(image))
        if match and 0 < int(match[1]) <= len(ordered):
            labels[stem(image)] = ordered[int(match[1]) - 1]
    return labels
