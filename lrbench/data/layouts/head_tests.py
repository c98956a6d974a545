"""The layouts `test-folders` and `test-labels`: test images for the classifier of another task."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrbench.config.head import TestFoldersFiles, TestLabelsFiles
from lrbench.config.registry import task_folders
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, sha256_file
from lrbench.core.wording import counted
from lrbench.data.examples import Split
from lrbench.data.layouts.data_folder import candidates, find_data_folder, how_to_get
from lrbench.data.layouts.display import first_few, printable
from lrbench.data.layouts.file_images import FileImages
from lrbench.data.layouts.image_folders import has_images, list_class_folders, list_images, scan_class_folders
from lrbench.data.layouts.layout_data import LayoutData
from lrbench.data.layouts.list_files import describe_hash_mismatch, is_number, read_lines, read_text

# Folders above the images in which a file of labels is looked for.
_LEVELS_ABOVE = 3
# Digits at the end of an image's name, which number it: ILSVRC2012_val_00000001.
_DIGITS = 8


def head_classes(task: Task) -> tuple[list[str], list[str]]:
    """Return the classes of the classifier that a task tests, in the order of its outputs, and problems with their file.

    Raises:
        InputError: The file is missing.
    """
    assert task.head is not None
    folders = dict.fromkeys((*(() if task.folder is None else (task.folder,)), *task_folders()))
    path = next((folder / task.head.classes for folder in folders if os.path.isfile(folder / task.head.classes)), None)
    if path is None:
        raise InputError(
            f"the list of classes {task.head.classes!r} of task {task.name} was not found. Looked in: "
            f"{'; '.join(map(str, folders))}. Put it next to the task's TOML file."
        )
    problem = describe_hash_mismatch(path, f"sha256:{task.head.sha256}")
    return read_lines(path), [problem] if problem else []


def find_test_folders(task: Task, files: TestFoldersFiles, roots: Sequence[Path]) -> Path:
    """Return the folder that contains the class folders.

    Raises:
        InputError: It was not found.
    """
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted="one folder for each class",
        objection=lambda path: (
            None if any(has_images(path / name) for name in list_class_folders(path)) else "no images"
        ),
        classes=lambda path: (len(list_class_folders(path)), task.classes),
    )


def read_test_folders(task: Task, files: TestFoldersFiles, roots: Sequence[Path]) -> LayoutData:
    """Read class folders of test images.

    Raises:
        InputError: The data was not found, a folder is empty, or it is not a class of `head`.
    """
    root = find_test_folders(task, files, roots)
    known, problems = head_classes(task)
    folders = scan_class_folders(task, root)
    has_positions = all(map(is_number, folders.images))
    position = {str(number) if has_positions else name: number for number, name in enumerate(known)}
    unknown = [name for name in folders.images if name not in position]
    if unknown:
        raise InputError(
            f"{root} of task {task.name} has {counted(len(unknown), 'folder')} named neither like a class nor like the "
            f"position of a class in {task.head.classes if task.head else ''}: {first_few(unknown)}. Remove what does not "
            "belong to the task, or get the original data."
        )
    present = sorted(folders.images, key=position.__getitem__)
    # A missing folder must not make a task of all classes easier.
    classes = known if task.classes == len(known) else [known[position[name]] for name in present]
    label_of = {name: label for label, name in enumerate(classes)}
    paths = [f"{name}/{image}" for name in present for image in folders.images[name]]
    labels = [label_of[known[position[name]]] for name in present for _ in folders.images[name]]
    return LayoutData(
        where=str(root),
        classes=tuple(classes),
        splits={"test": _split(task, root, paths, labels)},
        problems=(*problems, *folders.problems),
        unused=tuple(map(printable, (*folders.unsorted, *folders.unused))),
    )


def find_test_labels(task: Task, files: TestLabelsFiles, roots: Sequence[Path]) -> Path:
    """Return the folder of the images.

    Raises:
        InputError: It was not found.
    """
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted="the test images, directly in it or in folders of classes",
        objection=lambda path: (
            None
            if has_images(path) or any(has_images(path / name) for name in list_class_folders(path))
            else "no images"
        ),
    )


def read_test_labels(task: Task, files: TestLabelsFiles, roots: Sequence[Path]) -> LayoutData:
    """Read numbered images with the classes that are accepted for each.

    The label of an image is the first accepted class; annotations `accepted0`, `accepted1`, … hold all of them, filled up with
    -1. The label's class is where the leaderboard counts a hit, whichever accepted class was predicted.

    Raises:
        InputError: The images or the labels were not found, or do not fit together.
    """
    root = find_test_labels(task, files, roots)
    known, problems = head_classes(task)
    path = _find_labels(task, files, root)
    if (problem := describe_hash_mismatch(path, f"sha256:{files.sha256}")) is not None:
        problems.append(problem)
    accepted = _read_accepted(path, len(known))
    images, unreadable = list_images(root)
    if not images:
        images = []
        for name in list_class_folders(root):
            listed, more = list_images(root / name)
            images += [f"{name}/{image}" for image in listed]
            unreadable += more
    if not images:
        raise InputError(
            f"no image in {root} of task {task.name} can be read: {'; '.join(unreadable)}. {how_to_get(task)}"
        )
    problems += unreadable
    numbered = {_number(image): image for image in images}
    if None in numbered or len(numbered) < len(images) or max(map(int, filter(None, numbered))) > len(accepted):
        raise InputError(
            f"the images in {root} of task {task.name} are not numbered from 1 to {len(accepted):,} by the last {_DIGITS} "
            f"digits of their names, as {path} requires ({first_few(images)}). {how_to_get(task)}"
        )
    used = sorted((number, image) for number, image in numbered.items() if number and accepted[number - 1])
    most = max((len(accepted[number - 1]) for number, _ in used), default=1)
    table = np.full((len(used), most), -1, dtype=np.int64)
    for row, (number, _) in enumerate(used):
        classes = accepted[number - 1]
        table[row, : len(classes)] = classes
    annotations = {f"accepted{column}": table[:, column] for column in range(most)}
    # Images have the same names in folders of classes and in one folder.
    ids = [image.rpartition("/")[2] for _, image in used]
    split = _split(task, root, [image for _, image in used], table[:, 0].tolist(), ids=ids, annotations=annotations)
    return LayoutData(
        where=str(root),
        classes=tuple(known),
        splits={"test": split},
        problems=tuple(problems),
        edition=f"labels {sha256_file(path)}",
    )


def _split(
    task: Task,
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int],
    *,
    ids: Sequence[str] | None = None,
    annotations: dict[str, "np.typing.NDArray[np.int64]"] | None = None,
) -> Split:
    return Split(
        ids=tuple(map(printable, ids or paths)),
        labels=np.array(labels, dtype=np.int64),
        images=FileImages(root=root, paths=tuple(paths), task=task.argument, upright=task.upright),
        annotations=annotations or {},
    )


def _find_labels(task: Task, files: TestLabelsFiles, root: Path) -> Path:
    folders = [root, *list(root.absolute().parents)[:_LEVELS_ABOVE]]
    tried = [folder / name for folder in folders for name in candidates(files.labels)]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise InputError(
            f"the labels of task {task.name} were not found. Looked for {' or '.join(candidates(files.labels))} in {root} and "
            f"the {_LEVELS_ABOVE} folders above it. {how_to_get(task)}"
        )
    return path


def _read_accepted(path: Path, classes: int) -> list[list[int]]:
    """Return the accepted classes of each image."""
    remedy = "Get the original file."
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedFile(path, "it is not JSON", remedy) from error
    is_whole = isinstance(content, list) and all(
        isinstance(item, list) and all(type(label) is int and 0 <= label < classes for label in item)
        for item in content
    )
    if not is_whole:
        raise DamagedFile(path, f"it is not a list of lists of numbers from 0 to {classes - 1}", remedy)
    return content  # type: ignore[no-any-return]


def _number(image: str) -> int | None:
    digits = os.path.splitext(image)[0][-_DIGITS:]
    return int(digits) if len(digits) == _DIGITS and is_number(digits) and int(digits) else None
