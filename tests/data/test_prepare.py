import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lrbench.data import prepare as module
from lrbench.data.examples import EvaluationTransform
from lrbench.data.layouts.reading import FileImages
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.errors import InputError
from lrbench.registry import load_task
from lrbench.registry.suite import Input
from tests import trees

SHAPES = [(64, 48), (48, 64), (33, 100), (40, 40), (32, 32), (31, 57), (200, 90)]


@pytest.fixture
def data(home):
    for label in range(2):
        for number, size in enumerate(SHAPES):
            path = home / "data" / "mine" / f"c{label}" / f"{number}.png"
            trees.save(path, trees.image(label, number, size=size), "PNG")
    (home / "mine.toml").write_text('name = "mine"\n\n[files]\nlayout = "folders"\nroot = "mine"\n')
    return load_task_data(load_task("mine.toml"), [home / "data"])


@pytest.fixture
def decoded(monkeypatch):
    """Counts images read from files."""
    count = []
    read = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, index: count.append(index) or read(self, index))
    return count


TRANSFORM = EvaluationTransform.of(Input(size=32, crop_fraction=0.875))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_evaluation_crops_are_torchvisions_to_the_bit(home, data, interpolation, fraction):
    settings = Input(size=32, crop_fraction=fraction, interpolation=interpolation)
    transform = EvaluationTransform.of(settings)
    mode = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}[interpolation]
    theirs = v2.Compose([v2.Resize(transform.resize, interpolation=mode), v2.CenterCrop(32)])
    for split in data.splits:
        pixels = prepare(data, split, transform, cache=home / "cache")
        ours = pixels.evaluation(np.arange(len(pixels)))
        for index in range(len(pixels)):
            expected = np.asarray(theirs(data.splits[split].images.read(index)))
            assert np.array_equal(ours[index], expected), data.splits[split].ids[index]


@pytest.mark.parametrize("more", range(9))
def test_the_centre_is_where_torchvision_puts_it(more):
    image = np.arange((8 + more) * (8 + 2 * more) * 3, dtype=np.int64).reshape(8 + more, 8 + 2 * more, 3) % 251
    pixels = image.astype(np.uint8)
    theirs = v2.CenterCrop(8)(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.array_equal(module.centre_crop(pixels, 8), theirs)


def test_a_second_use_decodes_nothing(home, data, decoded):
    first = prepare(data, "train", TRANSFORM, cache=home / "cache").evaluation(np.arange(3))
    assert len(decoded) == len(data.splits["train"])
    again = prepare(data, "train", TRANSFORM, cache=home / "cache").evaluation(np.arange(3))
    assert len(decoded) == len(data.splits["train"])
    assert np.array_equal(first, again)


def test_memory_and_cache_hold_the_same_pixels(home, data):
    stored, held = (prepare(data, "train", TRANSFORM, cache=cache) for cache in (home / "cache", None))
    for index in range(len(stored)):
        assert np.array_equal(stored.resized(index), held.resized(index))


@pytest.mark.parametrize("change", ["transform", "content", "split"])
def test_the_cache_is_keyed_by_what_changes_pixels(home, data, decoded, change):
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    before = len(decoded)
    if change == "transform":
        prepare(data, "train", EvaluationTransform.of(Input(size=24)), cache=home / "cache")
    elif change == "split":
        prepare(data, "test", TRANSFORM, cache=home / "cache")
    else:
        name = data.splits["train"].ids[0]
        trees.save(home / "data" / "mine" / name, Image.new("RGB", (50, 50)), "PNG")
        prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert len(decoded) > before


@pytest.mark.parametrize("damage", ["cut", "index", "about"])
def test_a_damaged_cache_is_made_again(home, data, damage):
    expected = prepare(data, "train", TRANSFORM, cache=home / "cache").evaluation(np.arange(3))
    (folder,) = [path for path in (home / "cache" / "pixels").iterdir() if path.is_dir()]
    if damage == "cut":
        content = (folder / "images.bin").read_bytes()
        (folder / "images.bin").write_bytes(content[:-7])
    else:
        (folder / ("index.npy" if damage == "index" else "about.json")).write_bytes(b"nonsense")
    again = prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert np.array_equal(again.evaluation(np.arange(3)), expected)


def test_a_killed_preparation_is_never_taken_as_whole(home, data, monkeypatch):
    whole = module._Work.blocks

    def dies(self):
        for number, block in enumerate(whole(self)):
            if number == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(module._Work, "blocks", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, "train", TRANSFORM, cache=home / "cache")
    monkeypatch.setattr(module._Work, "blocks", whole)
    pixels = prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert len(pixels.evaluation(np.arange(len(pixels)))) == len(data.splits["train"])
    assert not list((home / "cache" / "pixels").glob("*.part"))


def test_two_that_prepare_at_once_do_the_work_once(home, data, decoded):
    both = [
        threading.Thread(target=prepare, args=(data, "train", TRANSFORM), kwargs={"cache": home / "cache"})
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(decoded) == len(data.splits["train"])


def test_an_image_that_does_not_decode_is_named(home, data):
    name = data.splits["test"].ids[0]
    (home / "data" / "mine" / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=rf"mine/{name} could not be read as an image.*lrbench data verify mine"):
        prepare(data, "test", TRANSFORM, cache=home / "cache")


def test_a_file_where_the_cache_should_be_is_named(home, data):
    (home / "cache").write_bytes(b"x")
    with pytest.raises(InputError, match="cache stands in the way"):
        prepare(data, "train", TRANSFORM, cache=home / "cache")
    (home / "cache").unlink()
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    shutil.rmtree(home / "cache")


def test_jpeg_caches_are_near_the_original(home):
    data = load_task_data(load_task("imagenet1k"), [trees.imagenet(home)], partial=True)
    pixels = prepare(data, "test", EvaluationTransform.of(Input(size=32)), cache=home / "cache")
    expected = v2.Compose([v2.Resize(36), v2.CenterCrop(32)])(data.splits["test"].images.read(0))
    difference = np.asarray(expected).astype(int) - pixels.evaluation(np.arange(1))[0]
    assert np.abs(difference).mean() < 12
    assert torch.from_numpy(pixels.resized(0).copy()).shape[2] == 3
