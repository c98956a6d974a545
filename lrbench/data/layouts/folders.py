"""The layouts `folders` (one folder a class; the split comes from a rule) and `split-folders` (train/ and test/)."""

import os
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path, PurePosixPath

from lrbench.config.splits import FirstSplit, ListedSplit
from lrbench.config.task import FoldersFiles, SplitFoldersFiles, Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.alike import alike, spellings
from lrbench.data.layouts.flat import flat_members, whole_number_of_classes
from lrbench.data.layouts.reading import Member, Reading, first_few, from_files, printable
from lrbench.data.layouts.rules import Images, after_first, draw
from lrbench.data.layouts.scanning import (
    class_names,
    half_sorted,
    holds_images,
    images_by_class,
    is_litter,
    nested_images,
)
from lrbench.data.layouts.search import how_to_get, locate, refuse_file
from lrbench.data.layouts.splits import read_test_list


def find_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> Path:
    """The folder that holds the class folders.

    Raises:
        InputError: It was not found.
    """
    return locate(
        task,
        roots,
        files.root,
        wanted="one folder for each class",
        objection=_no_class_folders,
        classes=lambda path: (len(set(class_names(path)) - set(files.exclude)), task.classes),
    )


def read_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> Reading:
    """Read a data set of class folders and split it by its rule.

    Raises:
        InputError: Not found, an empty class folder, a class too small for the rule, or a split list that is not there.
    """
    root = find_folders(task, files, roots)
    scanned = images_by_class(task, root, files.exclude)
    images = scanned.images
    problems: list[str] = []
    drawn: list[str] = []
    left_out: set[Member] = set()
    if isinstance(files.split, FirstSplit):
        tested, left_out = after_first(images, files.split)
    elif isinstance(files.split, ListedSplit):
        tested, problems = _listed(task, files.split, images, (root, *roots))
    else:
        tested, left_out = draw(task, files.split, images)
        drawn = sorted(f"{name}/{image}" for name, image in tested)
    members: dict[SplitName, list[Member]] = {"train": [], "test": []}
    for name, found in images.items():
        for image in found:
            if (name, image) not in left_out:
                members["test" if (name, image) in tested else "train"].append((name, f"{name}/{image}"))
    return from_files(
        task,
        root=root,
        images=root,
        classes=list(images),
        members=members,
        problems=[*scanned.problems, *half_sorted(task, root, "train", scanned.beside), *problems],
        drawn=drawn,
        unused=[*scanned.beside, *scanned.unused],
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
        classes=lambda path: (
            len(class_names(path / files.train)) + len(_packed_classes(path / files.train)),
            whole_number_of_classes(task, files),
        ),
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
    unused: list[str] = []
    classes: set[str] = set()
    packed: set[str] = set()
    # Training images come first: a flat folder's labels are counted in its classes, those still in archives among them.
    for split, folder in folders.items():
        refuse_file(task, root / folder)
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
        if not class_names(root / folder) and holds_images(root / folder):
            flat, missing = flat_members(task, files, root, folder, sorted(classes | packed))
            problems.extend(missing)
            members[split] = [(name, path) for name, path, _ in flat]
            ids[split] = [identity for _, _, identity in flat]
            continue
        scanned = images_by_class(task, root / folder, passed_over=archives)
        found = scanned.images
        unused.extend(f"{folder}/{path}" for path in (*scanned.beside, *scanned.unused))
        problems.extend(f"in {folder}, {problem}" for problem in scanned.problems)
        problems.extend(half_sorted(task, root / folder, split, scanned.beside))
        # A class is called as its training folder is, whatever Unicode form another split's folder has.
        class_of = spellings([*sorted(classes | packed), *found])
        if split != "train" and len(found) == 1 and not classes & {class_of[name] for name in found}:
            raise InputError(
                f"{root / folder} of task {task.name} holds its {split} images in one folder, {first_few(list(found))}, which "
                f"is no class folder of {root / files.train}. Move each image into {root / folder}/<class>/."
            )
        classes.update(class_of[name] for name in found)
        members[split] = [
            (class_of[name], f"{folder}/{name}/{image}") for name, images in found.items() for image in images
        ]
    chosen, others = _chosen_classes(task, files, sorted(classes | packed))
    # What is still in archives cannot be trained on, so it is not tested on either.
    chosen = [name for name in chosen if name not in packed]
    _keep_classes(members, ids, set(chosen))
    return from_files(
        task,
        root=root,
        images=root,
        classes=chosen,
        members=members,
        ids=ids,
        problems=[*problems, *others],
        unused=unused,
    )


def _chosen_classes(task: Task, files: SplitFoldersFiles, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every so-many-th class, and a problem where one that is missing makes them others than the task's."""
    whole = whole_number_of_classes(task, files)
    problems = []
    if files.every > 1 and whole not in {None, len(classes)}:
        problems.append(
            f"it has {len(classes):,} class folders, and the whole data set {whole:,}, of which the task takes one in "
            f"{files.every}: the classes taken here may be others"
        )
    return list(classes[:: files.every]), problems


def _keep_classes(members: dict[SplitName, list[Member]], ids: dict[SplitName, list[str]], chosen: Set[str]) -> None:
    """Leave out the images of all classes but those chosen."""
    for split, found in members.items():
        kept = [position for position, (name, _) in enumerate(found) if name in chosen]
        if len(kept) == len(found):
            continue
        members[split] = [found[position] for position in kept]
        if split in ids:
            ids[split] = [ids[split][position] for position in kept]


def _no_class_folders(path: Path) -> str | None:
    names = class_names(path)
    if not names:
        return "no folders in it"
    if any(holds_images(path / name) for name in names):
        return None
    if {"train", "test"} <= set(names) or {"train", "val"} <= set(names):
        return f'no images in its folders, which are called {first_few(names)}: layout = "split-folders" reads those'
    for name in names:
        if (deeper := nested_images(path / name)) is not None:
            return f"no images in its folders, but one folder deeper, as in {deeper}: move the images of each class up"
    return "no images in its folders"


def _listed(task: Task, split: ListedSplit, images: Images, beside: Sequence[Path]) -> tuple[set[Member], list[str]]:
    paths = [f"{name}/{image}" for name, found in images.items() for image in found]
    known = {printable(path): path for path in paths}
    lines, problems = read_test_list(task, split, beside, known)
    numbers = not any("/" in line for line in lines)
    if numbers:
        known = {PurePosixPath(name).stem: path for name, path in known.items()}
        if len(known) < len(paths):
            twin, count = Counter(PurePosixPath(path).stem for path in paths).most_common(1)[0]
            raise _renumbered(task, f"{count} files are called {twin!r}")
    similar = {alike(name): path for name, path in known.items()}
    known |= {line: similar[alike(line)] for line in lines if line not in known and alike(line) in similar}
    missing = [line for line in lines if line not in known]
    if missing:
        problems.append(
            f"{len(missing):,} of {len(lines):,} test images that the split names are not there ({first_few(missing)})"
        )
    tested = {known[line] for line in lines if line in known}
    if numbers:
        _refuse_renumbered(task, tested)
    # A class is a folder right here, so its name holds no `/`.
    return {(name, image) for name, _, image in (path.partition("/") for path in tested)}, problems


def _refuse_renumbered(task: Task, tested: Set[str]) -> None:
    """Refuse files whose numbers are not the original's, where each class should have as many test images as the others.

    Raises:
        InputError: A class has more. (One with fewer may just have been copied in part.)
    """
    each, rest = divmod(task.counts.get("test", 0), task.classes or 1)
    if task.classes is None or not each or rest:
        return
    by_class = Counter(path.partition("/")[0] for path in tested)
    for name, count in sorted(by_class.items()):
        if count > each:
            raise _renumbered(task, f"it gives class {name!r} {count} test images, and it has {each} of each class")


def _renumbered(task: Task, sign: str) -> InputError:
    return InputError(
        f"the split of task {task.name} is a list of file numbers that count through the whole data set, but {sign}. "
        f"These files were numbered anew (some mirrors do); get the original ones. {how_to_get(task)}"
    )


def _packed_classes(folder: Path) -> list[str]:
    """Classes that are archives still: ImageNet's training archive is an archive of archives.

    An archive beside its class's folder says nothing, unless that is empty: many keep the archives after unpacking all of them.
    """
    with os.scandir(folder) as entries:
        archives = sorted(
            entry.name.removesuffix(".tar")
            for entry in entries
            if entry.name.endswith(".tar") and not is_litter(entry.name) and entry.is_file()
        )
    return [name for name in archives if not (os.path.isdir(folder / name) and holds_images(folder / name))]


def _half_unpacked(task: Task, folder: Path, packed: Sequence[str]) -> str:
    """A clause that says that classes are still archives.

    Raises:
        InputError: All are.
    """
    names = first_few([f"{name}.tar" for name in packed])
    if not class_names(folder):
        raise InputError(
            f"{folder} of task {task.name} is half unpacked: it holds {len(packed):,} archives ({names}) and no class folders. "
            f"Unpack each archive into a folder of its name. {how_to_get(task)}"
        )
    return f"{folder} is half unpacked: {len(packed):,} classes are still archives ({names})"
