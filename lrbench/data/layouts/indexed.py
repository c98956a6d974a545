"""The layout `indexed`: text files joined on an image id, as CUB-200-2011 and NABirds have them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lrbench.config.task import IndexedFiles, Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.data_folder import find_data_folder, how_to_get
from lrbench.data.layouts.display import first_few, printable, shorten
from lrbench.data.layouts.layout_data import LayoutData, Sample, from_files
from lrbench.data.layouts.list_files import is_number, read_lines, reject_outside_path
from lrbench.data.layouts.listed_images import find_unlisted_images
from lrbench.data.layouts.unicode_names import PathLookup


def find_indexed(task: Task, files: IndexedFiles, roots: Sequence[Path]) -> Path:
    """The folder that holds the text files.

    Raises:
        InputError: It was not found, or is CUB-200 of 2010.
    """

    def objection(root: Path) -> str | None:
        _refuse_2010(task, files, root)
        missing = [name for name in _file_names(files) if not os.path.isfile(root / name)]
        return f"no {', '.join(missing)} in it" if missing else None

    wanted = f"a folder with {', '.join(_file_names(files))}"
    return find_data_folder(task, roots, files.root, wanted=wanted, objection=objection)


def read_indexed(task: Task, files: IndexedFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set whose labels and split are text files joined on an image id, never on a line's number.

    Classes are in the order of their ids; those without images (NABirds lists its whole hierarchy) are left out.

    Raises:
        InputError: Not found, files that do not name the same images, an unknown class, no image at all, or a
            class none of whose images is there although its folder is.
    """
    root = find_indexed(task, files, roots)
    paths = _table(root / files.images)
    labels = _table(root / files.labels)
    trains = _table(root / files.split)
    classes = _table(root / files.classes)
    _refuse_mismatch(task, root / files.images, paths, root / files.labels, labels)
    _refuse_mismatch(task, root / files.images, paths, root / files.split, trains)
    unknown = sorted(set(labels.values()) - classes.keys())
    if unknown:
        raise InputError(
            f"{root / files.labels} names classes that {files.classes} does not have: {first_few(unknown)}."
        )
    samples: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    named: dict[SplitName, list[str]] = {"train": [], "test": []}
    on_disk = PathLookup(root / files.folder)
    missing: dict[str, list[str]] = {}
    for image, path in paths.items():
        if trains[image] not in {"0", "1"}:
            said = shorten(trains[image])
            raise InputError(
                f"{root / files.split}: image {shorten(image, quote=False)} has {said} where 0 or 1 should be."
            )
        reject_outside_path(root / files.images, path)
        if (found := on_disk.find(path)) is not None:
            split: SplitName = "train" if trains[image] == "1" else "test"
            samples[split].append((labels[image], found))
            named[split].append(path)
        else:
            missing.setdefault(labels[image], []).append(path)
    present = {name for images in samples.values() for name, _ in images}
    if paths and not present:
        raise InputError(
            f"none of the {len(paths):,} images that {root / files.images} names is there: the first was looked for at "
            f"{root / files.folder / next(iter(paths.values()))}. Copy the images of task {task.name} to {root / files.folder}"
            f", or set files.folder in its TOML. {how_to_get(task)}"
        )
    _refuse_emptied(task, root / files.folder, {name: gone for name, gone in missing.items() if name not in present})
    problems = []
    if missing:
        gone = [path for paths_of_class in missing.values() for path in paths_of_class]
        problems.append(f"{len(gone):,} of {len(paths):,} images in {files.images} are not there ({first_few(gone)})")
    order = sorted(classes, key=lambda name: (0, int(name), "") if is_number(name) else (1, 0, name))
    reading = from_files(
        task,
        root=root,
        images=root / files.folder,
        classes=order,
        samples=samples,
        ids=named,
        problems=problems,
        unused=find_unlisted_images(task, root / files.folder, samples),
    )
    return replace(reading, classes=tuple(printable(classes[name]) for name in reading.classes))


def _file_names(files: IndexedFiles) -> tuple[str, ...]:
    return (files.images, files.labels, files.split, files.classes)


def _table(path: Path) -> dict[str, str]:
    """The lines `<id> <value>` of a file; the value may hold spaces."""
    table: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, space, value = line.rstrip().partition(" ")
        if not space or not value:
            raise InputError(
                f"{path}, line {number}: {shorten(line)} is not an id, a space and a value. Copy the file again."
            )
        if key in table:
            raise InputError(
                f"{path}, line {number}: the id {shorten(key, quote=False)} occurs twice. Copy the file again."
            )
        table[key] = value
    return table


def _refuse_mismatch(task: Task, path: Path, ids: dict[str, str], other: Path, others: dict[str, str]) -> None:
    apart = sorted(ids.keys() ^ others.keys())
    if apart:
        raise InputError(
            f"{path} names {len(ids):,} images and {other} {len(others):,}, and {len(apart):,} ids are in only one of "
            f"them ({first_few(apart)}), so the data of task {task.name} is half-copied. Copy both files again."
        )


def _refuse_emptied(task: Task, folder: Path, gone: dict[str, list[str]]) -> None:
    parents = sorted({path.rpartition("/")[0] for paths in gone.values() for path in paths} - {""})
    emptied = [name for name in parents if os.path.isdir(folder / name)]
    if emptied:
        raise InputError(
            f"{len(emptied)} class folders of task {task.name} in {folder} hold none of their images "
            f"({first_few(emptied)}). Copy these classes again, or delete the empty folders."
        )


def _refuse_2010(task: Task, files: IndexedFiles, root: Path) -> None:
    if os.path.isfile(root / "lists" / "train.txt") and not os.path.isfile(root / files.images):
        raise InputError(
            f"{root} holds CUB-200 of 2010 (it has lists/train.txt and no {files.images}), which is another data set: "
            f"6,033 images with another split. Task {task.name} needs CUB-200-2011. {how_to_get(task)}"
        )
