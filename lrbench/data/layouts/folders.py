"""The layout `folders`: one folder for each class; the task names the split."""

from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path, PurePosixPath

from lrbench.config.splits import FirstSplit, ListedSplit
from lrbench.config.task import FoldersFiles, Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.class_splits import Images, draw, split_first
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
    """The folder that holds the class folders.

    Raises:
        InputError: It was not found.
    """
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted="one folder for each class",
        objection=_no_class_folders,
        classes=lambda path: (len(set(list_class_folders(path)) - set(files.exclude)), task.classes),
    )


def read_folders(task: Task, files: FoldersFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set of class folders and split it by its rule.

    Raises:
        InputError: Not found, an empty class folder, a class too small for the rule, or a split list that is not there.
    """
    root = find_folders(task, files, roots)
    scanned = scan_class_folders(task, root, files.exclude)
    images = scanned.images
    problems: list[str] = []
    drawn: list[str] = []
    left_out: set[Sample] = set()
    if isinstance(files.split, FirstSplit):
        tested, left_out = split_first(images, files.split)
    elif isinstance(files.split, ListedSplit):
        tested, problems = _listed(task, files.split, images, (root, *roots))
    else:
        tested, left_out = draw(task, files.split, images)
        drawn = sorted(f"{name}/{image}" for name, image in tested)
    samples: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    for name, found in images.items():
        for image in found:
            if (name, image) not in left_out:
                samples["test" if (name, image) in tested else "train"].append((name, f"{name}/{image}"))
    return from_files(
        task,
        root=root,
        images=root,
        classes=list(images),
        samples=samples,
        problems=[*scanned.problems, *describe_unsorted_images(task, root, "train", scanned.beside), *problems],
        drawn=drawn,
        unused=[*scanned.beside, *scanned.unused],
    )


def _no_class_folders(path: Path) -> str | None:
    names = list_class_folders(path)
    if not names:
        return "no folders in it"
    if any(has_images(path / name) for name in names):
        return None
    if {"train", "test"} <= set(names) or {"train", "val"} <= set(names):
        return f'no images in its folders, which are called {first_few(names)}: layout = "split-folders" reads those'
    for name in names:
        if (deeper := find_nested_images(path / name)) is not None:
            return f"no images in its folders, but one folder deeper, as in {deeper}: move the images of each class up"
    return "no images in its folders"


def _listed(task: Task, split: ListedSplit, images: Images, beside: Sequence[Path]) -> tuple[set[Sample], list[str]]:
    paths = [f"{name}/{image}" for name, found in images.items() for image in found]
    known = {printable(path): path for path in paths}
    lines, problems = read_test_list(task, split, beside, known)
    numbers = not any("/" in line for line in lines)
    if numbers:
        known = {PurePosixPath(name).stem: path for name, path in known.items()}
        if len(known) < len(paths):
            twin, count = Counter(PurePosixPath(path).stem for path in paths).most_common(1)[0]
            raise _renumbered(task, f"{count} files are called {twin!r}")
    similar = {normalize_name(name): path for name, path in known.items()}
    known |= {
        line: similar[normalize_name(line)] for line in lines if line not in known and normalize_name(line) in similar
    }
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
