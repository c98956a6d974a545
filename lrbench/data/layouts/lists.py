"""The layout `lists`: text files name the images of each split, one on each line, as `class/file.jpg`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lrbench.config.files import ListsFiles
from lrbench.config.strict import OneOrMore
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.wording import counted
from lrbench.data.examples import SplitName
from lrbench.data.layouts.data_folder import candidates, find_data_folder
from lrbench.data.layouts.display import first_few, shorten
from lrbench.data.layouts.layout_data import LayoutData, Sample, from_files, prepend_causes
from lrbench.data.layouts.list_files import (
    describe_hash_mismatch,
    is_number,
    read_lines,
    reject_duplicates,
    reject_outside_path,
)
from lrbench.data.layouts.listed_images import (
    choose_image_folder,
    describe_missing_images,
    describe_missing_parts,
    existing_image_folders,
    find_list,
    find_listed_images,
    find_unlisted_images,
    image_path,
    no_images_error,
    reject_shared_images,
    sort_classes,
    unify_class_names,
)


def find_lists(task: Task, files: ListsFiles, roots: Sequence[Path]) -> Path:
    """Return the folder that contains the image folder and the lists.

    Raises:
        InputError: It was not found.
    """
    lists = list(_list_names(files).values())
    names = ", ".join(candidates(names)[0] for names in lists)
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted=f"the image folder {' or '.join(candidates(files.images))} and the lists {names}",
        objection=lambda root: describe_missing_parts(root, files.images, lists),
    )


def read_lists(task: Task, files: ListsFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set whose splits are lists of file names.

    Names are split at `/` and never at spaces, which file names may contain. Listed files may have any ending. Images that
    no list names are not part of the task.

    Raises:
        InputError: The data was not found, a line is not `class/file`, an image is listed twice, or a class has a folder but
            none of its images.
    """
    root = find_lists(task, files, roots)
    folders = existing_image_folders(files.images, root)
    paths: dict[SplitName, Path] = {}
    problems: list[str] = []
    for split, name in _list_names(files).items():
        path = find_list(root, folders, name)
        assert path is not None
        paths[split] = path
        if split in files.hashes and (problem := describe_hash_mismatch(path, files.hashes[split])):
            problems.append(problem)
    listed: dict[SplitName, list[Sample]] = {}
    ids: dict[SplitName, list[str]] = {}
    samples: dict[SplitName, list[Sample]] = {}
    with prepend_causes(tuple(problems)):
        lines = {split: _parse_lines(task, path, read_lines(path), files.label) for split, path in paths.items()}
        for split, named in unify_class_names(lines).items():
            path, folder = paths[split], choose_image_folder(root, folders, named)
            listed[split] = [(klass, image_path(folder, image)) for klass, image in named]
            images = find_listed_images(root, folder, named)
            samples[split], ids[split] = images.samples, images.ids
            if named and not images.samples:
                if files.label != "column":
                    _reject_label_column(task, path, root, folder, named)
                raise no_images_error(
                    task, path, root / listed[split][0][1], len(named), _table_hint(path, named[0][1])
                )
            problems.extend(describe_missing_images(images, len(named), f"listed {split}"))
        reject_shared_images(task, root, listed)
        if files.label != "column":
            _reject_emptied_folders(task, root, listed, samples)
    names = {name for members in listed.values() for name, _ in members}
    return from_files(
        task,
        root=root,
        images=root,
        classes=sort_classes(names) if files.label == "column" else sorted(names),
        samples=samples,
        ids=ids,
        problems=problems,
        unused=find_unlisted_images(task, root, samples),
    )


def _list_names(files: ListsFiles) -> dict[SplitName, OneOrMore]:
    names: dict[SplitName, OneOrMore] = {"train": files.train, "test": files.test}
    if files.val:
        names["val"] = files.val
    return names


def _parse_lines(task: Task, path: Path, lines: Sequence[str], label: str) -> list[Sample]:
    """Return class and image of each line.

    Raises:
        InputError: A line has another form, a path is outside the image folder, or an image occurs twice.
    """
    samples = []
    for number, line in enumerate(lines, start=1):
        if label == "column":
            name, _, klass = line.rstrip().rpartition(" ")
            if not name or not is_number(klass):
                raise InputError(
                    f"{path}, line {number}: {shorten(line)} is not an image path, a space and a class number, as "
                    f'label = "column" of task {task.name} requires. Correct the list or files.label.'
                )
            klass = str(int(klass))
        else:
            # SUN397's lists start with `/`.
            name = line.removeprefix("/" if label == "path" else "./")
            klass, slash, file = name.rpartition("/")
            if label == "folder":
                klass = klass.rpartition("/")[2]
            if not slash or not klass or not file:
                raise InputError(
                    f"{path}, line {number}: {shorten(line)} is not `class/file`, as task {task.name} requires. "
                    f"{_table_hint(path, line) or 'Get the original list.'}"
                )
        reject_outside_path(path, name)
        samples.append((klass, name))
    reject_duplicates(task, path, [name for _, name in samples])
    return samples


def _table_hint(path: Path, line: str) -> str:
    """Return a sentence if the file looks like a table with columns, else nothing."""
    if path.suffix.lower() not in (".csv", ".tsv") and "," not in line and "\t" not in line:
        return ""
    return 'If it is a table with a column of images and a column of classes, use layout = "table".'


def _reject_label_column(task: Task, path: Path, root: Path, folder: str, named: Sequence[Sample]) -> None:
    """Reject a list without a label column whose lines are an image and a number.

    Raises:
        InputError: Names the key to set.
    """
    _, line = named[0]
    name, space, number = line.rstrip().rpartition(" ")
    if space and is_number(number) and os.path.isfile(root / image_path(folder, name)):
        raise InputError(
            f"none of the images in {path} exists, but {name!r} does, and its line ends with the number {number}. If that is "
            f'the class number, set label = "column" under [files] in the TOML of task {task.name}.'
        )


def _reject_emptied_folders(
    task: Task,
    images: Path,
    listed: Mapping[SplitName, Sequence[Sample]],
    samples: Mapping[SplitName, Sequence[Sample]],
) -> None:
    present = {name for members in samples.values() for name, _ in members}
    folders = {name: path.rpartition("/")[0] for members in listed.values() for name, path in members}
    emptied = sorted(name for name in folders if name not in present and os.path.isdir(images / folders[name]))
    if emptied:
        raise InputError(
            f"task {task.name} has {counted(len(emptied), 'class folder')} in {images} without any listed image "
            f"({first_few(emptied)}). Copy these classes again, or remove both their folders and their lines in the lists."
        )
