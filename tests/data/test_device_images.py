"""Batches made on the training device, compared with torchvision on a CPU."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from lrbench.config import load_task
from lrbench.config.schedule import SnapshotKey
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.data import device_images as module
from lrbench.data.batches import Batches
from lrbench.data.device_images import DeviceImages, crop_layout, images_on_device, resize_crops
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import Shard, StoredPixels
from lrbench.data.prefetch import training_batches
from lrbench.data.prepare import prepare
from lrbench.models.inference import InputNormalisation
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.snapshots import read_metadata, snapshot_path
from tests import trees

CPU = torch.device("cpu")
SHAPES = [(64, 48), (48, 64), (90, 33), (40, 40), (33, 120), (57, 31)]


@pytest.fixture
def pixels(home, monkeypatch):
    """Twelve images of many shapes, short side 36, in several shards."""
    monkeypatch.setattr("lrbench.data.resized_images._SHARD_BYTES", 20_000)
    for label in range(2):
        for number in range(8):
            picture = trees.image(label, number, size=SHAPES[number % len(SHAPES)])
            trees.save(home / "data" / "mine" / f"c{label}" / f"{number}.png", picture, "PNG")
    (home / "mine.toml").write_text('name = "mine"\n\n[files]\nlayout = "folders"\nroot = "mine"\n')
    data = load_task_data(load_task("mine.toml"), [home / "data"])
    prepared = prepare(data, "train", EvaluationTransform.of(Input(size=32)), cache=home / "cache")
    assert prepared.plain is not None and len(prepared.plain) > 1
    return prepared


def cut_from(device_images, samples, boxes, flips):
    return device_images.batch(*device_images.layout(*map(np.asarray, (samples, boxes, flips))))


def batches(pixels, augmentation, **changes):
    settings = {"seed": 3, "batch": 6, "size": 32, **changes}
    return Batches(pixels=pixels, labels=np.arange(len(pixels)), augmentation=augmentation, **settings)


@pytest.mark.parametrize("augmentation", ["crop-flip", "flip", "none"])
def test_device_batches_match_cpu_batches(pixels, augmentation):
    sequence = batches(pixels, augmentation)
    device_images = DeviceImages(pixels.plain, 32, CPU)
    for update in range(6):
        expected, expected_labels = sequence.at(update)
        samples, boxes, flips, labels = sequence.recipe(update)
        images = cut_from(device_images, samples, boxes, flips)
        assert images.shape == expected.shape and images.dtype == torch.uint8 and torch.equal(labels, expected_labels)
        difference = (images.int() - expected.int()).abs()
        # torchvision rounds to whole levels between its two passes, this code only the result.
        assert difference.max() <= (1 if augmentation == "crop-flip" else 0)


@pytest.mark.parametrize("box", [(0, 0, 36, 36), (3, 5, 7, 30), (10, 2, 25, 4), (1, 1, 32, 32), (35, 0, 1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_device_crops_match_torchvision(pixels, box, flip):
    device_images = DeviceImages(pixels.plain, 32, CPU)
    for sample in range(len(pixels)):
        original = torch.from_numpy(pixels.resized(sample).copy()).permute(2, 0, 1)
        expected = functional.resized_crop(original.float(), *box, [32, 32], antialias=True).round()
        if flip:
            expected = functional.horizontal_flip(expected)
        ours = cut_from(device_images, [sample], [box], [flip])[0].permute(2, 0, 1)
        # Sums in a different order may round differently.
        assert (ours - expected).abs().max() <= 1 and (ours != expected).float().mean() < 0.01


@pytest.fixture
def encoded(pixels, home):
    """The same images, stored as JPEG."""
    with (home / "mine.toml").open("a") as file:
        file.write('\n[prepare]\nformat = "jpeg"\n')
    data = load_task_data(load_task("mine.toml"), [home / "data"])
    prepared = prepare(data, "train", EvaluationTransform.of(Input(size=32)), cache=home / "cache")
    assert prepared.plain is None
    return prepared


@pytest.mark.parametrize("kind", ["pixels", "encoded"])
def test_resized_crops_match_cpu_batches(kind, request):
    sequence = batches(request.getfixturevalue(kind), "crop-flip")
    flipped = []
    for update in range(6):
        expected, expected_labels = sequence.at(update)
        content, extents, flips, labels = sequence.patches(update)
        assert content.dtype == torch.uint8 and len(content) == int(extents.prod(1).sum())
        images = resize_crops(content, *crop_layout(extents, flips), 32, CPU)
        assert images.dtype == torch.uint8 and images.is_contiguous() and torch.equal(labels, expected_labels)
        assert (images.int() - expected.int()).abs().max() <= 1
        flipped += flips.tolist()
    assert set(flipped) == {True, False}


def test_device_without_the_images_resizes_crops(encoded, monkeypatch):
    sequence, device = batches(encoded, "crop-flip"), torch.device("meta")
    monkeypatch.setattr(functional, "resize", lambda *_, **__: pytest.fail("resized on the CPU"))
    fed = list(training_batches(sequence, 0, 3, device))
    assert len(fed) == 3 and {images.device for images, _ in fed} == {device}
    assert {tuple(images.shape) for images, _ in fed} == {(6, 32, 32, 3)}
    # Without random crops nothing is resized.
    assert {images.device for images, _ in training_batches(batches(encoded, "flip"), 0, 2, device)} == {CPU}


def test_device_with_the_images_makes_batches_itself(pixels, monkeypatch):
    sequence = batches(pixels, "crop-flip")
    plain = list(training_batches(sequence, 0, 4, CPU))
    cut = []

    class Recorded(DeviceImages):
        def batch(self, *recipe):
            cut.append(recipe)
            return super().batch(*recipe)

    monkeypatch.setattr(
        "lrbench.data.prefetch.images_on_device", lambda pixels, size, device: Recorded(pixels.plain, size, device)
    )
    held = list(training_batches(sequence, 0, 4, CPU))
    assert len(cut) == 4
    for (images, labels), (theirs, their_labels) in zip(held, plain, strict=True):
        assert torch.equal(labels, their_labels) and (images.int() - theirs.int()).abs().max() <= 1


def test_images_that_do_not_fit_or_are_jpeg_stay_on_the_cpu(pixels, monkeypatch):
    cuda = torch.device("cuda")
    assert images_on_device(pixels, 32, CPU) is None
    monkeypatch.setattr(module.torch.cuda, "mem_get_info", lambda device: (100_000, 200_000))
    module._STORED.clear()
    assert images_on_device(pixels, 32, cuda) is None
    monkeypatch.setattr(module.torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    monkeypatch.setattr(module, "DeviceImages", lambda shards, size, device: ("held", len(shards), size, device))
    module._STORED.clear()
    held = images_on_device(pixels, 32, cuda)
    assert held == ("held", len(pixels.plain), 32, cuda) and images_on_device(pixels, 32, cuda) is held
    # A second data set replaces the first one.
    assert images_on_device(pixels, 24, cuda)[2] == 24 and len(module._STORED) == 1
    # The stored data set is freed for images that stay on the CPU.
    monkeypatch.setattr(StoredPixels, "plain", ())
    assert images_on_device(StoredPixels([], 32, encoded=True), 32, cuda) is None and not module._STORED


@pytest.mark.parametrize("augmentation", ["flip", "none"])
def test_squares_of_the_input_size_are_not_resampled(augmentation, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    size = values[0].size
    shards = [
        Shard(content=part.reshape(-1), index=np.array([[n * size, size, 32, 32] for n in range(len(part))]))
        for part in (values[:5], values[5:])
    ]
    sequence = batches(StoredPixels(shards, 32, encoded=False), augmentation)
    device_images = DeviceImages(shards, 32, CPU)
    monkeypatch.setattr(module, "_resize_weights", lambda *_: pytest.fail("resampled"))
    for update in range(4):
        samples, boxes, flips, _ = sequence.recipe(update)
        images = cut_from(device_images, samples, boxes, flips)
        assert torch.equal(images, sequence.at(update)[0])
        normalised = InputNormalisation((0.5,) * 3, (0.5,) * 3, CPU)(images)
        assert normalised.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("augmentation", ["crop-flip", "flip", "none"])
def test_batches_are_channels_last(pixels, augmentation):
    samples, boxes, flips, _ = batches(pixels, augmentation).recipe(0)
    images = cut_from(DeviceImages(pixels.plain, 32, CPU), samples, boxes, flips)
    normalised = InputNormalisation((0.5,) * 3, (0.5,) * 3, CPU)(images)
    assert images.is_contiguous() and normalised.is_contiguous(memory_format=torch.channels_last)


def test_images_take_at_most_their_share_of_free_memory(pixels, monkeypatch):
    cuda = torch.device("cuda")
    # The device stores four bytes per pixel, a shard three.
    needed = sum(len(shard.content) for shard in pixels.plain) * 4 / 3
    monkeypatch.setattr(module, "DeviceImages", lambda shards, size, device: "held")
    for share, fits in ((0.41, False), (0.39, True)):
        # The total memory would suffice; the free memory decides.
        monkeypatch.setattr(module.torch.cuda, "mem_get_info", lambda device, s=share: (int(needed / s), 10**12))
        module._STORED.clear()
        assert (images_on_device(pixels, 32, cuda) == "held") == fits
    module._STORED.clear()


def test_wide_image_does_not_enlarge_other_batches(monkeypatch):
    sides = [(36, 48), (36, 5000), (40, 36), (36, 36)]
    content = np.random.default_rng(0).integers(0, 256, sum(3 * height * width for height, width in sides), np.uint8)
    lengths = np.array([3 * height * width for height, width in sides])
    shard = Shard(content=content, index=np.column_stack([np.cumsum(lengths) - lengths, lengths, np.array(sides)]))
    device_images = DeviceImages([shard], 32, CPU)
    gathered, weights = [], module._resize_weights

    def record(extent, mirrored, inputs, outputs):
        gathered.append(inputs)
        return weights(extent, mirrored, inputs, outputs)

    monkeypatch.setattr(module, "_resize_weights", record)
    cut_from(device_images, [0, 2, 3], [[0, 0, 36, 40], [2, 2, 30, 30], [-1, -1, -1, -1]], [False] * 3)
    assert max(gathered) <= 64
    # Nor does a small crop or the centre of the wide image.
    cut_from(device_images, [1, 1], [[0, 4000, 36, 40], [-1, -1, -1, -1]], [False, True])
    assert max(gathered) <= 64
    crop = cut_from(device_images, [1], [[0, 0, 36, 4900]], [False])[0]
    assert max(gathered) >= 4900
    wide = torch.from_numpy(content[lengths[0] : lengths[0] + lengths[1]].reshape(36, 5000, 3)).permute(2, 0, 1)
    expected = functional.resized_crop(wide.float(), 0, 0, 36, 4900, [32, 32], antialias=True).round()
    assert (crop.permute(2, 0, 1) - expected).abs().max() <= 1


def test_pretraining_with_device_images_is_bit_identical(tiny, place, monkeypatch):
    tiny = tiny.model_copy(update={"schedule": tiny.schedule.model_copy(update={"augmentation": "flip"})})
    path = snapshot_path(place.workspace.checkpoints, "tiny", SnapshotKey(arm="step", seed=0, stage=1))
    snapshots = []
    for held in (False, True):
        if held:
            monkeypatch.setattr(
                "lrbench.data.prefetch.images_on_device",
                lambda pixels, size, device: DeviceImages(pixels.plain, size, device),
            )
        for stage in (0, 1):
            make_snapshot(tiny, SnapshotKey(arm="step", seed=0, stage=stage), place, Control())
        snapshots.append((path.read_bytes(), read_metadata(path).source_accuracy))
        path.unlink()
    # Flips do not interpolate, so all bits are equal.
    assert snapshots[0] == snapshots[1]
