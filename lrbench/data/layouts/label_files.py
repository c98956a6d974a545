"""Files that give the class of each image of a flat folder: Kaggle's, Caffe's, torchvision's and ILSVRC's own."""

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

LabelReader = Callable[[Path, Sequence[str], Sequence[str]], dict[str, str]]
"""Takes the file, the images' names and the classes' names, sorted. Returns the class of each image by its stem."""

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def choose_label_reader(path: Path) -> LabelReader:
    """Return the reader of a label file by its ending."""
    if path.is_dir():
        return _read_development_kit
    return {".csv": _read_solutions, ".bin": _read_meta}.get(path.suffix, _read_list)


def has_class_positions(path: Path, classes: Sequence[str]) -> bool:
    """Return whether a file gives classes as positions in the sorted list of all classes, so that none may be missing."""
    return choose_label_reader(path) is _read_list and not all(map(is_number, classes))


def stem(name: str) -> str:
    """Return an image's name without its ending."""
    return os.path.splitext(name)[0]


def _read_solutions(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Read Kaggle's `ImageId,PredictionString`; the first word of the second column is the class."""
    labels: dict[str, str] = {}
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path), newline="")), start=1):
            if number == 1:
                continue
            if len(row) < 2 or not row[1].split():
                raise InputError(
                    f"{path}, line {number}: {shorten(','.join(row))} is not `ImageId,class …`. Get the file again."
                )
            _add_label(path, number, labels, row[0], row[1].split()[0])
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}. Get the file again.") from error
    return labels


def _read_list(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Read lines `file number`. The number is the class's name if all names are numbers, else its position from 0."""
    class_of = _classes_by_number(path, classes)
    labels: dict[str, str] = {}
    for line_number, line in enumerate(read_lines(path), start=1):
        name, _, number = line.rstrip().rpartition(" ")
        if not name or not is_number(number):
            raise InputError(
                f"{path}, line {line_number}: {shorten(line)} is not an image and a class number. Get the file again."
            )
        if int(number) not in class_of:
            known = (
                f"the names of the {len(classes):,} classes are numbers ({first_few(classes)})"
                if all(map(is_number, classes))
                else f"there are {len(classes):,} classes, numbered from 0"
            )
            raise InputError(f"{path}, line {line_number}: class {number} does not exist; {known}. Correct the list.")
        _add_label(path, line_number, labels, stem(name.rpartition("/")[2]), class_of[int(number)])
    return labels


def _classes_by_number(path: Path, classes: Sequence[str]) -> dict[int, str]:
    """Return the class that each number stands for.

    Raises:
        InputError: A number is ambiguous.
    """
    advice = "Use a CSV file of image and class name, or move each image into the folder of its class."
    if all(map(is_number, classes)):
        class_of = {int(name): name for name in classes}
        if len(class_of) < len(classes):
            twin = next(name for name in classes if class_of[int(name)] != name)
            raise InputError(
                f"{path} gives classes as numbers, but {twin!r} and {class_of[int(twin)]!r} are the same number. {advice}"
            )
        return class_of
    # Other programs may sort names with numbers or capital letters differently.
    natural = sorted(
        classes, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name.casefold())]
    )
    misplaced = next(
        (name for n, name in enumerate(classes) if name != natural[n] or (is_number(name) and int(name) != n)), None
    )
    if misplaced is not None:
        raise InputError(
            f"{path} gives classes as numbers, which are ambiguous: {misplaced!r} has different positions in textual and in "
            f"numerical order. {advice}"
        )
    return dict(enumerate(classes))


def _add_label(path: Path, line: int, labels: dict[str, str], image: str, klass: str) -> None:
    """Add an image's class.

    Raises:
        InputError: The image already has a different class.
    """
    if labels.setdefault(image, klass) != klass:
        raise InputError(
            f"{path}, line {line}: image {shorten(image)} has class {klass!r}, but an earlier line has {labels[image]!r}. Get "
            "the file again."
        )


def _read_meta(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Read torchvision's `meta.bin`: the class of each validation image, in the order of their names."""
    import torch

    try:
        content = read_bytes(path, limit=MOST_LIST_BYTES)
        with warnings.catch_warnings():
            # torch warns about a kind of pickle that the error below reports.
            warnings.simplefilter("ignore")
            _, wnids = torch.load(io.BytesIO(content), weights_only=True)
        if not isinstance(wnids, list | tuple) or not all(isinstance(wnid, str) for wnid in wnids):
            raise TypeError("its second part is not a list of words")
    except InputError:
        raise
    except Exception as error:
        # torch raises several kinds of errors on files that are damaged or contain more than plain data.
        raise InputError(f"{path} is not torchvision's meta.bin ({type(error).__name__}). Remove it.") from error
    return _label_by_number(images, wnids)


def _read_development_kit(path: Path, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Read the development kit: ground truth in ILSVRC's class numbers, and the table of these numbers."""
    table, truth = path / "data" / "meta.mat", path / "data" / _GROUND_TRUTH
    advice = f"Get the ILSVRC 2012 development kit again: data/{table.name} and data/{truth.name} are needed."
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
        raise DamagedFile(table, "several classes have the same number", advice)
    wnids = []
    for line, number in enumerate(read_lines(truth), start=1):
        if number.strip() not in wnid_of:
            raise InputError(f"{truth}, line {line}: {shorten(number)} is not a class number of {table}. {advice}")
        wnids.append(wnid_of[number.strip()])
    return _label_by_number(images, wnids)


def _label_by_number(images: Sequence[str], wnids: Sequence[str]) -> dict[str, str]:
    """Label images by the number in `ILSVRC2012_val_00000293.JPEG`, so that missing images shift no label."""
    labels = {}
    for image in images:
        match = re.search(r"(\d{8})$", stem(image))
        if match and 0 < int(match[1]) <= len(wnids):
            labels[stem(image)] = wnids[int(match[1]) - 1]
    return labels
