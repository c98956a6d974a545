"""Batches cut on the device that trains: a small data set lies there whole, as plain pixels; of others it is given crops."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lrbench.data.pixels import Pixels, Shard

# Of a device's free memory, the share that images may take: the rest is the network's.
_SHARE = 0.4
# Patches are gathered in sizes that are multiples of this.
_STEP = 32


class Resident:
    """A data set's whole resized images on a device.

    Args:
        shards: The images, plain.
        size: Side of the square input in pixels.
        device: Where they lie.
    """

    def __init__(self, shards: Sequence[Shard], size: int, device: torch.device) -> None:
        total = sum(len(shard.content) for shard in shards) // 3
        # Four bytes a pixel, the last unused, so that a pixel is gathered as one number.
        content = torch.zeros((total, 4), dtype=torch.uint8, device=device)
        index, start = [], 0
        for shard in shards:
            end = start + len(shard.content) // 3
            content[start:end, :3] = torch.from_numpy(np.array(shard.content).reshape(-1, 3)).to(device)
            index.append(np.column_stack([start + shard.index[:, 0] // 3, shard.index[:, 2:]]))
            start = end
        self._content = content.view(torch.int32).flatten()
        every = np.concatenate(index)
        self._index = torch.from_numpy(every).to(device)
        self._most = (int(every[:, 1].max()), int(every[:, 2].max()))
        # Where every image is the square that is wanted, a batch without crops is a selection.
        area = size * size
        plain = (every[:, 1:] == size).all() and np.array_equal(every[:, 0], area * np.arange(len(every)))
        self._squares = self._content.view(len(every), area) if plain else None
        self._size = size
        self._device = device

    def batch(self, samples: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        """Cut, resize and flip a batch: torchvision's antialiased bilinear `resized_crop`, all images at once.

        Args:
            samples: Which images. Shape `(B,)`.
            boxes: Top, left, height and width of each crop; -1 for the centre square. Shape `(B, 4)`, on the CPU.
            flips: Which are mirrored. Shape `(B,)`.

        Returns:
            uint8 of shape `(B, S, S, 3)`, on the device.
        """
        if self._squares is not None and int(boxes.max()) < 0:
            return self._selected(self._squares, samples, flips)
        # Known before anything is on the device: how large the largest crop is.
        tall, wide = (
            min(most, _stepped(max(self._size, int(boxes[:, axis].max()))))
            for most, axis in zip(self._most, (2, 3), strict=True)
        )
        samples, boxes, flips = (each.to(self._device, non_blocking=True) for each in (samples, boxes, flips))
        offset, height, width = self._index[samples].unbind(1)
        size = torch.full_like(height, self._size)
        # Halves are rounded to even, as Python's and so torchvision's `CenterCrop` do.
        centre = torch.stack(
            [*(((side - self._size) / 2.0).round().long() for side in (height, width)), size, size], dim=1
        )
        top, left, crop_height, crop_width = torch.where(boxes < 0, centre, boxes).unbind(1)
        crops = _Crops(self._content, offset + top * width + left, width, crop_height, crop_width)
        return _resized(crops, flips, self._size, tall, wide)

    def _selected(self, squares: torch.Tensor, samples: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        chosen = squares[samples.to(self._device, non_blocking=True)].view(torch.uint8)
        images = chosen.view(len(samples), self._size, self._size, 4)[..., :3]
        mirrored = flips.to(self._device, non_blocking=True)[:, None, None, None]
        return torch.where(mirrored, images.flip(2), images)


class _Crops(NamedTuple):
    """Crops in images that lie one after another on a device.

    Attributes:
        content: Four bytes a pixel. Shape `(P,)`.
        start: Where each crop's first pixel lies. Shape `(B,)`.
        width: Width of the image that it is cut from. Shape `(B,)`.
        crop_height, crop_width: Its own. Each of shape `(B,)`.
    """

    content: torch.Tensor
    start: torch.Tensor
    width: torch.Tensor
    crop_height: torch.Tensor
    crop_width: torch.Tensor


def cut(
    content: torch.Tensor, extents: torch.Tensor, flips: torch.Tensor, size: int, device: torch.device
) -> torch.Tensor:
    """Resize and flip crops on a device: torchvision's antialiased bilinear `resize`, all at once.

    Args:
        content: The crops' pixels, one crop after another, row by row: uint8 of shape `(P, 3)`.
        extents: Height and width of each. Shape `(B, 2)`, on the CPU.
        flips: Which are mirrored. Shape `(B,)`.
        size: Side of the square that each becomes.
        device: Where.

    Returns:
        uint8 of shape `(B, size, size, 3)`, on the device.
    """
    tall, wide = (_stepped(max(size, int(extents[:, axis].max()))) for axis in (0, 1))
    packed = torch.zeros((len(content), 4), dtype=torch.uint8, device=device)
    packed[:, :3] = content.to(device, non_blocking=True)
    height, width = extents.to(device, non_blocking=True).unbind(1)
    ends = torch.cumsum(height * width, dim=0)
    crops = _Crops(packed.view(torch.int32).flatten(), ends - height * width, width, height, width)
    return _resized(crops, flips.to(device, non_blocking=True), size, tall, wide)


def _stepped(side: int) -> int:
    """A side in steps, so that the device's memory is used again from batch to batch."""
    return -(-side // _STEP) * _STEP


def _resized(crops: _Crops, flips: torch.Tensor, size: int, tall: int, wide: int) -> torch.Tensor:
    """Crops of at most `tall` rows and `wide` columns as squares. Shape `(B, size, size, 3)`, uint8."""
    rows, columns = (torch.arange(most, device=crops.content.device) for most in (tall, wide))
    # Beyond a crop's edge lie other pixels, which every weight below leaves out.
    place = crops.start[:, None, None] + rows[None, :, None] * crops.width[:, None, None] + columns[None, None, :]
    found = crops.content[place.clamp(max=len(crops.content) - 1)]
    images = found.view(torch.uint8).view(*place.shape, 4)[..., :3].float()
    vertical = _weights(crops.crop_height, tall, size)
    horizontal = _weights(crops.crop_width, wide, size)
    horizontal = torch.where(flips[:, None, None], horizontal.flip(1), horizontal)
    count = len(flips)
    squeezed = (vertical @ images.flatten(2)).view(count, size, wide, 3)
    squares: torch.Tensor = horizontal @ squeezed.permute(0, 2, 1, 3).flatten(2)
    squares = squares.view(count, size, size, 3).transpose(1, 2)
    # Rows before columns in memory too, as networks are given them.
    return squares.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _weights(extent: torch.Tensor, inputs: int, outputs: int) -> torch.Tensor:
    """The linear map of one axis of an antialiased bilinear resize of the first `extent` of `inputs` pixels.

    A triangle as wide as an output pixel, or two input pixels where that is wider, around each output pixel's centre; cut off
    at the crop's edges and scaled to sum to one (Pillow's and torchvision's procedure). Shape `(B, outputs, inputs)`.
    """
    scale = (extent / outputs).float()[:, None, None]
    centre = (torch.arange(outputs, device=extent.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(inputs, device=extent.device)[None, None, :]
    weights = (1 - (pixel + 0.5 - centre).abs() / scale.clamp(min=1.0)).clamp(min=0)
    weights = weights * (pixel < extent[:, None, None])
    return weights / weights.sum(2, keepdim=True)


# The data set that lies on a device, at most one.
_KEPT: list[tuple[Pixels, int, torch.device, Resident]] = []


def resident(pixels: Pixels, size: int, device: torch.device) -> Resident | None:
    """A data set on a device, kept for the next training on it; None where it does not fit or is not kept as plain pixels."""
    shards = pixels.plain
    if device.type == "cpu" or not shards:
        return None
    for kept, side, place, there in _KEPT:
        if kept is pixels and (side, place) == (size, device):
            return there
    # What was there, and what torch keeps of memory that nothing is in, makes room first.
    _KEPT.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        if sum(len(shard.content) for shard in shards) * 4 / 3 > _SHARE * free:
            return None
    _KEPT.append((pixels, size, device, Resident(shards, size, device)))
    return _KEPT[0][3]
