"""The layout `split-folders`: `train/<class>/` and `test/<class>/`."""

import os
from collections.abc import Sequence, Set
from pathlib import Path

from lrbench.config.files import SplitFoldersFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.wording import counted
from lrbench.data.examples import SplitName
from lrbench.data.layouts.data_folder import find_data_folder, how_to_get, reject_file
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.flat_folders import count_all_classes, read_flat_folder
from lrbench.data.layouts.image_folders import (
    describe_unsorted_images,
    has_images,
    is_system_file,
    list_class_folders,
    scan_class_folders,
)
from lrbench.data.layouts.layout_data import LayoutData, Sample, from_files
from lrbench.data.layouts.unicode_names import unify_unicode_forms


def find_split_folders(task: Task, files: SplitFoldersFiles, roots: Sequence[Path]) -> Path:
    """Return the folder that contains the training and test folders.

    Raises:
        InputError: It was not found.
    """
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted=f"a folder with {files.train}/<class>/ and {files.test}/<class>/",
        objection=lambda path: None if os.path.isdir(path / files.train) else f"it has no folder {files.train}",
        classes=lambda path: (
            len(list_class_folders(path / files.train)) + len(_packed_classes(path / files.train)),
            count_all_classes(task, files),
        ),
    )


def read_split_folders(task: Task, files: SplitFoldersFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set with a folder for each split.

    Raises:
        InputError: The data was not found, a split's folder is missing or has no labels, a class folder is empty, or a class
            is tested but not trained on.
    """
    root = find_split_folders(task, files, roots)
    folders: dict[SplitName, str] = {"train": files.train, "test": files.test}
    if files.val:
        folders["val"] = files.val
    samples: dict[SplitName, list[Sample]] = {}
    ids: dict[SplitName, list[str]] = {}
    problems = []
    unused: list[str] = []
    classes: set[str] = set()
    packed: set[str] = set()
    # Training images come first: the labels of a flat folder refer to the training classes, those in archives included.
    for split, folder in folders.items():
        reject_file(task, root / folder)
        if not os.path.isdir(root / folder):
            raise InputError(
                f"the data of task {task.name} at {root} has no folder {folder!r}. It should contain the {split} images, in "
                f"one folder for each class. {how_to_get(task)}"
            )
        archives = _packed_classes(root / folder)
        if archives:
            problems.append(_describe_packed(task, root / folder, archives))
        if split == "train":
            packed.update(archives)
        if not list_class_folders(root / folder) and has_images(root / folder):
            flat, flat_problems = read_flat_folder(task, files, root, folder, sorted(classes | packed))
            problems.extend(flat_problems)
            samples[split] = [(name, path) for name, path, _ in flat]
            ids[split] = [identity for _, _, identity in flat]
            continue
        scanned = scan_class_folders(task, root / folder, skip=archives)
        unused.extend(f"{folder}/{path}" for path in (*scanned.unsorted, *scanned.unused))
        problems.extend(f"in {folder}, {problem}" for problem in scanned.problems)
        problems.extend(describe_unsorted_images(task, root / folder, split, scanned.unsorted))
        # A class is named as its training folder, in whatever Unicode form another split's folder has.
        class_of = unify_unicode_forms([*sorted(classes | packed), *scanned.images])
        if split != "train" and len(scanned.images) == 1 and not classes & {class_of[name] for name in scanned.images}:
            raise InputError(
                f"{root / folder} of task {task.name} has all {split} images in one folder, "
                f"{first_few(list(scanned.images))}, which is not a class of {root / files.train}. Move each image into "
                f"{root / folder}/<class>/."
            )
        classes.update(class_of[name] for name in scanned.images)
        samples[split] = [
            (class_of[name], f"{folder}/{name}/{image}") for name, images in scanned.images.items() for image in images
        ]
    chosen, class_problems = _choose_classes(task, files, sorted(classes | packed))
    # Classes in archives cannot be trained on, so they are not tested either.
    chosen = [name for name in chosen if name not in packed]
    _drop_other_classes(samples, ids, set(chosen))
    return from_files(
        task,
        root=root,
        images=root,
        classes=chosen,
        samples=samples,
        ids=ids,
        problems=[*problems, *class_problems],
        unused=unused,
    )


def _choose_classes(task: Task, files: SplitFoldersFiles, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return every `files.every`-th class, and a problem if missing classes may shift the choice."""
    expected = count_all_classes(task, files)
    problems = []
    if files.every > 1 and expected not in {None, len(classes)}:
        problems.append(
            f"it has {len(classes):,} class folders instead of {expected:,}, so taking one class in {files.every} may take "
            "different classes"
        )
    return list(classes[:: files.every]), problems


def _drop_other_classes(
    samples: dict[SplitName, list[Sample]], ids: dict[SplitName, list[str]], chosen: Set[str]
) -> None:
    for split, members in samples.items():
        positions = [position for position, (name, _) in enumerate(members) if name in chosen]
        if len(positions) == len(members):
            continue
        samples[split] = [members[position] for position in positions]
        if split in ids:
            ids[split] = [ids[split][position] for position in positions]


def _packed_classes(folder: Path) -> list[str]:
    """Return the classes that are still archives: ImageNet's training archive contains one archive for each class.

    An archive next to its class's folder counts only if that folder has no images: many users leave archives in place.
    """
    with os.scandir(folder) as entries:
        archives = sorted(
            entry.name.removesuffix(".tar")
            for entry in entries
            if entry.name.endswith(".tar") and not is_system_file(entry.name) and entry.is_file()
        )
    return [name for name in archives if not (os.path.isdir(folder / name) and has_images(folder / name))]


def _describe_packed(task: Task, folder: Path, packed: Sequence[str]) -> str:
    """Return a clause about classes that are still archives.

    Raises:
        InputError: All classes are.
    """
    names = first_few([f"{name}.tar" for name in packed])
    if not list_class_folders(folder):
        raise InputError(
            f"{folder} of task {task.name} is only partly unpacked: it has {counted(len(packed), 'archive')} ({names}) and no "
            f"class folders. Unpack each archive into a folder of its name. {how_to_get(task)}"
        )
    return (
        f"{folder} is only partly unpacked: it has {counted(len(packed), 'archive')} ({names}) instead of class folders"
    )
