"""Shipped tasks of the layout `torchvision`, on small trees in the official layouts."""

import importlib
import inspect
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError
from lrbench.data.examples import EvaluationTransform
from lrbench.data.fetch import fetch
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from tests import trees
from tests.data.archive_server import ARCHIVE, archive_task
from tests.data.helpers import load

# Training, validation and test images of each tree, its first class, and images of the full data set.
TASKS = {
    "food101": (trees.food101, (12, 0, 6), "apple_pie", (75_750, 0, 25_250)),
    "pets": (trees.pets, (12, 0, 6), "Abyssinian", (3_680, 0, 3_669)),
    "aircraft": (trees.aircraft, (12, 12, 12), "707-320", (3_334, 3_333, 3_333)),
    "cars": (trees.cars, (8, 0, 4), "AM General Hummer", (8_144, 0, 8_041)),
    "dtd": (trees.dtd, (6, 6, 6), "banded", (1_880, 1_880, 1_880)),
    "flowers102": (trees.flowers102, (4, 4, 4), "0", (1_020, 1_020, 6_149)),
    "cifar10": (trees.cifar, (50, 0, 10), "class 0", (50_000, 0, 10_000)),
    "places365": (trees.places365, (12, 0, 6), "/a/airfield", (1_803_460, 0, 36_500)),
    "cifar100": (lambda root: trees.cifar(root, folder="cifar-100-python"), (10, 0, 10), "class 0", (50_000, 0, 10_000)),
}  # fmt: skip
SPLITS = ("train", "val", "test")
FETCHED = sorted(set(TASKS) - {"cars", "places365"})
# A user's own, which names no archives.
OWN = (
    'name = "own"\nmanual = "Put it by hand."\n[files]\nlayout = "torchvision"\ndataset = "Food101"\n'
    'splits = { train = { split = "train" }, test = { split = "test" } }\n'
)


@pytest.fixture(autouse=True)
def _small_files_pass(monkeypatch):
    # torchvision checks published hashes of these files, which a small tree cannot have.
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda *_: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    monkeypatch.setattr(torchvision.datasets.places365, "check_integrity", lambda file, md5: Path(file).is_file())


@pytest.mark.parametrize("name", TASKS)
def test_official_layout_is_read(tmp_path, name):
    tree, counts, first, full = TASKS[name]
    task = load_task(name)
    assert tuple(task.counts.get(split, 0) for split in SPLITS) == full
    with pytest.raises(InputError, match="is incomplete"):
        load_task_data(task, [tree(tmp_path)])
    data = load_task_data(task, [tmp_path], partial=True)
    assert tuple(len(data.splits[split]) if split in data.splits else 0 for split in SPLITS) == counts
    if name != "flowers102":
        assert data.classes[0].lower() == first.lower()
    split = data.splits["train"]
    assert set(np.unique(split.labels)) == set(range(len(np.unique(split.labels)))) and data.partial
    # Each class of a tree has its own colour, so the image must match its label.
    for index in (0, len(split) - 1):
        pixels = np.asarray(split.images.read(index), dtype=float).mean(axis=(0, 1))
        distances = [
            np.abs(pixels - trees._PALETTE[label]).sum() for label in range(max(2, len(np.unique(split.labels))))
        ]
        assert int(np.argmin(distances)) == int(split.labels[index])


@pytest.mark.parametrize("name", FETCHED)
def test_missing_data_error_has_lrbench_advice(tmp_path, name):
    with pytest.raises(InputError) as caught:
        load_task_data(load_task(name), [tmp_path])
    message = str(caught.value)
    assert "download=True" not in message and f"lrbench data fetch {name}" in message and str(tmp_path) in message


@pytest.mark.parametrize("name", TASKS)
def test_task_arguments_match_the_class(name):
    files = load_task(name).files
    known = inspect.signature(getattr(torchvision.datasets, files.dataset)).parameters
    assert all(set(arguments) <= set(known) for arguments in files.splits.values())


@pytest.mark.parametrize("name", FETCHED)
def test_archives_are_those_of_torchvision(tmp_path, name, monkeypatch):
    task, asked = load_task(name), set()
    make = getattr(torchvision.datasets, task.files.dataset)
    module = importlib.import_module(make.__module__)
    for function in ("download_and_extract_archive", "download_url"):
        monkeypatch.setattr(module, function, lambda url, *_, md5=None, **__: asked.add((url, md5)), raising=False)
    monkeypatch.setattr(module, "check_integrity", lambda *_: False, raising=False)
    with pytest.raises(RuntimeError, match="not found"):
        make(root=str(tmp_path), download=True)
    # torchvision has no hash for some files; those were published elsewhere.
    hashes = {archive.url: archive.md5 for archive in task.archives}
    assert {(url, md5 or hashes.get(url)) for url, md5 in asked} == set(hashes.items())


