"""Training batches as pure functions of (seed, epoch, sample).

The order of an epoch depends on the seed and the epoch alone, the augmentation of an image on the seed, the epoch and the
image. Nothing depends on what was drawn before, so a resume needs no fast-forward, and two branches that start from one
boundary see the same batches.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lrbench.core.errors import InputError
from lrbench.core.seeds import derive, generator
from lrbench.data.pixels import Indices, Pixels

Augmentation = Literal["crop-flip", "flip", "none"]

# Random-resized crop as Szegedy et al. 2015 and torchvision draw it: ten tries, then the largest central crop that fits.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# A crop takes an area and a ratio a try, and two numbers for its place; the flip takes one.
_NUMBERS = 2 * _TRIES + 3


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Indices:
    """The order in which an epoch visits the samples: a permutation of `0 … count - 1`."""
    order: Indices = generator(seed, "order", epoch).permutation(count)
    order.setflags(write=False)
    return order


def augmentation_numbers(seed: int, epoch: int, samples: Indices) -> npt.NDArray[np.float64]:
    """The uniform numbers in [0, 1) that augment samples in one epoch, each sample's its own. Shape `(B, 23)`."""
    # A counter-based generator: the sample's number is the high part of the counter, so streams never overlap. It is made
    # once and set to each sample's counter, which takes a quarter of the time of making one for each.
    bits = np.random.Philox(key=derive(seed, "augment", epoch))
    state: Any = bits.state
    counter = state["state"]["counter"]
    raw = np.empty((len(samples), _NUMBERS), dtype=np.uint64)
    for position, sample in enumerate(samples):
        counter[:] = (0, sample, 0, 0)
        bits.state = state
        raw[position] = bits.random_raw(_NUMBERS)
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
        rank: Which process this is, of `world` that train together; each gets its slice of every batch.
        world: Number of processes. The whole batch does not depend on it.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    seed: int
    batch: int
    size: int
    augmentation: Augmentation
    subset: Indices | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise InputError(
                f"a batch of {self.batch} images cannot be shared evenly by {self.world} processes. Start a number of "
                "processes that divides schedule.batch, or change schedule.batch."
            )
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
        """Which samples this process sees in update number `update` (from 0, counted over all epochs).

        Returns:
            Shape `(batch / world,)`; the slices of all ranks in turn are the whole batch.
        """
        epoch, position = divmod(update, self.updates_per_epoch)
        order = epoch_order(self.seed, epoch, self.count)
        share = self.batch // self.world
        start = position * self.batch + self.rank * share
        chosen = order[start : start + share]
        return chosen if self.subset is None else self.subset[chosen]

    def at(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of update number `update`.

        Returns:
            Images, uint8 of shape `(batch / world, size, size, 3)`, and labels, int64 of shape `(batch / world,)`.
        """
        chosen = self.indices(update)
        epoch = update // self.updates_per_epoch
        if self.augmentation == "crop-flip":
            numbers = augmentation_numbers(self.seed, epoch, chosen)
            images = torch.empty((len(chosen), self.size, self.size, 3), dtype=torch.uint8)
            for place, sample, each in zip(images[:, None].unbind(), chosen.tolist(), numbers, strict=True):
                self._crop_into(place, sample, each)
        else:
            images = torch.from_numpy(np.array(self.pixels.evaluation(chosen)))
            if self.augmentation == "flip":
                flips = torch.from_numpy(augmentation_numbers(self.seed, epoch, chosen)[:, -1] < 0.5)
                images = torch.where(flips[:, None, None, None], images.flip(2), images)
        return images, torch.from_numpy(self.labels[chosen])

    def recipe(self, update: int) -> tuple[Indices, Indices, npt.NDArray[np.bool_], torch.Tensor]:
        """The batch of update number `update` without its pixels: what a device that holds them needs to cut it.

        Returns:
            Samples, int64 of shape `(B,)`; crop boxes (top, left, height, width; -1 for the centre square), int64 of shape
            `(B, 4)`; whether each is flipped, of shape `(B,)`; and labels, int64 of shape `(B,)`.

        Raises:
            ValueError: The images are not kept as plain pixels.
        """
        chosen = self.indices(update)
        epoch = update // self.updates_per_epoch
        boxes = np.full((len(chosen), 4), -1, dtype=np.int64)
        flips = np.zeros(len(chosen), dtype=bool)
        if self.augmentation != "none":
            numbers = augmentation_numbers(self.seed, epoch, chosen)
            flips = numbers[:, -1] < 0.5
            if self.augmentation == "crop-flip":
                shapes = self._shapes[chosen].tolist()
                boxes = np.array(
                    [crop_box(height, width, each) for (height, width), each in zip(shapes, numbers, strict=True)]
                )
        return chosen, boxes, flips, torch.from_numpy(self.labels[chosen])

    def patches(self, update: int) -> tuple[npt.NDArray[np.uint8], Indices, npt.NDArray[np.bool_], torch.Tensor]:
        """The batch of update number `update`, its crops cut out but neither resized nor flipped: a device does that.

        Returns:
            The crops' pixels, one crop after another, row by row: uint8 of shape `(P, 3)`; their heights and widths, int64 of
            shape `(B, 2)`; whether each is flipped, of shape `(B,)`; and labels, int64 of shape `(B,)`.
        """
        chosen = self.indices(update)
        numbers = augmentation_numbers(self.seed, update // self.updates_per_epoch, chosen)
        crops = [self._cut(int(sample), each) for sample, each in zip(chosen, numbers, strict=True)]
        content = np.concatenate([crop.reshape(-1, 3) for crop in crops])
        extents = np.array([crop.shape[:2] for crop in crops])
        return content, extents, numbers[:, -1] < 0.5, torch.from_numpy(self.labels[chosen])

    @cached_property
    def _shapes(self) -> Indices:
        if self.pixels.plain is None:
            raise ValueError("recipes are for images that are kept as plain pixels")
        return np.concatenate([shard.index[:, 2:] for shard in self.pixels.plain])

    def _cut(self, sample: int, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        image = self.pixels.resized(sample)
        top, left, height, width = crop_box(image.shape[0], image.shape[1], numbers)
        return image[top : top + height, left : left + width]

    def _crop_into(self, place: torch.Tensor, sample: int, numbers: npt.NDArray[np.float64]) -> None:
        # Cut first: only the crop is copied out of the cache. torch's own resize, to the bit what torchvision's comes to,
        # writes into the batch; what goes through torchvision and is put together afterwards takes 1.4 times as long.
        cut = torch.from_numpy(self._cut(sample, numbers).copy()[None]).permute(0, 3, 1, 2)
        resize_into = torch.ops.aten._upsample_bilinear2d_aa.out
        resize_into(cut, [self.size, self.size], False, out=place.permute(0, 3, 1, 2))
        if numbers[-1] < 0.5:
            # At once, while the crop is in the processor's cache: the whole batch afterwards takes 1.7 times as long at 224 px.
            place.copy_(place.flip(2))
