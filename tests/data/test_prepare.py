import io
import shutil
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from lrbench.config import load_task
from lrbench.config.suite import Input
from lrbench.config.task import Task
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.data import pixel_cache, resized_images
from lrbench.data import prepare as module
from lrbench.data.examples import EvaluationTransform, Split, TaskData
from lrbench.data.layouts.file_images import FileImages
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import DecodedOnUse, StoredPixels, centre_crop
from lrbench.data.prepare import prepare
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
    """Indices of images read from files."""
    count = []
    read = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, index: count.append(index) or read(self, index))
    return count


TRANSFORM = EvaluationTransform.of(Input(size=32, crop_fraction=0.875))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_evaluation_crops_match_torchvision_bit_for_bit(home, data, interpolation, fraction):
    settings = Input(size=32, crop_fraction=fraction, interpolation=interpolation)
    transform = EvaluationTransform.of(settings)
    mode = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}[interpolation]
    theirs = v2.Compose([v2.Resize(transform.resize, interpolation=mode), v2.CenterCrop(32)])
    for split in data.splits:
        pixels = prepare(data, split, transform, cache=home / "cache")
        ours = pixels.evaluation(np.arange(len(pixels)))
        for index in range(len(pixels)):
            image = Image.fromarray(data.splits[split].images.read(index))
            expected = theirs(pil_to_tensor(image)).permute(1, 2, 0).numpy()
            assert np.array_equal(ours[index], expected), data.splits[split].ids[index]
            # Pillow's resize, which torchvision uses for images that are not tensors, rounds differently.
            assert np.abs(np.asarray(theirs(image)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("fraction", [0.8, 1.0])
def test_squashed_crops_match_timm_and_use_another_cache(home, data, fraction):
    settings = Input(size=32, crop_fraction=fraction, interpolation="bicubic", crop_mode="squash")
    transform = EvaluationTransform.of(settings)
    theirs = transforms_imagenet_eval(
        32, crop_pct=fraction, crop_mode="squash", interpolation="bicubic", use_prefetcher=True
    )
    for split in data.splits:
        pixels = prepare(data, split, transform, cache=home / "cache")
        ours = pixels.evaluation(np.arange(len(pixels)))
        for index in range(len(pixels)):
            image = torch.from_numpy(data.splits[split].images.read(index)).permute(2, 0, 1)
            # timm converts to floating point and rounds differently.
            assert np.abs(ours[index].astype(int) - theirs(image).permute(1, 2, 0).numpy()).max() <= 1
    plain = EvaluationTransform.of(settings.model_copy(update={"crop_mode": "center"}))
    prepared = [prepare(data, "train", settings, cache=home / "cache") for settings in (transform, plain)]
    shapes = [{pixels.resized(index).shape for index in range(len(pixels))} for pixels in prepared]
    assert len(shapes[0]) == 1 < len(shapes[1])


@pytest.mark.parametrize("more", range(9))
def test_centre_crop_matches_torchvision(more):
    image = np.arange((8 + more) * (8 + 2 * more) * 3, dtype=np.int64).reshape(8 + more, 8 + 2 * more, 3) % 251
    pixels = image.astype(np.uint8)
    theirs = v2.CenterCrop(8)(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.array_equal(centre_crop(pixels, 8), theirs)


def test_second_use_decodes_nothing(home, data, decoded):
    first = prepare(data, "train", TRANSFORM, cache=home / "cache").evaluation(np.arange(3))
    assert len(decoded) == len(data.splits["train"])
    again = prepare(data, "train", TRANSFORM, cache=home / "cache").evaluation(np.arange(3))
    assert len(decoded) == len(data.splits["train"])
    assert np.array_equal(first, again)


def test_memory_and_cache_have_the_same_pixels(home, data):
    stored, held = (prepare(data, "train", TRANSFORM, cache=cache) for cache in (home / "cache", None))
    for index in range(len(stored)):
        assert np.array_equal(stored.resized(index), held.resized(index))


def test_changed_image_is_prepared_again(home, data, decoded):
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    before = len(decoded)
    trees.save(home / "data" / "mine" / data.splits["train"].ids[0], Image.new("RGB", (50, 50)), "PNG")
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert len(decoded) > before


PARTS = {
    "size": st.integers(8, 64),
    "resize": st.integers(64, 128),
    "interpolation": st.sampled_from(["bilinear", "bicubic"]),
    "split": st.sampled_from(["train", "test"]),
    "format": st.sampled_from(["pixels", "jpeg"]),
    "quality": st.integers(50, 95),
    "stamp": st.sampled_from(["as it was", "changed"]),
    "labels": st.integers(0, 1),
    "name": st.sampled_from(["one", "other"]),
    "pillow": st.sampled_from(["11.0", "12.0"]),
    "libjpeg": st.sampled_from(["3.0", "3.1"]),
    "arithmetic": st.sampled_from(["scalar", "vector"]),
    "torchvision": st.sampled_from(["0.29.1", "0.30.0"]),
    "version": st.integers(3, 4),
}


CAPABILITIES = {"scalar": "DEFAULT", "vector": "AVX2"}


class Stamped:
    def __init__(self, stamp):
        self._stamp = stamp

    def stamp(self):
        return self._stamp


def key_of(parts):
    """Return the folder name of the cache for data and settings described by `parts`."""
    split = Split(ids=["a", "b"], labels=np.array([0, parts["labels"]]), images=Stamped(parts["stamp"]))
    content = {"name": parts["name"], "files": {"layout": "folders"}}
    task = Task.model_validate({**content, "prepare": {"format": parts["format"], "quality": parts["quality"]}})
    data = TaskData(task=task, classes=("x", "y"), splits={"train": split, "test": split})
    transform = EvaluationTransform(**{name: parts[name] for name in ("size", "resize", "interpolation")})
    with (
        mock.patch.object(pixel_cache.PIL, "__version__", parts["pillow"]),
        mock.patch.object(pixel_cache.features, "version_feature", lambda name: parts["libjpeg"]),
        mock.patch.object(torch.backends.cpu, "get_cpu_capability", lambda: CAPABILITIES[parts["arithmetic"]]),
        mock.patch.object(torchvision, "__version__", parts["torchvision"] + "+cpu"),
        mock.patch.object(pixel_cache, "_VERSION", parts["version"]),
    ):
        images = resized_images.ResizedImages(data, parts["split"], transform, 1, Control())
        return pixel_cache.PixelCache(images, Path("cache")).folder.name


@pytest.mark.parametrize("changed", sorted(PARTS))
@given(parts=st.fixed_dictionaries(PARTS), draw=st.data())
@settings(max_examples=20)
def test_everything_that_changes_pixels_changes_the_key(changed, parts, draw):
    other = {**parts, changed: draw.draw(PARTS[changed].filter(lambda value: value != parts[changed]))}
    # The JPEG quality has no effect if plain pixels are stored.
    same = changed == "quality" and parts["format"] == "pixels"
    assert (key_of(parts) == key_of(other)) == same and key_of(parts) == key_of(dict(parts))


def cache_folder(home):
    (folder,) = [path for path in (home / "cache" / "pixels").iterdir() if path.is_dir()]
    return folder


@pytest.mark.parametrize("damage", ["cut", "header", "missing", "about"])
def test_damaged_cache_is_written_again(home, data, damage):
    expected = prepare(data, "train", TRANSFORM, cache=home / "cache").evaluation(np.arange(3))
    folder = cache_folder(home)
    shard = folder / "shard-00000.arrow"
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[:-7])
    elif damage == "header":
        shard.write_bytes(b"nonsense" + content[8:])
    elif damage == "missing":
        shard.unlink()
    else:
        (folder / "about.json").write_bytes(b"nonsense")
    again = prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert np.array_equal(again.evaluation(np.arange(3)), expected)


@pytest.fixture
def small_shards(monkeypatch):
    """Two of the test images per shard."""
    monkeypatch.setattr(resized_images, "_SHARD_BYTES", 13_000)
    monkeypatch.setattr(resized_images, "_IMAGES_PER_TASK", 2)


def test_killed_preparation_is_incomplete_and_resumed(home, data, decoded, monkeypatch, small_shards):
    expected = prepare(data, "train", TRANSFORM, cache=None).evaluation(np.arange(10))
    decoded.clear()
    whole = resized_images.ResizedImages.stream

    def dies(self, first, last):
        for number, image in enumerate(whole(self, first, last)):
            if number == 7:
                raise KeyboardInterrupt
            yield image

    with monkeypatch.context() as patch:
        patch.setattr(resized_images.ResizedImages, "stream", dies)
        patch.setattr(module, "available_cores", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            prepare(data, "train", TRANSFORM, cache=home / "cache")
    (part,) = (home / "cache" / "pixels").glob(".*.part")
    kept = len(list(part.glob("shard-*.arrow")))
    assert kept >= 2 and not list((home / "cache" / "pixels").glob("mine-*"))
    # A temporary file of the killed process is removed.
    (part / ".shard-00003.arrow.x.part").write_bytes(b"half")
    decoded.clear()
    pixels = prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert 0 < len(decoded) < len(data.splits["train"]) and min(decoded) > 0
    assert np.array_equal(pixels.evaluation(np.arange(10)), expected)
    assert not list((home / "cache" / "pixels").glob(".*.part")) and not list(cache_folder(home).glob(".*"))


def test_several_shards_have_the_same_pixels_as_one(home, data, monkeypatch):
    one = prepare(data, "train", TRANSFORM, cache=home / "one")
    monkeypatch.setattr(resized_images, "_SHARD_BYTES", 13_000)
    many = prepare(data, "train", TRANSFORM, cache=home / "many")
    assert len(list((home / "many" / "pixels").glob("*/shard-*.arrow"))) > 2
    everything = np.arange(len(one))
    assert np.array_equal(one.evaluation(everything), many.evaluation(everything))
    assert all(np.array_equal(one.resized(index), many.resized(index)) for index in everything)


def test_shards_are_readable_by_datasets(home, data, small_shards):
    import datasets

    pixels = prepare(data, "train", TRANSFORM, cache=home / "cache")
    table = datasets.concatenate_datasets(
        [datasets.Dataset.from_file(str(path)) for path in sorted(cache_folder(home).glob("shard-*.arrow"))]
    )
    assert len(table) == len(pixels)
    for index in (0, len(table) - 1):
        row = table[index]
        image = np.frombuffer(row["image"], dtype=np.uint8).reshape(row["height"], row["width"], 3)
        assert np.array_equal(image, pixels.resized(index))


def test_without_cache_large_splits_are_decoded_on_use(home, data, decoded, monkeypatch):
    kept = prepare(data, "train", TRANSFORM, cache=None)
    monkeypatch.setattr(module, "_MEMORY_BYTES", 20_000)
    on_use = prepare(data, "train", TRANSFORM, cache=None)
    assert isinstance(on_use, DecodedOnUse) and len(on_use) == len(kept)
    decoded.clear()
    assert np.array_equal(on_use.evaluation(np.arange(4)), kept.evaluation(np.arange(4)))
    assert decoded == [0, 1, 2, 3]
    assert np.array_equal(on_use.resized(5), kept.resized(5))
    photographs = load_task_data(load_task("imagenet1k"), [trees.imagenet(home)], partial=True)
    stored, on_use = (prepare(photographs, "test", TRANSFORM, cache=cache) for cache in (home / "cache", None))
    assert isinstance(on_use, StoredPixels)
    monkeypatch.setattr(module, "_MEMORY_BYTES", 2_000)
    on_use = prepare(photographs, "test", TRANSFORM, cache=None)
    assert isinstance(on_use, DecodedOnUse) and np.array_equal(
        on_use.evaluation(np.arange(9)), stored.evaluation(np.arange(9))
    )


def test_no_cache_gives_the_same_results_and_writes_no_pixels(lrbench, home):
    for arguments in (
        ("pretrain", "tiny.toml", "--seed", "0"),
        ("transfer", "--snapshot", "stage1", "--task", "tiny-objects"),
    ):
        assert lrbench(*arguments, "--no-cache").status == 0
    assert not (home / "cache" / "pixels").exists()
    without = (home / "checkpoints" / "tiny" / "step" / "seed0" / "stage3.safetensors").read_bytes()
    shutil.rmtree(home / "checkpoints")
    assert lrbench("pretrain", "tiny.toml", "--seed", "0").status == 0
    assert (home / "cache" / "pixels").exists()
    assert (home / "checkpoints" / "tiny" / "step" / "seed0" / "stage3.safetensors").read_bytes() == without


def test_stop_keeps_finished_shards(home, data, small_shards):
    control = Control()
    control.progress = lambda done, total, unit: control.stop() if done == 6 else None
    with pytest.raises(
        InterruptedWork,
        match=r"6 of 12 images were prepared\. .* to continue from the finished shards",
    ):
        prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)
    assert list((home / "cache" / "pixels").glob(".*.part/shard-*.arrow"))


def test_concurrent_preparations_decode_once(home, data, decoded):
    threads = [
        threading.Thread(target=prepare, args=(data, "train", TRANSFORM), kwargs={"cache": home / "cache"})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == len(data.splits["train"])


def test_undecodable_image_is_named_in_prepare(home, data):
    name = data.splits["test"].ids[0]
    (home / "data" / "mine" / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=rf"mine/{name} could not be read as an image.*lrbench data verify mine"):
        prepare(data, "test", TRANSFORM, cache=home / "cache")


def test_file_in_place_of_the_cache_is_named(home, data):
    (home / "cache").write_bytes(b"x")
    with pytest.raises(InputError, match="cache is in the way"):
        prepare(data, "train", TRANSFORM, cache=home / "cache")
    (home / "cache").unlink()
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    shutil.rmtree(home / "cache")


def test_jpeg_cache_is_close_to_the_original(home):
    data = load_task_data(load_task("imagenet1k"), [trees.imagenet(home)], partial=True)
    pixels = prepare(data, "test", EvaluationTransform.of(Input(size=32)), cache=home / "cache")
    expected = v2.Compose([v2.Resize(36), v2.CenterCrop(32)])(Image.fromarray(data.splits["test"].images.read(0)))
    difference = np.asarray(expected).astype(int) - pixels.evaluation(np.arange(1))[0]
    assert np.abs(difference).mean() < 12
    # The pixels are those that Pillow reads from the stored JPEG.
    shard = pixels._shards[0]
    offset, length, height, width = shard.index[0].tolist()
    with Image.open(io.BytesIO(shard.content[offset : offset + length].tobytes())) as image:
        assert image.format == "JPEG" and np.array_equal(np.asarray(image), pixels.resized(0))
    assert pixels.resized(0).shape == (height, width, 3)