@pytest.mark.parametrize("name", FETCHED)
def test_fetched_files_are_where_the_class_looks(tmp_path, name, server):
    task, tree = load_task(name), TASKS[name][0](tmp_path / "tree")
    archives = []
    for number, archive in enumerate(task.archives):
        folder, held = tree / archive.into, io.BytesIO()
        file = archive.url.rpartition("/")[2]
        if archive.unpacks_to:
            with tarfile.open(fileobj=held, mode="w:gz") as packed:
                packed.add(folder / archive.unpacks_to, archive.unpacks_to)
        else:
            held.write((folder / file).read_bytes())
        server.files[f"/{number}/{file}"] = held.getvalue()
        archives.append(
            archive.model_copy(update={"url": f"{server.url}/{number}/{file}", "md5": None, "images": None})
        )
    fetch(task.model_copy(update={"archives": tuple(archives), "counts": {}}), tmp_path / "data", Control())
    assert load(name, tmp_path / "data").fingerprint == load(name, tree).fingerprint


def test_fetch_without_archives_downloads_by_torchvision(lrbench, home, monkeypatch):
    asked = []

    class Fake:
        def __init__(self, root, split="train", download=False):
            asked.append((root, split, download))

    monkeypatch.setattr(torchvision.datasets, "Food101", Fake)
    (home / "own.toml").write_text(OWN)
    assert lrbench("data", "fetch", "own.toml").status == 0
    assert asked == [("data", "train", True), ("data", "test", True)]


def test_failed_download_error_says_how_to_continue(lrbench, home, monkeypatch):
    class Fails:
        def __init__(self, root, split="train", download=False):
            raise OSError("the host does not answer.")

    monkeypatch.setattr(torchvision.datasets, "Food101", Fails)
    (home / "own.toml").write_text(OWN)
    outcome = lrbench("data", "fetch", "own.toml")
    assert outcome.status == FailureError.exit_status and "the host does not answer" in outcome.err
    assert "Put it by hand." in outcome.err


def test_cars_error_says_how_to_get_them_by_hand(lrbench, home):
    with pytest.raises(InputError) as caught:
        load("cars", home / "data")
    message = str(caught.value)
    assert "data fetch" not in message and "stanford_cars/cars_train/" in message
    outcome = lrbench("data", "fetch", "cars")
    assert outcome.status == InputError.exit_status and "torchvision cannot download StanfordCars" in outcome.err
    assert "stanford_cars/cars_train/" in outcome.err and "Try again" not in outcome.err
    assert "data fetch" not in outcome.err


def test_torchvision_class_is_read(home):
    trees.dtd(home / "data")
    (home / "dtd.toml").write_text(
        'name = "textures"\n\n[files]\nlayout = "torchvision"\ndataset = "DTD"\n'
        'splits = { train = { split = "train" }, val = { split = "val" }, test = { split = "test" } }\n'
    )
    data = load_task_data(load_task("dtd.toml"), [home / "data"])
    assert data.classes == ("banded", "dotted")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert np.asarray(data.splits["val"].images.read(0)).shape == (48, 64, 3)


IDS = {
    "food101": "food-101/images/apple_pie/1000.jpg",
    "pets": "oxford-iiit-pet/images/Abyssinian_1.jpg",
    "aircraft": "fgvc-aircraft-2013b/data/images/1000000.jpg",
    "cars": "stanford_cars/cars_train/00001.jpg",
    "dtd": "dtd/dtd/images/banded/banded_train0.jpg",
    "flowers102": "flowers-102/jpg/image_00001.jpg",
    "places365": "data_256_standard/a/airfield/00000001.jpg",
    "cifar10": "train/0",
    "cifar100": "train/0",
}


@pytest.mark.parametrize("name", TASKS)
def test_image_ids_are_file_paths(tmp_path, name):
    data = load(name, TASKS[name][0](tmp_path))
    assert data.splits["train"].ids[0] == IDS[name]


