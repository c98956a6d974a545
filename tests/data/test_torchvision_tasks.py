"""The tasks that torchvision's classes read, on small trees in their official layouts."""

import inspect

import numpy as np
import pytest
import torchvision.datasets

from lrbench.data.loading import load_task_data
from lrbench.errors import FailureError, InputError
from lrbench.registry import load_task
from tests import trees

# Training, validation and test images of each tree, its first class, and images of the full data set.
TASKS = {
    "food101": (trees.food101, (12, 0, 6), "apple_pie", (75_750, 0, 25_250)),
    "pets": (trees.pets, (12, 0, 6), "Abyssinian", (3_680, 0, 3_669)),
    "aircraft": (trees.aircraft, (12, 12, 12), "707-320", (3_334, 3_333, 3_333)),
    "cars": (trees.cars, (8, 0, 4), "AM General Hummer", (8_144, 0, 8_041)),
    "dtd": (trees.dtd, (6, 6, 6), "banded", (1_880, 1_880, 1_880)),
    "flowers102": (trees.flowers102, (4, 4, 4), "0", (1_020, 1_020, 6_149)),
    "cifar10": (trees.cifar, (50, 0, 10), "class 0", (50_000, 0, 10_000)),
    "cifar100": (lambda root: trees.cifar(root, folder="cifar-100-python"), (10, 0, 10), "class 0", (50_000, 0, 10_000)),
}  # fmt: skip
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def _small_files_pass(monkeypatch):
    # torchvision compares these sets' files with their published hashes, which a small tree cannot have.
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda *_: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)


@pytest.mark.parametrize("name", TASKS)
def test_its_official_layout_is_read(tmp_path, name):
    tree, counts, first, full = TASKS[name]
    task = load_task(name)
    assert tuple(task.counts.get(split, 0) for split in SPLITS) == full
    with pytest.raises(InputError, match="is not whole"):
        load_task_data(task, [tree(tmp_path)])
    data = load_task_data(task, [tmp_path], partial=True)
    assert tuple(len(data.splits[split]) if split in data.splits else 0 for split in SPLITS) == counts
    if name != "flowers102":
        assert data.classes[0].lower() == first.lower()
    split = data.splits["train"]
    assert set(np.unique(split.labels)) == set(range(len(np.unique(split.labels)))) and data.partial
    # The image is the one that its label says: trees give each class a colour of its own.
    for index in (0, len(split) - 1):
        pixels = np.asarray(split.images.read(index), dtype=float).mean(axis=(0, 1))
        distances = [
            np.abs(pixels - trees._PALETTE[label]).sum() for label in range(max(2, len(np.unique(split.labels))))
        ]
        assert int(np.argmin(distances)) == int(split.labels[index])


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"cars"}))
def test_missing_data_is_an_error_in_lrbenchs_words(tmp_path, name):
    with pytest.raises(InputError) as caught:
        load_task_data(load_task(name), [tmp_path])
    said = str(caught.value)
    assert "download=True" not in said and f"lrbench data fetch {name}" in said and str(tmp_path) in said


@pytest.mark.parametrize("name", TASKS)
def test_its_arguments_are_the_classs_own(name):
    files = load_task(name).files
    known = inspect.signature(getattr(torchvision.datasets, files.dataset)).parameters
    assert all(set(arguments) <= set(known) for arguments in files.splits.values())


def test_fetch_has_torchvision_download_each_split(lrbench, home, monkeypatch):
    asked = []

    class Fake:
        def __init__(self, root, split="train", download=False):
            asked.append((root, split, download))

    monkeypatch.setattr(torchvision.datasets, "Food101", Fake)
    assert lrbench("data", "fetch", "food101").status == 0
    assert asked == [("data", "train", True), ("data", "test", True)]


def test_a_download_that_fails_says_so_and_how_to_do_without(lrbench, home, monkeypatch):
    class Fails:
        def __init__(self, root, split="train", download=False):
            raise OSError("the host does not answer.")

    monkeypatch.setattr(torchvision.datasets, "Food101", Fails)
    outcome = lrbench("data", "fetch", "food101")
    assert outcome.status == FailureError.exit_status and "the host does not answer" in outcome.err
    assert "food-101/ lies under the data root" in outcome.err
