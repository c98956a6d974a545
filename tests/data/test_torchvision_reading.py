"""The layout `torchvision`: classes may only read, and their output is checked."""

import gzip
import json
import os
import socket
import struct
import threading

import numpy as np
import pytest
import torchvision.datasets

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.layouts.read_only import ReadOnlyError, reading_only
from lrbench.data.loading import find_task_data, load_task_data
from tests import trees

OWN = 'name = "own"\n[files]\nlayout = "torchvision"\ndataset = "{}"\nsplits = {{ train = {}, test = {} }}\n'
DATASETS = sorted(name for name in torchvision.datasets.__all__ if name[:1].isupper())


def own(home, dataset, train="{ train = true }", test="{ train = false }"):
    (home / "own.toml").write_text(OWN.format(dataset, train, test))
    (home / "data").mkdir(exist_ok=True)
    return load_task("own.toml")


@pytest.fixture
def asked(monkeypatch):
    """The requested hosts."""
    hosts = []

    def refuse(host, *_, **__):
        hosts.append(host)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return hosts


@pytest.mark.parametrize("dataset", DATASETS)
def test_search_writes_and_downloads_nothing(home, asked, dataset):
    files = own(home, "MNIST").files.model_copy(
        update={"dataset": dataset, "splits": {"train": {}, "test": {"transform": None}}}
    )
    task = load_task("own.toml").model_copy(update={"files": files})
    for root in (home / "data", home / "none"):
        for look in (find_task_data, load_task_data):
            with pytest.raises(InputError, match=dataset):
                look(task, [root])
    assert list((home / "data").iterdir()) == [] and not (home / "none").exists() and asked == []


@pytest.mark.parametrize("dataset", ["Caltech256", "SEMEION"])
def test_verify_writes_and_downloads_nothing(home, lrbench, asked, dataset):
    own(home, dataset, "{}", "{}")
    for train, test in (("{}", "{}"), ("{ transform = 1 }", "{ transform = 2 }")):
        own(home, dataset, train, test)
        outcome = lrbench("data", "verify", "own.toml")
        assert outcome.status == InputError.exit_status and f"torchvision's {dataset}" in outcome.err
    assert list((home / "data").iterdir()) == [] and asked == []


def test_reading_only_blocks_all_changes(tmp_path):
    (tmp_path / "x").write_text("x")
    attempts = (
        lambda: (tmp_path / "y").write_text("y"),
        lambda: (tmp_path / "x").open("r+b"),
        lambda: os.open(tmp_path / "y", os.O_CREAT | os.O_RDONLY),
        lambda: os.makedirs(tmp_path / "a" / "b", exist_ok=True),
        lambda: os.remove(tmp_path / "x"),
        lambda: os.rename(tmp_path / "x", tmp_path / "y"),
        lambda: os.symlink("x", tmp_path / "y"),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: os.system("true"),
    )
    with reading_only():
        for attempt in attempts:
            with pytest.raises(ReadOnlyError):
                attempt()
        os.makedirs(tmp_path, exist_ok=True)
        assert (tmp_path / "x").read_text() == "x"
        other = threading.Thread(target=(tmp_path / "other").mkdir)
        other.start()
        other.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "x"]
    (tmp_path / "y").write_text("y")


@pytest.mark.parametrize("dataset", ["VisionDataset", "DatasetFolder", "FakeData"])
def test_class_that_is_not_a_data_set_is_rejected(home, dataset):
    with pytest.raises(InputError, match=f"torchvision has no data set '{dataset}'"):
        load_task_data(own(home, dataset, "{}", "{ transform = 1 }"), [home / "data"])


