import math

import numpy as np
import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from lrbench.core.errors import InputError
from lrbench.core.seeds import derive
from lrbench.data.batches import Batches, augmentation_numbers, crop_box, epoch_order


class Images:
    """Random images, by default ten of 20 by 30 pixels."""

    def __init__(self, count=10, height=20, width=30):
        self.content = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.content)

    def evaluation(self, indices):
        return self.content[indices, 2:18, 7:23]

    def resized(self, index):
        return self.content[index]

    @property
    def plain(self):
        return None


def batches(**changes):
    settings = {"seed": 1, "batch": 4, "size": 16, "augmentation": "crop-flip"}
    return Batches(pixels=Images(), labels=np.arange(10), **{**settings, **changes})


def numbers_of(seed, epoch, sample):
    return augmentation_numbers(seed, epoch, np.array([sample]))[0]


def test_augmentation_numbers_depend_on_the_sample_only():
    together = augmentation_numbers(4, 2, np.array([7, 3, 7, 10**9]))
    for sample, numbers in zip((7, 3, 7, 10**9), together, strict=True):
        bits = np.random.Philox(key=derive(4, "augment", 2), counter=np.array([0, sample, 0, 0], dtype=np.uint64))
        assert np.array_equal(numbers, (bits.random_raw(23) >> np.uint64(11)).astype(float) * 2.0**-53)


def test_epoch_visits_each_sample_at_most_once():
    sequence = batches()
    assert sequence.updates_per_epoch == 2
    first = np.concatenate([sequence.indices(update) for update in (0, 1)])
    second = np.concatenate([sequence.indices(update) for update in (2, 3)])
    assert len(set(first)) == 8 and len(set(second)) == 8
    assert set(first) != set(second)


def test_order_depends_only_on_seed_and_epoch():
    assert np.array_equal(epoch_order(3, 7, 50), np.array(epoch_order(3, 7, 50)))
    assert not np.array_equal(epoch_order(3, 7, 50), epoch_order(3, 8, 50))
    assert not np.array_equal(epoch_order(3, 7, 50), epoch_order(4, 7, 50))


@pytest.mark.parametrize("augmentation", ["crop-flip", "flip", "none"])
def test_batch_is_a_pure_function_of_the_update(augmentation):
    one, other = batches(augmentation=augmentation), batches(augmentation=augmentation)
    later = [other.at(update) for update in (3, 2, 1, 0)][::-1]
    for update in range(4):
        images, labels = one.at(update)
        assert torch.equal(images, later[update][0]) and torch.equal(labels, later[update][1])
        assert images.shape == (4, 16, 16, 3) and images.dtype == torch.uint8


def test_augmentation_differs_between_epochs_and_samples():
    assert not np.array_equal(numbers_of(0, 0, 1), numbers_of(0, 1, 1))
    assert not np.array_equal(numbers_of(0, 0, 1), numbers_of(0, 0, 2))
    numbers = augmentation_numbers(0, 0, np.arange(500))
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(numbers.std() - 12**-0.5) < 0.01


