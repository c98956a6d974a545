"""The layout `folders`: one folder for each class; the task names the split."""

from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path, PurePosixPath

from lrbench.config.files import FoldersFiles
from lrbench.config.splits import FirstSplit, ListedSplit
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.class_splits import ImagesByClass, draw_groups, draw_split, group_by_path, split_first
from lrbench.data.layouts.data_folder import find_data_folder, how_to_get
from lrbench.data.layouts.display import first_few, printable
from lrbench.data.layouts.image_folders import (
    describe_unsorted_images,
    find_nested_images,
    has_images,
    list_class_folders,
    scan_class_folders,
)
from lrbench.data.layouts.layout_data import LayoutData, Sample, from_files
from lrbench.data.layouts.list_files import read_test_list
from lrbench.data.layouts.unicode_names import normalize_name


def find_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> Path:
    """Return the folder that contains the class folders.

    Raises:
        InputError: It was not found.
    """
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted="one folder for each class",
        objection=_describe_missing_images,
        classes=lambda path: (len(set(list_class_folders(path)) - set(files.exclude)), task.classes),
    )


def read_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> LayoutData:
    """Read class folders and split their images by the task's rule.

    Raises:
        InputError: The data was not found, a class folder is empty, a class is too small for the rule, or the split list is
            missing.
    """
    root = find_folders(task, files, roots)
    folders = scan_class_folders(task, root, files.exclude)
    images = folders.images
    problems: list[str] = []
    drawn: list[str] = []
    left_out: set[Sample] = set()
    groups: dict[Sample, str] = {}
    if isinstance(files.split, FirstSplit):
        tested, left_out = split_first(images, files.split)
    elif isinstance(files.split, ListedSplit):
        tested, problems = _split_by_list(task, files.split, images, (root, *roots))
    else:
        if files.split.group is not None:
            paths = [(name, f"{name}/{image}") for name, names in images.items() for image in names]
            groups = group_by_path(task, files.split.group, paths)
            tested = {(name, path.partition("/")[2]) for name, path in draw_groups(task, files.split, groups)}
        else:
            tested, left_out = draw_split(task, files.split, images)
        drawn = sorted(f"{name}/{image}" for name, image in tested)
    samples: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    for name, names in images.items():
        for image in names:
            if (name, image) not in left_out:
                samples["test" if (name, image) in tested else "train"].append((name, f"{name}/{image}"))
    return from_files(
        task,
        root=root,
        images=root,
        classes=list(images),
        samples=samples,
        problems=[*folders.problems, *describe_unsorted_images(task, root, "train", folders.unsorted), *problems],
        drawn=drawn,
        groups=groups,
        unused=[*folders.unsorted, *folders.unused],
    )


def _describe_missing_images(path: Path) -> str | None:
    """Return why a folder does not look like class folders of images, or None if it does."""
    names = list_class_folders(path)
    if not names:
        return "it has no folders"
    if any(has_images(path / name) for name in names):
        return None
    if {"train", "test"} <= set(names) or {"train", "val"} <= set(names):
        return f'no images in its folders {first_few(names)}: use layout = "split-folders"'
    for name in names:
        if (nested := find_nested_images(path / name)) is not None:
            return f"its images are one folder too deep, as in {nested}: move the images of each class up"
    return "no images in its folders"


def _split_by_list(
    task: Task, split: ListedSplit, images: ImagesByClass, folders: Sequence[Path]
) -> tuple[set[Sample], list[str]]:
    """Return the test images that a list names, by path or by number, and problems with the list."""
    paths = [f"{name}/{image}" for name, names in images.items() for image in names]
    known = {printable(path): path for path in paths}
    lines, problems = read_test_list(task, split, folders, known)
    has_numbers = not any("/" in line for line in lines)
    if has_numbers:
        known = {PurePosixPath(name).stem: path for name, path in known.items()}
        if len(known) < len(paths):
            stem, count = Counter(PurePosixPath(path).stem for path in paths).most_common(1)[0]
            raise _renumbered_error(task, f"{count} files are named {stem!r}")
    similar = {normalize_name(name): path for name, path in known.items()}
    known |= {
        line: similar[normalize_name(line)] for line in lines if line not in known and normalize_name(line) in similar
    }
    missing = [line for line in lines if line not in known]
    if missing:
        problems.append(
            f"{len(missing):,} of {len(lines):,} test images in the split list are missing ({first_few(missing)})"
        )
    tested = {known[line] for line in lines if line in known}
    if has_numbers:
        _reject_renumbered(task, tested)
    # A class is a direct subfolder, so its name has no `/`.
    return {(name, image) for name, _, image in (path.partition("/") for path in tested)}, problems


def _reject_renumbered(task: Task, tested: Set[str]) -> None:
    """Reject files that do not have the original numbers, if every class should have the same number of test images.

    A class with fewer test images may just be an incomplete copy.

    Raises:
        InputError: A class has more test images than it should.
    """
    expected, rest = divmod(task.counts.get("test", 0), task.classes or 1)
    if task.classes is None or not expected or rest:
        return
    by_class = Counter(path.partition("/")[0] for path in tested)
    for name, count in sorted(by_class.items()):
        if count > expected:
            raise _renumbered_error(task, f"class {name!r} has {count} test images instead of {expected}")


def _renumbered_error(task: Task, sign: str) -> InputError:
    return InputError(
        f"the split of task {task.name} lists file numbers of the original data set, but these files have other numbers "
        f"({sign}). Some mirrors renumber the files; get the original ones. {how_to_get(task)}"
    )