def test_fingerprint_depends_on_images(tmp_path):
    before = load("food101", trees.food101(tmp_path)).fingerprint
    meta = tmp_path / "food-101" / "meta"
    train, test = (json.loads((meta / f"{split}.json").read_text()) for split in ("train", "test"))
    for name in train:
        train[name][:3], test[name][:3] = test[name][:3], train[name][:3]
    for split, listed in (("train", train), ("test", test)):
        (meta / f"{split}.json").write_text(json.dumps(listed))
    assert load("food101", tmp_path).fingerprint != before


def test_replaced_image_is_prepared_again(tmp_path):
    transform = EvaluationTransform(size=32, resize=32, interpolation="bilinear")

    def first():
        return prepare(load("dtd", tmp_path), "train", transform, cache=tmp_path / "cache").evaluation(np.arange(1))

    trees.dtd(tmp_path)
    before = first().copy()
    assert np.array_equal(first(), before)
    trees.save(tmp_path / "dtd/dtd/images/banded/banded_train0.jpg", Image.new("RGB", (64, 48), (255, 0, 0)))
    assert not np.array_equal(first(), before)


def test_replaced_arrays_are_prepared_again(tmp_path):
    trees.cifar(tmp_path)
    before = load("cifar10", tmp_path).splits["train"].images.stamp()
    assert load("cifar10", tmp_path).splits["train"].images.stamp() == before
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    content = pickle.loads(batch.read_bytes())
    content["data"] = 255 - content["data"]
    batch.write_bytes(pickle.dumps(content))
    assert load("cifar10", tmp_path).splits["train"].images.stamp() != before


def test_bad_image_is_named_by_its_file(lrbench, home):
    trees.dtd(home / "data")
    (home / "data/dtd/dtd/images/banded/banded_train1.jpg").write_bytes(b"no image")
    outcome = lrbench("data", "verify", "dtd", "--partial")
    assert outcome.status == 1
    assert "bad train image data/dtd/dtd/images/banded/banded_train1.jpg: it is not an image" in outcome.out


def test_bit_depth_and_transparency_are_decoded_as_elsewhere(tmp_path):
    trees.dtd(tmp_path)
    folder = tmp_path / "dtd" / "dtd" / "images" / "banded"
    Image.fromarray(np.full((40, 40), 32896, np.uint16)).save(folder / "banded_train0.jpg", "PNG")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(folder / "banded_train1.jpg", "PNG")
    split = load("dtd", tmp_path).splits["train"]
    read = {name.rpartition("/")[2]: split.images.read(index) for index, name in enumerate(split.ids)}
    assert (read["banded_train0.jpg"] == 128).all() and (read["banded_train1.jpg"] == 255).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"train" }', '"trian" }', "Unknown value 'trian' for argument split. Valid values are"),
        ('"train" }', "3 }", "Expected type str for argument split"),
        ('"train" }', '"train", part = 1 }', "unexpected keyword argument 'part'."),
    ],
)
def test_wrong_arguments_error_names_the_toml(home, lrbench, old, new, message):
    (home / "own.toml").write_text(OWN.replace(old, new))
    for verb in ("verify", "fetch"):
        outcome = lrbench("data", verb, "own.toml")
        assert outcome.status == InputError.exit_status and "torchvision's Food101: " in outcome.err
        assert message in outcome.err and outcome.err.strip().endswith(" Correct files.splits in own.toml.")
        assert ".." not in outcome.err


def test_question_in_an_error_has_no_extra_full_stop(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE
    described = archive_task(home, server)
    wrong = load_task("cifar10").files.model_copy(update={"dataset": "CIFAR11"})
    described = described.model_copy(update={"files": wrong, "counts": {"train": 1, "test": 1}})
    with pytest.raises(
        FailureError, match=r"is incomplete: torchvision has no data set 'CIFAR11'.*Did you mean 'CIFAR10'\? Move"
    ):
        fetch(described, home / "data", Control())


def test_images_in_other_modes_become_rgb(home, monkeypatch):
    class Grey:
        def __init__(self, root, train=True):
            self.targets = [0, 1]

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return trees.image(index, index, mode="L"), index

    monkeypatch.setattr(torchvision.datasets, "MNIST", Grey)
    (home / "grey.toml").write_text(
        'name = "grey"\n[files]\nlayout = "torchvision"\ndataset = "MNIST"\n'
        "splits = { train = { train = true }, test = { train = false } }\n"
    )
    (home / "data").mkdir()
    data = load_task_data(load_task("grey.toml"), [home / "data"])
    image = data.splits["train"].images.read(1)
    grey = np.asarray(trees.image(1, 1, mode="L"))
    assert all(np.array_equal(image[:, :, channel], grey) for channel in range(3))