@pytest.mark.parametrize(
    ("height", "width", "size"), [(20, 30, 16), (73, 97, 64), (16, 16, 16), (9, 400, 32), (300, 3, 224)]
)
def test_crops_match_torchvision_for_the_same_box(height, width, size):
    pixels = Images(40, height, width)
    sequence = Batches(pixels=pixels, labels=np.arange(40), seed=1, batch=20, size=size, augmentation="crop-flip")
    flipped = set()
    for update in range(4):
        images, _ = sequence.at(update)
        assert images.is_contiguous()
        for image, sample in zip(images, sequence.indices(update), strict=True):
            numbers = numbers_of(1, update // 2, int(sample))
            original = torch.from_numpy(pixels.content[sample].copy()).permute(2, 0, 1)
            expected = functional.resized_crop(
                original, *crop_box(height, width, numbers), [size, size], antialias=True
            )
            if numbers[-1] < 0.5:
                expected = functional.horizontal_flip(expected)
            assert torch.equal(image.permute(2, 0, 1), expected)
            flipped.add(bool(numbers[-1] < 0.5))
    assert flipped == {True, False}


@pytest.mark.parametrize(("height", "width"), [(20, 24), (16, 400)])
def test_patches_are_the_crops_one_after_another(height, width):
    pixels, allocated = Images(40, height, width), []
    sequence = Batches(pixels=pixels, labels=np.arange(40), seed=1, batch=20, size=16, augmentation="crop-flip")

    def allocate(count):
        allocated.append(torch.empty(count, dtype=torch.uint8))
        return allocated[-1]

    content, sizes, flips, labels = sequence.patches(3, allocate)
    # Crops of elongated images need more memory than expected.
    assert (len(allocated) > 1) == (width == 400) and content.data_ptr() == allocated[-1].data_ptr()
    samples, start = sequence.indices(3), 0
    for sample, size, flip in zip(samples.tolist(), sizes.tolist(), flips.tolist(), strict=True):
        numbers = numbers_of(1, 1, sample)
        top, left, crop_height, crop_width = crop_box(height, width, numbers)
        assert size == [crop_height, crop_width] and flip == (numbers[-1] < 0.5)
        end = start + crop_height * crop_width
        expected = pixels.content[sample, top : top + crop_height, left : left + crop_width]
        assert np.array_equal(content[start:end].numpy().reshape(expected.shape), expected)
        start = end
    assert start == len(content) and np.array_equal(labels, samples)


def test_boxes_are_distributed_as_in_torchvision():
    areas, ratios = [], []
    for sample in range(2000):
        top, left, height, width = crop_box(300, 400, numbers_of(5, 0, sample))
        assert 0 <= top <= 300 - height and 0 <= left <= 400 - width
        areas.append(height * width / (300 * 400))
        ratios.append(width / height)
    torch.manual_seed(0)
    theirs = [v2.RandomResizedCrop(224).make_params([torch.zeros(3, 300, 400)]) for _ in range(2000)]
    assert abs(np.mean(areas) - np.mean([p["height"] * p["width"] / 120000 for p in theirs])) < 0.03
    assert abs(np.mean(ratios) - np.mean([p["width"] / p["height"] for p in theirs])) < 0.03


@pytest.mark.parametrize("seed", range(60))
def test_boxes_match_torchvision_for_the_same_numbers(seed, monkeypatch):
    draw = np.random.default_rng(seed)
    height, width = (int(side) for side in draw.integers(8, 200, 2))
    numbers = draw.random(23)
    order = iter(range(20))

    class Number:
        value = 0.0

        def uniform_(self, low, high):
            self.value = low + (high - low) * numbers[next(order)]
            return self

        def item(self):
            return self.value

        def exp(self):
            self.value = math.exp(self.value)
            return self

    places = iter(numbers[-3:-1])
    monkeypatch.setattr(torch, "empty", lambda *_: Number())
    monkeypatch.setattr(torch, "exp", Number.exp)
    monkeypatch.setattr(torch, "log", lambda values: [math.log(value) for value in values.tolist()])
    monkeypatch.setattr(torch, "randint", lambda low, high, **_: torch.tensor([int(next(places) * high)]))
    image = torch.zeros(3, height, width)
    expected = v1.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    assert crop_box(height, width, numbers) == tuple(int(side) for side in expected)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (7, 200), (200, 7), (1, 50), (50, 1)])
def test_fallback_box_matches_torchvision(height, width):
    image = torch.zeros(3, height, width)
    theirs = v2.RandomResizedCrop(224).make_params([image])
    older = v1.RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3])
    for sample in range(20):
        box = crop_box(height, width, numbers_of(5, 0, sample))
        assert box == older == tuple(theirs[name] for name in ("top", "left", "height", "width"))


def test_subset_yields_only_its_samples():
    subset = np.array([1, 3, 5, 7, 9])
    sequence = batches(subset=subset, augmentation="none")
    assert sequence.updates_per_epoch == 1
    samples = set(np.concatenate([sequence.indices(update) for update in range(20)]))
    assert samples == set(subset)


def test_fewer_images_than_a_batch_is_an_error():
    with pytest.raises(InputError, match=r"10 training images, fewer than one batch of 32.*schedule\.batch=5"):
        batches(batch=32)


def test_ranks_take_slices_of_the_whole_batch():
    whole = batches(batch=8)
    for update in (0, 3):
        images, labels = whole.at(update)
        slices = [batches(batch=8, rank=rank, world=4).at(update) for rank in range(4)]
        assert torch.equal(torch.cat([part for part, _ in slices]), images)
        assert torch.equal(torch.cat([part for _, part in slices]), labels)
    with pytest.raises(InputError, match="a batch of 4 images cannot be divided evenly among 3 processes"):
        batches(world=3)
