"""The layout `split-folders`: `train/<class>/` and `test/<class>/`."""

import os
from collections.abc import Sequence, Set
from pathlib import Path

from lrbench.config.task import SplitFoldersFiles, Task
from lrbench.core.errors import InputError
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
    """The folder that holds the training and test folders.

    Raises:
        InputError: It was not found.
    """
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted=f"a folder with {files.train}/<class>/ and {files.test}/<class>/",
        objection=lambda path: None if os.path.isdir(path / files.train) else f"no folder {files.train} in it",
        classes=lambda path: (
            len(list_class_folders(path / files.train)) + len(_packed_classes(path / files.train)),
            count_all_classes(task, files),
        ),
    )


def read_split_folders(task: Task, files: SplitFoldersFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set that has a folder for each split.

    Raises:
        InputError: Not found, a split's folder that is missing, or flat with nothing that says its labels, an empty class
            folder, or a class that is tested but not trained on.
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
    # Training images come first: a flat folder's labels are counted in its classes, those still in archives among them.
    for split, folder in folders.items():
        reject_file(task, root / folder)
        if not os.path.isdir(root / folder):
            raise InputError(
                f"the data of task {task.name} at {root} has no folder {folder!r}, which should hold its {split} images "
                f"in one folder for each class. {how_to_get(task)}"
            )
        archives = _packed_classes(root / folder)
        if archives:
            problems.append(_half_unpacked(task, root / folder, archives))
        if split == "train":
            packed.update(archives)
        if not list_class_folders(root / folder) and has_images(root / folder):
            flat, missing = read_flat_folder(task, files, root, folder, sorted(classes | packed))
            problems.extend(missing)
            samples[split] = [(name, path) for name, path, _ in flat]
            ids[split] = [identity for _, _, identity in flat]
            continue
        scanned = scan_class_folders(task, root / folder, passed_over=archives)
        found = scanned.images
        unused.extend(f"{folder}/{path}" for path in (*scanned.beside, *scanned.unused))
        problems.extend(f"in {folder}, {problem}" for problem in scanned.problems)
        problems.extend(describe_unsorted_images(task, root / folder, split, scanned.beside))
        # A class is called as its training folder is, whatever Unicode form another split's folder has.
        class_of = unify_unicode_forms([*sorted(classes | packed), *found])
        if split != "train" and len(found) == 1 and not classes & {class_of[name] for name in found}:
            raise InputError(
                f"{root / folder} of task {task.name} holds its {split} images in one folder, {first_few(list(found))}, which "
                f"is no class folder of {root / files.train}. Move each image into {root / folder}/<class>/."
            )
        classes.update(class_of[name] for name in found)
        samples[split] = [
            (class_of[name], f"{folder}/{name}/{image}") for name, images in found.items() for image in images
        ]
    chosen, others = _chosen_classes(task, files, sorted(classes | packed))
    # What is still in archives cannot be trained on, so it is not tested on either.
    chosen = [name for name in chosen if name not in packed]
    _keep_classes(samples, ids, set(chosen))
    return from_files(
        task,
        root=root,
        images=root,
        classes=chosen,
        samples=samples,
        ids=ids,
        problems=[*problems, *others],
        unused=unused,
    )


def _chosen_classes(task: Task, files: SplitFoldersFiles, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every so-many-th class, and a problem where one that is missing makes them others than the task's."""
    whole = count_all_classes(task, files)
    problems = []
    if files.every > 1 and whole not in {None, len(classes)}:
        problems.append(
            f"it has {len(classes):,} class folders, and the whole data set {whole:,}, of which the task takes one in "
            f"{files.every}: the classes taken here may be others"
        )
    return list(classes[:: files.every]), problems


def _keep_classes(samples: dict[SplitName, list[Sample]], ids: dict[SplitName, list[str]], chosen: Set[str]) -> None:
    """Leave out the images of all classes but those chosen."""
    for split, found in samples.items():
        kept = [position for position, (name, _) in enumerate(found) if name in chosen]
        if len(kept) == len(found):
            continue
        samples[split] = [found[position] for position in kept]
        if split in ids:
            ids[split] = [ids[split][position] for position in kept]


def _packed_classes(folder: Path) -> list[str]:
    """Classes that are archives still: ImageNet's training archive is an archive of archives.

    An archive beside its class's folder says nothing, unless that is empty: many keep the archives after unpacking all of them.
    """
    with os.scandir(folder) as entries:
        archives = sorted(
            entry.name.removesuffix(".tar")
            for entry in entries
            if entry.name.endswith(".tar") and not is_system_file(entry.name) and entry.is_file()
        )
    return [name for name in archives if not (os.path.isdir(folder / name) and has_images(folder / name))]


def _half_unpacked(task: Task, folder: Path, packed: Sequence[str]) -> str:
    """A clause that says that classes are still archives.

    Raises:
        InputError: All are.
    """
    names = first_few([f"{name}.tar" for name in packed])
    if not list_class_folders(folder):
        raise InputError(
            f"{folder} of task {task.name} is half unpacked: it holds {len(packed):,} archives ({names}) and no class folders. "
            f"Unpack each archive into a folder of its name. {how_to_get(task)}"
        )
    return f"{folder} is half unpacked: {len(packed):,} classes are still archives ({names})"
