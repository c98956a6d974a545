"""The layout `lists`: text files name the images of each split, one a line, as `class/file.jpg`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lrbench.config.strict import OneOrMore
from lrbench.config.task import ListsFiles, Task
from lrbench.core.errors import InputError
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
    """The folder that holds the images' folder and the lists.

    Raises:
        InputError: It was not found.
    """

    names = [candidates(each)[0] for each in _list_names(files).values()]
    wanted = f"the image folder {' or '.join(candidates(files.images))} and the lists {', '.join(names)}"
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted=wanted,
        objection=lambda root: describe_missing_parts(root, files.images, list(_list_names(files).values())),
    )


def read_lists(task: Task, files: ListsFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set whose splits are lists of file names.

    A name is split at `/` and never at spaces, which file names hold. Listed files are taken whatever their ending;
    images that no list names are not part of the task.

    Raises:
        InputError: Not found, a line that is no `class/file`, an image that is listed twice, or a class none of whose
            images is there although its folder is.
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
        lines = {split: _samples(task, path, read_lines(path), files.label) for split, path in paths.items()}
        for split, named in unify_class_names(lines).items():
            path, folder = paths[split], choose_image_folder(root, folders, named)
            listed[split] = [(klass, image_path(folder, image)) for klass, image in named]
            found = find_listed_images(root, folder, named)
            samples[split], ids[split] = found.samples, found.ids
            if named and not found.samples:
                if files.label != "column":
                    _refuse_columns(task, path, root, folder, named)
                raise no_images_error(
                    task, path, root / listed[split][0][1], len(named), _table_hint(path, named[0][1])
                )
            problems.extend(describe_missing_images(found, len(named), f"listed {split}"))
        reject_shared_images(task, root, listed)
        if files.label != "column":
            _refuse_emptied(task, root, listed, samples)
    names = {name for found in listed.values() for name, _ in found}
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


def _samples(task: Task, path: Path, lines: Sequence[str], label: str) -> list[Sample]:
    samples = []
    for number, line in enumerate(lines, start=1):
        if label == "column":
            name, _, klass = line.rstrip().rpartition(" ")
            if not name or not is_number(klass):
                raise InputError(
                    f"{path}, line {number}: {shorten(line)} is not an image's path followed by a space and the number of "
                    f'its class, as task {task.name} says (label = "column").'
                )
            klass = str(int(klass))
        else:
            # SUN397's lists start at the root of its images.
            name = line.removeprefix("/" if label == "path" else "./")
            klass, slash, file = name.rpartition("/")
            if label == "folder":
                klass = klass.rpartition("/")[2]
            if not slash or not klass or not file:
                raise InputError(
                    f"{path}, line {number}: {shorten(line)} is not `class/file`, as task {task.name} needs. "
                    f"{_table_hint(path, line)}Get the original list again."
                )
        reject_outside_path(path, name)
        samples.append((klass, name))
    reject_duplicates(task, path, [name for _, name in samples])
    return samples


def _table_hint(path: Path, line: str) -> str:
    """A sentence for a file that is rather a table with columns; nothing for another."""
    if path.suffix.lower() not in (".csv", ".tsv") and "," not in line and "\t" not in line:
        return ""
    return 'If it is a table with a column of images and one of their classes, layout = "table" reads it. '


def _refuse_columns(task: Task, path: Path, root: Path, folder: str, named: Sequence[Sample]) -> None:
    """Refuse a list that was read for names alone, and whose lines are a name and the number of its class.

    Raises:
        InputError: Names the key that says so.
    """
    _, line = named[0]
    name, space, number = line.rstrip().rpartition(" ")
    if space and is_number(number) and os.path.isfile(root / image_path(folder, name)):
        raise InputError(
            f"no image that {path} lists is there, but {name!r} is, and its line goes on with a number, {number}. If that is "
            f'the number of its class, say so in the TOML of task {task.name}: label = "column" under [files].'
        )


def _refuse_emptied(
    task: Task,
    images: Path,
    listed: Mapping[SplitName, Sequence[Sample]],
    samples: Mapping[SplitName, Sequence[Sample]],
) -> None:
    present = {name for found in samples.values() for name, _ in found}
    folders = {name: path.rpartition("/")[0] for found in listed.values() for name, path in found}
    emptied = sorted(name for name in folders if name not in present and os.path.isdir(images / folders[name]))
    if emptied:
        raise InputError(
            f"{len(emptied)} class folders of task {task.name} in {images} hold none of their listed images "
            f"({first_few(emptied)}). Copy these classes again; what is to be left out has to go from the lists as well as "
            "from the folders."
        )
