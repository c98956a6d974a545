"""Batches cut on the device that trains: a small data set lies there whole, as plain pixels; of others it is given crops."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lrbench.data.pixels import Indices, Pixels, Shard

# Of a device's free memory, the share that images may take: the rest is the network's.
_SHARE = 0.4
# Patches are gathered in sizes that are multiples of this.
_STEP = 32


class Layout(NamedTuple):
    """Where a batch's crops lie in the content and what becomes of them: made by CPU threads, ahead of their use.

    Attributes:
        crops: Rows: the crop's first pixel, the width of the image that it lies in, its height, its width, 0, and whether it is
            mirrored. Of a batch without crops: the samples and, where any is mirrored, which. int64 of shape `(6, B)`, `(2, B)`
            or `(1, B)`.
        reach: Rows and columns that hold every crop; zeros of a batch without crops. int64 of shape `(2,)`, on the CPU.
    """

    crops: torch.Tensor
    reach: torch.Tensor


class Resident:
    """A data set's whole resized images on a device.

    Args:
        shards: The images, plain.
        size: Side of the square input in pixels.
        device: Where they lie.
    """

    def __init__(self, shards: Sequence[Shard], size: int, device: torch.device) -> None:
        total = sum(len(shard.content) for shard in shards) // 3
        index, start = [], 0
        for shard in shards:
            index.append(np.column_stack([start + shard.index[:, 0] // 3, shard.index[:, 2:]]))
            start += len(shard.content) // 3
        # Offset, height and width of each image.
        self._index = np.concatenate(index)
        self._most = self._index[:, 1:].max(axis=0)
        # Four bytes a pixel, the last unused, so that a pixel is gathered as one number; and as many at the end as are gathered
        # beyond the last crop.
        content = torch.zeros((total + int(self._most.prod()), 4), dtype=torch.uint8, device=device)
        start = 0
        for shard in shards:
            end = start + len(shard.content) // 3
            content[start:end, :3] = torch.from_numpy(np.array(shard.content).reshape(-1, 3)).to(device)
            start = end
        self._content = content.view(torch.int32).flatten()
        # Where every image is the square that is wanted, a batch without crops is a selection.
        area, count = size * size, len(self._index)
        plain = (self._index[:, 1:] == size).all() and np.array_equal(self._index[:, 0], area * np.arange(count))
        self._squares = self._content[: count * area].view(count, area) if plain else None
        self._size = size
        self._device = device

    def layout(self, samples: Indices, boxes: Indices, flips: npt.NDArray[np.bool_]) -> Layout:
        """Where a batch's crops lie.

        Args:
            samples: Which images. Shape `(B,)`.
            boxes: Top, left, height and width of each crop; -1 for the centre square. Shape `(B, 4)`.
            flips: Which are mirrored. Shape `(B,)`.
        """
        if self._squares is not None and boxes.max() < 0:
            return _laid_out([samples, flips] if flips.any() else [samples], (0, 0))
        offset, height, width = self._index[samples].T
        # Halves are rounded to even, as Python's and so torchvision's `CenterCrop` do.
        centre = (
            *(np.rint((side - self._size) / 2.0).astype(np.int64) for side in (height, width)),
            self._size,
            self._size,
        )
        top, left, tall, wide = (
            np.where(boxes[:, axis] < 0, middle, boxes[:, axis]) for axis, middle in enumerate(centre)
        )
        reach = [min(int(most), _stepped(int(side.max()))) for most, side in zip(self._most, (tall, wide), strict=True)]
        return _laid_out([offset + top * width + left, width, tall, wide, np.zeros_like(width), flips], reach)

    def batch(self, crops: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        """Cut, resize and flip a batch: torchvision's antialiased bilinear `resized_crop`, all images at once.

        Args:
            crops, reach: The batch's `layout`.

        Returns:
            uint8 of shape `(B, S, S, 3)`, on the device.
        """
        crops = crops.to(self._device, non_blocking=True)
        if len(crops) == 6:
            return _resized(self._content, crops, self._size, *reach.tolist())
        assert self._squares is not None
        images = self._squares[crops[0]].view(torch.uint8).view(-1, self._size, self._size, 4)[..., :3]
        return torch.where(crops[1].bool()[:, None, None, None], images.flip(2), images) if len(crops) == 2 else images


def layout_of(extents: Indices, flips: npt.NDArray[np.bool_]) -> Layout:
    """The layout of crops that lie one after another.

    Args:
        extents: Height and width of each. Shape `(B, 2)`.
        flips: Which are mirrored. Shape `(B,)`.
    """
    height, width = extents.T
    starts = np.cumsum(height * width) - height * width
    reach = [_stepped(int(side.max())) for side in (height, width)]
    return _laid_out([starts, width, height, width, np.zeros_like(width), flips], reach)


def cut(
    content: torch.Tensor, crops: torch.Tensor, reach: torch.Tensor, size: int, device: torch.device
) -> torch.Tensor:
    """Resize and flip crops on a device: torchvision's antialiased bilinear `resize`, all at once.

    Args:
        content: The crops' pixels, one crop after another, row by row: uint8 of shape `(P, 3)`.
        crops, reach: Their `layout_of`.
        size: Side of the square that each becomes.
        device: Where.

    Returns:
        uint8 of shape `(B, size, size, 3)`, on the device.
    """
    tall, wide = reach.tolist()
    # Beyond the last crop too, pixels are gathered.
    packed = torch.zeros((len(content) + tall * wide, 4), dtype=torch.uint8, device=device)
    packed[: len(content), :3] = content.to(device, non_blocking=True)
    return _resized(packed.view(torch.int32).flatten(), crops.to(device, non_blocking=True), size, tall, wide)


def _laid_out(rows: Sequence[npt.NDArray[Any]], reach: Sequence[int]) -> Layout:
    return Layout(torch.from_numpy(np.stack(rows).astype(np.int64)), torch.tensor(list(reach)))


def _stepped(side: int) -> int:
    """A side in steps, so that the device's memory is used again from batch to batch."""
    return -(-side // _STEP) * _STEP


def _resized(content: torch.Tensor, crops: torch.Tensor, size: int, tall: int, wide: int) -> torch.Tensor:
    """Crops of at most `tall` rows and `wide` columns as squares. Shape `(B, size, size, 3)`, uint8.

    Args:
        content: Four bytes a pixel. Shape `(P,)`.
        crops: As in `Layout`. Shape `(6, B)`.
        size, tall, wide: Sides.
    """
    count = crops.shape[1]
    rows, columns = (torch.arange(most, device=content.device) for most in (tall, wide))
    # Beyond a crop's edge lie other pixels, which every weight below leaves out.
    first = torch.addcmul(crops[0, :, None], crops[1, :, None], rows)
    found = content[first[:, :, None] + columns]
    images = found.view(torch.uint8).view(count, tall, wide, 4)[..., :3].float()
    # Both axes' maps at once: all heights, then all widths, and columns alone are mirrored.
    maps = _weights(crops[2:4].reshape(-1), crops[4:6].reshape(-1), max(tall, wide), size)
    vertical, horizontal = maps[:count, :, :tall], maps[count:, :, :wide]
    squeezed = (vertical @ images.flatten(2)).view(count, size, wide, 3)
    squares: torch.Tensor = horizontal @ squeezed.permute(0, 2, 1, 3).flatten(2)
    squares = squares.view(count, size, size, 3).transpose(1, 2)
    # Rows before columns in memory too, as networks are given them.
    return squares.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _weights(extent: torch.Tensor, mirrored: torch.Tensor, inputs: int, outputs: int) -> torch.Tensor:
    """The linear map of one axis of an antialiased bilinear resize of the first `extent` of `inputs` pixels.

    A triangle as wide as an output pixel, or two input pixels where that is wider, around each output pixel's centre; cut off
    at the crop's edges and scaled to sum to one (Pillow's and torchvision's procedure). Where `mirrored` is 1, output pixels
    are counted from the end. Shape `(B, outputs, inputs)`.
    """
    scale = (extent / outputs)[:, None, None]
    output = torch.arange(outputs, device=extent.device)
    place = torch.where(mirrored[:, None] > 0, outputs - 1 - output, output)[:, :, None]
    pixel = torch.arange(inputs, device=extent.device)
    distance = (pixel - ((place + 0.5) * scale - 0.5)).abs_()
    weights = distance.div_(scale.clamp(min=1.0)).neg_().add_(1.0).clamp_(min=0.0)
    weights.masked_fill_(pixel >= extent[:, None, None], 0.0)
    return weights.div_(weights.sum(2, keepdim=True))


# The data set that lies on a device, at most one.
_KEPT: list[tuple[Pixels, int, torch.device, Resident]] = []


def resident(pixels: Pixels, size: int, device: torch.device) -> Resident | None:
    """A data set on a device, kept for the next training on it; None where it does not fit or is not kept as plain pixels."""
    if device.type == "cpu":
        return None
    shards = pixels.plain
    for kept, side, place, there in _KEPT:
        if kept is pixels and (side, place) == (size, device):
            return there
    # What was there, and what torch keeps of memory that nothing is in, makes room first, also for images that stay here.
    _KEPT.clear()
    if not shards:
        return None
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        if sum(len(shard.content) for shard in shards) * 4 / 3 > _SHARE * free:
            return None
    _KEPT.append((pixels, size, device, Resident(shards, size, device)))
    return _KEPT[0][3]
