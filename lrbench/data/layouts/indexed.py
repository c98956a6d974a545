"""The layout `indexed`: text files joined on an image id, as in CUB-200-2011 and NABirds."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lrbench.config.files import IndexedFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.wording import counted
from lrbench.data.examples import SplitName
from lrbench.data.layouts.data_folder import find_data_folder, how_to_get
from lrbench.data.layouts.display import first_few, printable, shorten
from lrbench.data.layouts.layout_data import LayoutData, Sample, from_files
from lrbench.data.layouts.list_files import is_number, read_lines, reject_outside_path
from lrbench.data.layouts.listed_images import find_unlisted_images
from lrbench.data.layouts.unicode_names import PathLookup


def find_indexed(task: Task, files: IndexedFiles, roots: Sequence[Path]) -> Path:
    """Return the folder that contains the text files.

    Raises:
        InputError: It was not found, or contains CUB-200 of 2010.
    """
    names = (files.images, files.labels, files.split, files.classes)

    def objection(root: Path) -> str | None:
        _reject_cub_2010(task, files, root)
        missing = [name for name in names if not os.path.isfile(root / name)]
        return f"no {', '.join(missing)} in it" if missing else None

    return find_data_folder(task, roots, files.root, wanted=f"a folder with {', '.join(names)}", objection=objection)


def read_indexed(task: Task, files: IndexedFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set whose labels and split are text files joined on an image id, never on the line number.

    Classes are in the order of their ids. Classes without images are left out: NABirds lists its whole hierarchy.

    Raises:
        InputError: The data was not found, the files name different images, a class is unknown, no image exists, or a class
            has a folder but none of its images.
    """
    root = find_indexed(task, files, roots)
    paths = _read_columns(root / files.images)
    labels = _read_columns(root / files.labels)
    trains = _read_columns(root / files.split)
    classes = _read_columns(root / files.classes)
    _reject_mismatch(task, root / files.images, paths, root / files.labels, labels)
    _reject_mismatch(task, root / files.images, paths, root / files.split, trains)
    unknown = sorted(set(labels.values()) - classes.keys())
    if unknown:
        raise InputError(
            f"{root / files.labels} has class ids that {files.classes} does not have: {first_few(unknown)}. Copy both files "
            "again."
        )
    samples: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    ids: dict[SplitName, list[str]] = {"train": [], "test": []}
    on_disk = PathLookup(root / files.folder)
    missing: dict[str, list[str]] = {}
    for image, path in paths.items():
        if trains[image] not in {"0", "1"}:
            raise InputError(
                f"{root / files.split}: image {shorten(image, quote=False)} has {shorten(trains[image])} instead of 0 or 1. "
                "Copy the file again."
            )
        reject_outside_path(root / files.images, path)
        if (existing := on_disk.find(path)) is not None:
            split: SplitName = "train" if trains[image] == "1" else "test"
            samples[split].append((labels[image], existing))
            ids[split].append(path)
        else:
            missing.setdefault(labels[image], []).append(path)
    present = {name for members in samples.values() for name, _ in members}
    if paths and not present:
        raise InputError(
            f"none of the {len(paths):,} images in {root / files.images} exists; the first was looked for at "
            f"{root / files.folder / next(iter(paths.values()))}. Copy the images of task {task.name} to {root / files.folder}"
            f", or set files.folder in its TOML. {how_to_get(task)}"
        )
    _reject_emptied_folders(
        task, root / files.folder, [path for name, gone in missing.items() if name not in present for path in gone]
    )
    problems = []
    if missing:
        gone = [path for paths_of_class in missing.values() for path in paths_of_class]
        problems.append(f"{len(gone):,} of {len(paths):,} images in {files.images} are missing ({first_few(gone)})")
    order = sorted(classes, key=lambda name: (0, int(name), "") if is_number(name) else (1, 0, name))
    data = from_files(
        task,
        root=root,
        images=root / files.folder,
        classes=order,
        samples=samples,
        ids=ids,
        problems=problems,
        unused=find_unlisted_images(task, root / files.folder, samples),
    )
    return replace(data, classes=tuple(printable(classes[name]) for name in data.classes))


def _read_columns(path: Path) -> dict[str, str]:
    """Read lines of the form `<id> <value>`; the value may contain spaces."""
    values: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, space, value = line.rstrip().partition(" ")
        if not space or not value:
            raise InputError(
                f"{path}, line {number}: {shorten(line)} is not an id, a space and a value. Copy the file again."
            )
        if key in values:
            raise InputError(
                f"{path}, line {number}: the id {shorten(key, quote=False)} occurs twice. Copy the file again."
            )
        values[key] = value
    return values


def _reject_mismatch(task: Task, path: Path, ids: dict[str, str], other: Path, other_ids: dict[str, str]) -> None:
    unmatched = sorted(ids.keys() ^ other_ids.keys())
    if unmatched:
        raise InputError(
            f"{path} of task {task.name} names {len(ids):,} images and {other} names {len(other_ids):,}, with "
            f"{counted(len(unmatched), 'id')} in only one of them ({first_few(unmatched)}). Copy both files again."
        )


def _reject_emptied_folders(task: Task, folder: Path, missing: Sequence[str]) -> None:
    """Reject classes whose folders exist without any of their images."""
    parents = sorted({path.rpartition("/")[0] for path in missing} - {""})
    emptied = [name for name in parents if os.path.isdir(folder / name)]
    if emptied:
        raise InputError(
            f"task {task.name} has {counted(len(emptied), 'class folder')} in {folder} without any listed image "
            f"({first_few(emptied)}). Copy these classes again, or delete the empty folders."
        )


def _reject_cub_2010(task: Task, files: IndexedFiles, root: Path) -> None:
    if os.path.isfile(root / "lists" / "train.txt") and not os.path.isfile(root / files.images):
        raise InputError(
            f"{root} contains CUB-200 of 2010 (it has lists/train.txt and no {files.images}), a different data set of 6,033 "
            f"images. Task {task.name} needs CUB-200-2011. {how_to_get(task)}"
        )
