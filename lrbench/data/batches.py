"""Training batches as pure functions of (seed, epoch, sample).

The order of an epoch depends on the seed and the epoch alone, the augmentation of an image on the seed, the epoch and the
image. Nothing depends on what was drawn before, so a resume needs no fast-forward, and two branches that start from one
boundary see the same batches.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional

from lrbench.errors import InputError
from lrbench.seeds import derive, generator

Augmentation = Literal["crop-flip", "flip", "none"]
Indices = npt.NDArray[np.int64]

# Random-resized crop as Szegedy et al. 2015 and torchvision draw it: ten tries, then the largest central crop that fits.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# A crop takes an area and a ratio a try, and two numbers for its place; the flip takes one.
_NUMBERS = 2 * _TRIES + 3


class TrainingPixels(Protocol):
    """What batches are cut from: `lrbench.data.prepare.Pixels`."""

    def __len__(self) -> int: ...

    def evaluation(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Evaluation crops, shape `(B, S, S, 3)`."""
        ...

    def resized(self, index: int) -> npt.NDArray[np.uint8]:
        """One whole resized image, shape `(h, w, 3)`."""
        ...


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Indices:
    """The order in which an epoch visits the samples: a permutation of `0 … count - 1`."""
    order: Indices = generator(seed, "order", epoch).permutation(count)
    order.setflags(write=False)
    return order


def augmentation_numbers(seed: int, epoch: int, sample: int) -> npt.NDArray[np.float64]:
    """The uniform numbers in [0, 1) that augment one sample in one epoch. Shape `(23,)`."""
    # A counter-based generator: the sample's number is the high part of the counter, so streams never overlap.
    bits = np.random.Philox(key=derive(seed, "augment", epoch), counter=np.array([0, sample, 0, 0], dtype=np.uint64))
    raw = np.asarray(bits.random_raw(_NUMBERS), dtype=np.uint64)
    numbers: npt.NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def crop_box(height: int, width: int, numbers: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """A random-resized crop's box: top, left, height and width in pixels, torchvision's procedure on given numbers."""
    area = height * width
    log_ratio = (math.log(_RATIO[0]), math.log(_RATIO[1]))
    for attempt in range(_TRIES):
        target = area * (_AREA[0] + (_AREA[1] - _AREA[0]) * float(numbers[2 * attempt]))
        ratio = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * float(numbers[2 * attempt + 1]))
        crop_width, crop_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(float(numbers[-3]) * (height - crop_height + 1))
            left = int(float(numbers[-2]) * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    ratio = width / height
    crop_width, crop_height = width, height
    if ratio < _RATIO[0]:
        crop_height = round(width / _RATIO[0])
    elif ratio > _RATIO[1]:
        crop_width = round(height * _RATIO[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of one split for one seed.

    Attributes:
        pixels: The split's prepared images.
        labels: Their labels. Shape `(N,)`.
        seed: Keys order and augmentation.
        batch: Images in a batch.
        size: Side of the square input in pixels.
        augmentation: `crop-flip` (random-resized crop, horizontal flip), `flip`, or `none`.
        subset: Samples to draw from, as positions in `pixels`; None for all.
    """

    pixels: TrainingPixels
    labels: npt.NDArray[np.int64]
    seed: int
    batch: int
    size: int
    augmentation: Augmentation
    subset: Indices | None = None

    def __post_init__(self) -> None:
        if self.count < self.batch:
            raise InputError(
                f"there are {self.count:,} training images, fewer than one batch of {self.batch}. Set a smaller batch "
                f"(--set schedule.batch={max(2, self.count // 2)}), or check that the training data is whole."
            )

    @property
    def count(self) -> int:
        """Number of samples an epoch draws from."""
        return len(self.labels) if self.subset is None else len(self.subset)

    @property
    def updates_per_epoch(self) -> int:
        """Whole batches in an epoch; the images left over differ from epoch to epoch."""
        return self.count // self.batch

    def indices(self, update: int) -> Indices:
        """Which samples update number `update` (from 0, counted over all epochs) sees. Shape `(batch,)`."""
        epoch, position = divmod(update, self.updates_per_epoch)
        order = epoch_order(self.seed, epoch, self.count)
        chosen = order[position * self.batch : (position + 1) * self.batch]
        return chosen if self.subset is None else self.subset[chosen]

    def at(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of update number `update`.

        Returns:
            Images, uint8 of shape `(batch, size, size, 3)`, and labels, int64 of shape `(batch,)`.
        """
        chosen = self.indices(update)
        epoch = update // self.updates_per_epoch
        if self.augmentation == "crop-flip":
            images = torch.stack([self._cropped(int(sample), epoch) for sample in chosen])
        else:
            images = torch.from_numpy(np.array(self.pixels.evaluation(chosen)))
            if self.augmentation == "flip":
                flips = [augmentation_numbers(self.seed, epoch, int(sample))[-1] < 0.5 for sample in chosen]
                images = torch.where(torch.tensor(flips)[:, None, None, None], images.flip(2), images)
        return images, torch.from_numpy(self.labels[chosen])

    def _cropped(self, sample: int, epoch: int) -> torch.Tensor:
        numbers = augmentation_numbers(self.seed, epoch, sample)
        image = torch.from_numpy(np.array(self.pixels.resized(sample))).permute(2, 0, 1)
        top, left, height, width = crop_box(image.shape[1], image.shape[2], numbers)
        crop: torch.Tensor = functional.resized_crop(
            image, top, left, height, width, [self.size, self.size], antialias=True
        )
        if numbers[-1] < 0.5:
            crop = crop.flip(2)
        return crop.permute(1, 2, 0)
