"""Shipped tasks on small trees of their data: their lists, and every folder in which they are searched."""

import pytest

from lrbench.config import load_task
from lrbench.config.files import FoldersFiles
from lrbench.config.registry import find_tasks, is_shipped
from lrbench.config.splits import ListedSplit
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_file
from lrbench.data.layouts.data_folder import candidates
from lrbench.data.loading import find_task_data, load_task_data
from tests import trees

LISTED = [
    name
    for name in sorted(find_tasks())
    if isinstance(files := load_task(name).files, FoldersFiles) and isinstance(files.split, ListedSplit)
]


def test_shipped_lists_match_their_pinned_hashes():
    assert set(LISTED) >= {"sketch250", "sketch250-fold0", "sketch250-fold1", "sketch250-fold2"}
    for name in LISTED:
        task = load_task(name)
        assert is_shipped(task) and sha256_file(task.folder / task.files.split.test) == task.files.split.sha256


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    """All 20,000 files of TU-Berlin, numbered through 250 classes; all are empty."""
    root = tmp_path_factory.mktemp("sketches")
    for label in range(250):
        folder = root / "png" / f"class {label:03d}"
        folder.mkdir(parents=True)
        for number in range(80 * label + 1, 80 * label + 81):
            (folder / f"{number}.png").write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", LISTED)
def test_complete_sketch_tree_is_accepted(sketches, name):
    data = load_task_data(load_task(name), [sketches])
    assert not data.partial and data.problems == () and len(data.classes) == 250


# By task: function that makes its tree, folder of the data set in the tree, and contents of the tree.
TREES = {
    "sketch250": (trees.sketch250, "png", {"train": 192, "test": 48}, 3),
    "cub200": (trees.cub200, "CUB_200_2011", {"train": 18, "test": 12}, 3),
    "indoor67": (trees.indoor67, "indoorCVPR_09", {"train": 21, "test": 9}, 3),
    "imagenet1k": (trees.imagenet, "imagenet", {"train": 24, "test": 9}, 3),
    "caltech256": (trees.caltech256, "256_ObjectCategories", {"train": 240, "test": 16}, 4),
}


def places():
    """Yield the folders of the data root that a task searches, with the possible folders of images."""
    for name in TREES:
        files = load_task(name).files
        for root in candidates(files.root):
            for images in candidates(files.images) if name == "indoor67" else (None,):
                yield name, root, images


def moved(tmp_path, name, root, images=None):
    """Return a data root with a task's small tree moved to `root`, and the task with pins that match it."""
    make, folder, counts, classes = TREES[name]
    tree = make(tmp_path / "tree") / folder
    if images not in {None, "Images"}:
        (tree / images).parent.mkdir(exist_ok=True)
        (tree / "Images").rename(tree / images)
    goal = tmp_path / "data" / root
    goal.parent.mkdir(parents=True, exist_ok=True)
    tree.rename(goal)
    task = load_task(name)
    changes = {"hashes": {}} if images else {}
    files = task.files.model_copy(update=changes)
    whole = {"files": files, "classes": classes, "counts": counts, "least": {}, "most": {}}
    return tmp_path / "data", task.model_copy(update=whole)


@pytest.mark.parametrize(("name", "root", "images"), list(places()))
def test_data_is_found_in_every_known_folder(tmp_path, name, root, images):
    data_root, task = moved(tmp_path, name, root, images)
    assert find_task_data(task, [data_root]) == str(data_root / root)
    # The list of sketches covers all 250 classes.
    data = load_task_data(task, [data_root], partial=name == "sketch250")
    assert {split: len(images) for split, images in data.splits.items()} == task.counts
    assert data.splits["test"].images.read(0).shape[2] == 3


@pytest.mark.parametrize(
    ("name", "make", "folder"),
    [
        ("caltech256", trees.caltech256, "256_ObjectCategories"),
        ("caltech256-l2sp", trees.caltech256, "256_ObjectCategories"),
        ("sketch250", trees.sketch250, "png"),
        ("sketch250-fold1", trees.sketch250, "png"),
        ("caltech101", trees.caltech101, "101_ObjectCategories"),
        ("eurosat", trees.eurosat, "eurosat/2750"),
    ],
)
def test_folder_nested_in_a_folder_of_its_name_is_found(tmp_path, name, make, folder):
    """Some programs unpack an archive to a folder of the same name."""
    before = load_task_data(load_task(name), [make(tmp_path / "before")], partial=True)
    tree, doubled = make(tmp_path / "tree"), tmp_path / "data" / folder / folder.rpartition("/")[2]
    doubled.parent.mkdir(parents=True)
    (tree / folder).rename(doubled)
    data = load_task_data(load_task(name), [tmp_path / "data"], partial=True)
    assert data.fingerprint == before.fingerprint


def copied(sketches, folder, classes):
    """Return a copy of the first classes under a different name."""
    folder.mkdir(parents=True)
    for class_folder in sorted((sketches / "png").iterdir())[:classes]:
        (folder / class_folder.name).symlink_to(class_folder)
    return folder


def test_root_with_nearly_all_class_folders_is_incomplete(sketches, tmp_path):
    task, root = load_task("sketch250"), copied(sketches, tmp_path / "mine", 249)
    with pytest.raises(InputError, match=rf"at {root} is incomplete: .*it has 249 classes, expected 250.*--partial"):
        load_task_data(task, [root])
    assert len(load_task_data(task, [root], partial=True).classes) == 249
    # Complete data under a later root is preferred.
    assert find_task_data(task, [root, copied(sketches, tmp_path / "other", 250)]) == str(tmp_path / "other")


def test_complete_data_set_is_not_mistaken_for_another(sketches, tmp_path):
    with pytest.raises(InputError, match="was not found"):
        find_task_data(load_task("caltech256"), [copied(sketches, tmp_path / "mine", 250)])


def test_root_with_some_class_folders_explains_how_to_use_it(sketches, tmp_path):
    task, root = load_task("sketch250"), copied(sketches, tmp_path / "mine", 150)
    with pytest.raises(
        InputError, match=r"it has 150 of 250 class folders; if this is part .* rename it to png and pass"
    ):
        find_task_data(task, [root])
    root.rename(tmp_path / "png")
    assert len(load_task_data(task, [tmp_path / "png"], partial=True).classes) == 150
