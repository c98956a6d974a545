"""The layouts `folders` (one folder a class; the split comes from a rule) and `split-folders` (train/ and test/)."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from lrbench.data.examples import SplitName
from lrbench.data.layouts.flat import flat_members
from lrbench.data.layouts.reading import Member, Reading, first_few, from_files
from lrbench.data.layouts.scanning import class_names, holds_images, images_by_class
from lrbench.data.layouts.search import how_to_get, locate, refuse_file
from lrbench.data.layouts.splits import read_test_list
from lrbench.errors import InputError
from lrbench.registry.task import DrawnSplit, FirstSplit, FoldersFiles, ListedSplit, SplitFoldersFiles, Task
from lrbench.seeds import derive

Images = Mapping[str, Sequence[str]]
"""The file names of each class, sorted."""


def find_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> Path:
    """The folder that holds the class folders.

    Raises:
        InputError: It was not found.
    """
    return locate(task, roots, files.root, wanted="one folder for each class", objection=_no_class_folders)


def read_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> Reading:
    """Read a data set of class folders and split it by its rule.

    Raises:
        InputError: Not found, an empty class folder, a class too small for the rule, or a split list that is not there.
    """
    root = find_folders(task, files, roots)
    images = images_by_class(task, root, files.exclude)
    problems: list[str] = []
    drawn: list[str] = []
    if isinstance(files.split, FirstSplit):
        tested = _after_first(images, files.split)
    elif isinstance(files.split, ListedSplit):
        tested, problems = _listed(task, files.split, images, (root, *roots))
    else:
        tested = _drawn(task, files.split, images)
        drawn = sorted(tested)
    members: dict[SplitName, list[Member]] = {"train": [], "test": []}
    for name, found in images.items():
        for image in found:
            path = f"{name}/{image}"
            members["test" if path in tested else "train"].append((name, path))
    return from_files(
        task, root=root, images=root, classes=list(images), members=members, problems=problems, drawn=drawn
    )


def find_split_folders(task: Task, files: SplitFoldersFiles, roots: Sequence[Path]) -> Path:
    """The folder that holds the training and test folders.

    Raises:
        InputError: It was not found.
    """
    return locate(
        task,
        roots,
        files.root,
        wanted=f"a folder with {files.train}/<class>/ and {files.test}/<class>/",
        objection=lambda path: None if os.path.isdir(path / files.train) else f"no folder {files.train} in it",
    )


def read_split_folders(task: Task, files: SplitFoldersFiles, roots: Sequence[Path]) -> Reading:
    """Read a data set that has a folder for each split.

    Raises:
        InputError: Not found, a split's folder that is missing, or flat with nothing that says its labels, an empty class
            folder, or a class that is tested but not trained on.
    """
    root = find_split_folders(task, files, roots)
    folders: dict[SplitName, str] = {"train": files.train, "test": files.test}
    if files.val:
        folders["val"] = files.val
    members: dict[SplitName, list[Member]] = {}
    ids: dict[SplitName, list[str]] = {}
    problems = []
    classes: set[str] = set()
    # Training images come first: a flat folder's labels are counted in its classes.
    for split, folder in folders.items():
        refuse_file(task, root / folder)
        if not os.path.isdir(root / folder):
            raise InputError(
                f"the data of task {task.name} at {root} has no folder {folder!r}, which should hold its {split} images "
                f"in one folder for each class. {how_to_get(task)}"
            )
        problems.extend(_packed_classes(root / folder))
        if not class_names(root / folder) and holds_images(root / folder):
            flat, missing = flat_members(task, files, root, folder, sorted(classes))
            problems.extend(missing)
            members[split] = [(name, path) for name, path, _ in flat]
            ids[split] = [identity for _, _, identity in flat]
            continue
        found = images_by_class(task, root / folder)
        classes.update(found)
        members[split] = [(name, f"{folder}/{name}/{image}") for name, images in found.items() for image in images]
    chosen = sorted(classes)[:: files.every]
    if files.every > 1:
        among = set(chosen)
        for split, found_members in members.items():
            kept = [position for position, (name, _) in enumerate(found_members) if name in among]
            members[split] = [found_members[position] for position in kept]
            if split in ids:
                ids[split] = [ids[split][position] for position in kept]
    return from_files(task, root=root, images=root, classes=chosen, members=members, ids=ids, problems=problems)


def _no_class_folders(path: Path) -> str | None:
    names = class_names(path)
    if not names:
        return "no folders in it"
    if not any(holds_images(path / name) for name in names):
        return "no images in its folders"
    return None


def _after_first(images: Images, split: FirstSplit) -> set[str]:
    return {f"{name}/{image}" for name, found in images.items() for image in found[split.train :]}


def _drawn(task: Task, split: DrawnSplit, images: Images) -> set[str]:
    """Rank each class's images by a hash of seed, class and name: no library's random numbers are involved."""
    tested: set[str] = set()
    for name, found in images.items():
        if len(found) < 2:
            raise InputError(
                f"class {name!r} of task {task.name} has a single image, {found[0]!r}; a drawn split needs at least two, "
                "one to train on and one to test. Add images or take the class out."
            )
        ranked = sorted(found, key=lambda image, name=name: derive(split.seed, "test split", name, image))  # type: ignore[misc]
        if split.train is not None and len(found) <= split.train:
            raise InputError(
                f"class {name!r} of task {task.name} has {len(found):,} images, and {split.train} of each class are for "
                "training: none would be left to test. Add images, or set a smaller files.split.train in the task's TOML."
            )
        wanted = round(split.test * len(found)) if split.train is None else len(found) - split.train
        count = min(len(found) - 1, max(1, wanted))
        tested.update(f"{name}/{image}" for image in ranked[:count])
    return tested


def _listed(task: Task, split: ListedSplit, images: Images, beside: Sequence[Path]) -> tuple[set[str], list[str]]:
    lines, problems = read_test_list(task, split, beside)
    paths = [f"{name}/{image}" for name, found in images.items() for image in found]
    known = {path: path for path in paths}
    if not any("/" in line for line in lines):
        known = {PurePosixPath(path).stem: path for path in paths}
        if len(known) < len(paths):
            twin, count = Counter(PurePosixPath(path).stem for path in paths).most_common(1)[0]
            raise InputError(
                f"the split of task {task.name} is a list of file numbers that count through the whole data set, but "
                f"{count} files are called {twin!r}. These files were numbered anew (some mirrors do); get the "
                f"original ones. {how_to_get(task)}"
            )
    missing = [line for line in lines if line not in known]
    if missing:
        problems.append(
            f"{len(missing):,} of {len(lines):,} test images that the split names are not there ({first_few(missing)})"
        )
    return {known[line] for line in lines if line in known}, problems


def _packed_classes(folder: Path) -> list[str]:
    """Archives of classes that were never unpacked: ImageNet's training archive is an archive of archives."""
    with os.scandir(folder) as entries:
        packed = sorted(entry.name for entry in entries if entry.name.endswith(".tar") and entry.is_file())
    packed = [name for name in packed if not os.path.isdir(folder / name.removesuffix(".tar"))]
    if not packed:
        return []
    return [f"{folder} is half unpacked: {len(packed):,} classes are still archives ({first_few(packed)})"]
