"""Training batches as pure functions of (seed, epoch, sample).

The order of an epoch depends only on the seed and the epoch, the augmentation of an image only on the seed, the epoch and the
image. No random state is carried along, so a resume needs no fast-forward, and two branches of one boundary see the same
batches.
"""

import math
from collections.abc import Callable, Sequence
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

# Random-resized crop of Szegedy et al. 2015 as in torchvision: ten attempts, then the largest central crop.
_AREA_RANGE = (0.08, 1.0)
_RATIO_RANGE = (3 / 4, 4 / 3)
_ATTEMPTS = 10
# An area and a ratio per attempt, top, left, and the flip.
_NUMBERS = 2 * _ATTEMPTS + 3


def allocate_bytes(count: int) -> torch.Tensor:
    """Return uninitialised memory, uint8 of shape `(count,)`."""
    return torch.empty(count, dtype=torch.uint8)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Indices:
    """Return the order of the samples in an epoch: a permutation of `0 … count - 1`."""
    order: Indices = generator(seed, "order", epoch).permutation(count)
    order.setflags(write=False)
    return order


def augmentation_numbers(seed: int, epoch: int, samples: Indices) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1) for the augmentation of samples in one epoch. Shape `(B, 23)`."""
    # The sample's index is the high part of Philox's counter, so streams never overlap. Setting the counter is four times as
    # fast as making a generator.
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


def crop_box(height: int, width: int, numbers: Sequence[float]) -> tuple[int, int, int, int]:
    """Return the box of a random-resized crop, drawn like torchvision's from given numbers.

    Args:
        height, width: Size of the image.
        numbers: The 23 numbers of `augmentation_numbers` for one sample.

    Returns:
        Top, left, height and width in pixels.
    """
    area = height * width
    log_ratio = (math.log(_RATIO_RANGE[0]), math.log(_RATIO_RANGE[1]))
    for attempt in range(_ATTEMPTS):
        crop_area = area * (_AREA_RANGE[0] + (_AREA_RANGE[1] - _AREA_RANGE[0]) * numbers[2 * attempt])
        ratio = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * numbers[2 * attempt + 1])
        crop_width, crop_height = round(math.sqrt(crop_area * ratio)), round(math.sqrt(crop_area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(numbers[-3] * (height - crop_height + 1))
            left = int(numbers[-2] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    ratio = width / height
    crop_width, crop_height = width, height
    if ratio < _RATIO_RANGE[0]:
        crop_height = round(width / _RATIO_RANGE[0])
    elif ratio > _RATIO_RANGE[1]:
        crop_width = round(height * _RATIO_RANGE[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of one split for one seed.

    Attributes:
        pixels: Prepared images of the split.
        labels: Labels of the images. Shape `(N,)`.
        seed: Seed of order and augmentation.
        batch: Batch size over all processes.
        size: Side of the square input in pixels.
        augmentation: `crop-flip` (random-resized crop and horizontal flip), `flip`, or `none`.
        subset: Indices of the samples to use; None for all.
        rank: Index of this process; each process gets a slice of every batch.
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
                f"a batch of {self.batch} images cannot be divided evenly among {self.world} processes. Start a number of "
                "processes that divides schedule.batch, or change schedule.batch."
            )
        if self.count < self.batch:
            raise InputError(
                f"there are {self.count:,} training images, fewer than one batch of {self.batch}. Set a smaller batch "
                f"(--set schedule.batch={max(2, self.count // 2)}), or check that the training data is complete."
            )

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.labels) if self.subset is None else len(self.subset)

    @property
    def updates_per_epoch(self) -> int:
        """Number of full batches in an epoch. The images of the incomplete batch differ between epochs."""
        return self.count // self.batch

    def indices(self, update: int) -> Indices:
        """Return the samples of this process in an update, counted from 0 over all epochs.

        Returns:
            Shape `(batch / world,)`; the slices of all ranks in order are the whole batch.
        """
        epoch, position = divmod(update, self.updates_per_epoch)
        order = epoch_order(self.seed, epoch, self.count)
        share = self.batch // self.world
        start = position * self.batch + self.rank * share
        samples = order[start : start + share]
        return samples if self.subset is None else self.subset[samples]

    def at(self, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch of an update.

        Returns:
            Images, uint8 of shape `(batch / world, size, size, 3)`, and labels, int64 of shape `(batch / world,)`.
        """
        samples = self.indices(update)
        epoch = update // self.updates_per_epoch
        if self.augmentation == "crop-flip":
            numbers = augmentation_numbers(self.seed, epoch, samples).tolist()
            images = torch.empty((len(samples), self.size, self.size, 3), dtype=torch.uint8)
            for output, sample, sample_numbers in zip(images[:, None].unbind(), samples.tolist(), numbers, strict=True):
                self._crop_into(output, sample, sample_numbers)
        else:
            images = torch.from_numpy(self.pixels.evaluation(samples))
            if self.augmentation == "flip":
                flips = torch.from_numpy(augmentation_numbers(self.seed, epoch, samples)[:, -1] < 0.5)
                images = torch.where(flips[:, None, None, None], images.flip(2), images)
        return images, torch.from_numpy(self.labels[samples])

    def recipe(self, update: int) -> tuple[Indices, Indices, npt.NDArray[np.bool_], torch.Tensor]:
        """Return the batch of an update without its pixels, for a device that stores the images.

        Returns:
            Samples, int64 of shape `(B,)`; crop boxes (top, left, height, width; -1 for the centre square), int64 of shape
            `(B, 4)`; flips, bool of shape `(B,)`; and labels, int64 of shape `(B,)`.

        Raises:
            ValueError: The images are not stored as plain pixels.
        """
        samples = self.indices(update)
        epoch = update // self.updates_per_epoch
        boxes = np.full((len(samples), 4), -1, dtype=np.int64)
        flips = np.zeros(len(samples), dtype=bool)
        if self.augmentation != "none":
            numbers = augmentation_numbers(self.seed, epoch, samples)
            flips = numbers[:, -1] < 0.5
            if self.augmentation == "crop-flip":
                shapes = self._shapes[samples].tolist()
                rows = zip(shapes, numbers.tolist(), strict=True)
                boxes = np.array([crop_box(height, width, row) for (height, width), row in rows])
        return samples, boxes, flips, torch.from_numpy(self.labels[samples])

    def patches(
        self, update: int, allocate: Callable[[int], torch.Tensor] = allocate_bytes
    ) -> tuple[torch.Tensor, Indices, npt.NDArray[np.bool_], torch.Tensor]:
        """Return the batch of an update as crops, for a device that resizes and flips them.

        Args:
            update: Number of the update.
            allocate: Returns memory for the crops of at least the given number of bytes.

        Returns:
            Pixels of the crops, one crop after another, row by row: uint8 of shape `(P, 3)`; heights and widths, int64 of shape
            `(B, 2)`; flips, bool of shape `(B,)`; and labels, int64 of shape `(B,)`.
        """
        samples = self.indices(update)
        numbers = augmentation_numbers(self.seed, update // self.updates_per_epoch, samples)
        # A crop is cut as soon as its image is decoded, so that the memory of decoded images is reused. The mean crop of
        # photographs has about as many pixels as the input; the memory is enlarged for elongated images.
        content = allocate(len(samples) * 3 * self.size**2 * 5 // 4)
        view = content.numpy()
        sizes: list[tuple[int, ...]] = []
        end = 0
        for sample, row in zip(samples.tolist(), numbers.tolist(), strict=True):
            crop = self._crop(sample, row)
            sizes.append(crop.shape[:2])
            start, end = end, end + crop.size
            if end > len(content):
                enlarged = allocate(max(end, len(content) * 3 // 2))
                enlarged[:start] = content[:start]
                content, view = enlarged, enlarged.numpy()
            view[start:end].reshape(crop.shape)[...] = crop
        return content[:end].view(-1, 3), np.array(sizes), numbers[:, -1] < 0.5, torch.from_numpy(self.labels[samples])

    @cached_property
    def _shapes(self) -> Indices:
        if self.pixels.plain is None:
            raise ValueError("recipes need images that are stored as plain pixels")
        return np.concatenate([shard.index[:, 2:] for shard in self.pixels.plain])

    def _crop(self, sample: int, numbers: Sequence[float]) -> npt.NDArray[np.uint8]:
        image = self.pixels.resized(sample)
        top, left, height, width = crop_box(image.shape[0], image.shape[1], numbers)
        return image[top : top + height, left : left + width]

    def _crop_into(self, output: torch.Tensor, sample: int, numbers: Sequence[float]) -> None:
        # torchvision's resize calls the same kernel; writing into the batch saves the copy of a concatenation.
        crop = torch.from_numpy(self._crop(sample, numbers).copy()[None]).permute(0, 3, 1, 2)
        resize_into = torch.ops.aten._upsample_bilinear2d_aa.out
        resize_into(crop, [self.size, self.size], False, out=output.permute(0, 3, 1, 2))
        if numbers[-1] < 0.5:
            # Flipped now, while the crop is in the processor's cache.
            output.copy_(output.flip(2))