def emnist(home):
    """EMNIST's letters; class 0 is named `N/A` and has no images."""
    folder = home / "data" / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for split, labels in (("train", [1, 2, 3, 1]), ("test", [3, 1, 2])):
        images = np.zeros((len(labels), 28, 28), np.uint8)
        head = struct.pack(">IIII", 0x803, *images.shape)
        (folder / f"emnist-letters-{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = struct.pack(">II", 0x801, len(labels)) + bytes(labels)
        (folder / f"emnist-letters-{split}-labels-idx1-ubyte").write_bytes(labels)
    return own(home, "EMNIST", '{ split = "letters", train = true }', '{ split = "letters", train = false }')


def test_classes_without_images_are_left_out(home):
    data = load_task_data(emnist(home), [home / "data"])
    assert data.classes == ("a", "b", "c")
    assert data.splits["train"].labels.tolist() == [0, 1, 2, 0] and data.splits["test"].labels.tolist() == [2, 0, 1]
    assert data.splits["test"].images.read(0).shape == (28, 28, 3)


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x1f\x8b", b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", gzip.compress(b"", mtime=0)],
)
def test_damaged_files_error_names_the_class(home, damage):
    task = emnist(home)
    (home / "data/EMNIST/raw/emnist-letters-test-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(InputError, match="task own was not found, or could not be read, by torchvision's EMNIST"):
        load_task_data(task, [home / "data"])


def test_malformed_list_is_not_a_wrong_argument(home):
    trees.food101(home / "data")
    for content in ([["apple_pie/1000"]], "words", {"apple_pie": 3}):
        (home / "data/food-101/meta/test.json").write_text(json.dumps(content))
        with pytest.raises(
            InputError, match=r"could not be read, by torchvision's Food101.*(Attribute|Type)Error"
        ) as refused:
            load_task_data(own(home, "Food101", '{ split = "train" }', '{ split = "test" }'), [home / "data"])
        assert "Correct files.splits" not in str(refused.value)


class Rows:
    """A torchvision data set with the given labels."""

    labels, classes = {True: [0, 1, 0], False: [0, 1]}, {True: ["ant", "bee"], False: ["ant", "bee"]}

    def __init__(self, root, train=True):
        self.targets, self.classes = self.labels[train], self.classes[train]

    def __len__(self):
        return len(self.targets)


def rows(monkeypatch, **attributes):
    monkeypatch.setattr(torchvision.datasets, "MNIST", type("Rows", (Rows,), attributes))


def test_splits_with_other_class_numbers_are_rejected(home, monkeypatch):
    rows(monkeypatch, classes={True: ["ant", "bee"], False: ["bee"]}, labels={True: [0, 1], False: [0]})
    with pytest.raises(InputError, match="differently: class 0 is 'ant' in train and 'bee' in test"):
        load_task_data(own(home, "MNIST"), [home / "data"])


def test_images_without_labels_are_rejected(home, monkeypatch):
    rows(monkeypatch, labels={True: [0, 1], False: [-1, -1]})
    with pytest.raises(InputError, match=r"has the label -1, which is below 0\. Either a split has no labels"):
        load_task_data(own(home, "MNIST"), [home / "data"])


def test_labels_beyond_the_names_are_named_by_number(home, monkeypatch):
    rows(monkeypatch, labels={True: [5, 1 << 40], False: [5, 1 << 40]})
    data = load_task_data(own(home, "MNIST"), [home / "data"])
    assert data.classes == ("5", str(1 << 40)) and data.splits["test"].labels.tolist() == [0, 1]


@pytest.mark.parametrize("labels", [[0, None], [0, "word"], [0, [1, 2]], [0, 1 << 80]])
def test_labels_that_are_not_integers_are_rejected(home, monkeypatch, labels):
    rows(monkeypatch, labels={True: labels, False: labels})
    with pytest.raises(
        InputError,
        match="torchvision's MNIST does not return one image and one integer label for each item \\(task own\\)",
    ):
        load_task_data(own(home, "MNIST"), [home / "data"])


def test_splits_with_the_same_images_are_rejected(home):
    with pytest.raises(InputError, match="gives train and test the same arguments, so they would have the same images"):
        load_task_data(own(home, "MNIST", "{ train = true }", "{ train = true }"), [home / "data"])
    trees.food101(home / "data")
    task = own(home, "Food101", '{ split = "train" }', '{ split = "test" }')
    meta = home / "data" / "food-101" / "meta"
    (meta / "test.json").write_text((meta / "train.json").read_text())
    with pytest.raises(InputError, match=r"train and test of task own share 12 images \('food-101/images/apple_pie"):
        load_task_data(task, [home / "data"])
