"""Cropping and augmenting training batches on the training device, with torchvision's antialiased bilinear resize.

A data set that fits is stored on the device as plain pixels (`DeviceImages`). For a larger one, the CPU cuts the crops out and
the device resizes them (`resize_crops`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lrbench.data.pixels import Indices, Pixels, Shard

# Share of the free device memory that images may take; the network needs the rest.
_MEMORY_SHARE = 0.4
# Bounds of crops are rounded up to a multiple, so that the allocator can reuse memory between batches.
_SIZE_STEP = 32


class CropLayout(NamedTuple):
    """Positions of a batch's crops in the pixels, computed ahead by CPU threads.

    Attributes:
        crops: int64. For crops that are resized, of shape `(6, B)` with the rows: index of the first pixel, width of the image
            around the crop, height and width of the crop, 0, and whether it is mirrored. For whole images, the samples, and
            whether each is mirrored if any is. Shape `(2, B)` or `(1, B)`.
        largest: Upper bounds of the crops' heights and widths; zeros for whole images. int64 of shape `(2,)`, on the CPU.
    """

    crops: torch.Tensor
    largest: torch.Tensor


class DeviceImages:
    """The resized images of a data set, stored on a device.

    Args:
        shards: The images, as plain pixels.
        size: Side of the square input in pixels.
        device: The device.
    """

    def __init__(self, shards: Sequence[Shard], size: int, device: torch.device) -> None:
        num_pixels = sum(len(shard.content) for shard in shards) // 3
        index, start = [], 0
        for shard in shards:
            index.append(np.column_stack([start + shard.index[:, 0] // 3, shard.index[:, 2:]]))
            start += len(shard.content) // 3
        # First pixel, height and width of each image.
        self._index = np.concatenate(index)
        self._max_size = self._index[:, 1:].max(axis=0)
        # A fourth, unused byte lets a pixel be gathered as one int32. The padding at the end is gathered beyond the last crop.
        content = torch.zeros((num_pixels + int(self._max_size.prod()), 4), dtype=torch.uint8, device=device)
        start = 0
        for shard in shards:
            end = start + len(shard.content) // 3
            content[start:end, :3] = torch.from_numpy(np.array(shard.content).reshape(-1, 3)).to(device)
            start = end
        self._content = content.view(torch.int32).flatten()
        # If every image is a square of the input size, whole images are selected without a resize.
        area, count = size * size, len(self._index)
        all_squares = (self._index[:, 1:] == size).all() and np.array_equal(self._index[:, 0], area * np.arange(count))
        self._squares = self._content[: count * area].view(count, area) if all_squares else None
        self._size = size
        self._device = device

    def layout(self, samples: Indices, boxes: Indices, flips: npt.NDArray[np.bool_]) -> CropLayout:
        """Return the layout of a batch.

        Args:
            samples: Indices of the images. Shape `(B,)`.
            boxes: Top, left, height and width of each crop; -1 for the centre square. Shape `(B, 4)`.
            flips: Whether each crop is mirrored. Shape `(B,)`.
        """
        if self._squares is not None and boxes.max() < 0:
            return _make_layout([samples, flips] if flips.any() else [samples], (0, 0))
        offset, height, width = self._index[samples].T
        # Halves are rounded to even, as in torchvision's `CenterCrop`.
        centre_box = (
            *(np.rint((side - self._size) / 2.0).astype(np.int64) for side in (height, width)),
            self._size,
            self._size,
        )
        top, left, crop_height, crop_width = (
            np.where(boxes[:, column] < 0, centre, boxes[:, column]) for column, centre in enumerate(centre_box)
        )
        largest = [
            min(int(limit), _round_up(int(sides.max())))
            for limit, sides in zip(self._max_size, (crop_height, crop_width), strict=True)
        ]
        first_pixel = offset + top * width + left
        return _make_layout([first_pixel, width, crop_height, crop_width, np.zeros_like(width), flips], largest)

    def batch(self, crops: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """Crop, resize and flip a batch.

        Args:
            crops, largest: The batch's layout.

        Returns:
            uint8 of shape `(B, S, S, 3)`, on the device.
        """
        crops = crops.to(self._device, non_blocking=True)
        if len(crops) == 6:
            return _resize(self._content, crops, self._size, *largest.tolist())
        assert self._squares is not None
        images = self._squares[crops[0]].view(torch.uint8).view(-1, self._size, self._size, 4)[..., :3]
        return torch.where(crops[1].bool()[:, None, None, None], images.flip(2), images) if len(crops) == 2 else images


def crop_layout(sizes: Indices, flips: npt.NDArray[np.bool_]) -> CropLayout:
    """Return the layout of crops that are stored one after another.

    Args:
        sizes: Height and width of each crop. Shape `(B, 2)`.
        flips: Whether each crop is mirrored. Shape `(B,)`.
    """
    height, width = sizes.T
    starts = np.cumsum(height * width) - height * width
    largest = [_round_up(int(side.max())) for side in (height, width)]
    return _make_layout([starts, width, height, width, np.zeros_like(width), flips], largest)


def resize_crops(
    content: torch.Tensor, crops: torch.Tensor, largest: torch.Tensor, size: int, device: torch.device
) -> torch.Tensor:
    """Resize and flip crops on a device.

    Args:
        content: Pixels of the crops, one crop after another, row by row: uint8 of shape `(P, 3)`.
        crops, largest: Their `crop_layout`.
        size: Side of the output squares.
        device: The device.

    Returns:
        uint8 of shape `(B, size, size, 3)`, on the device.
    """
    max_height, max_width = largest.tolist()
    # The padding at the end is gathered beyond the last crop.
    packed = torch.zeros((len(content) + max_height * max_width, 4), dtype=torch.uint8, device=device)
    packed[: len(content), :3] = content.to(device, non_blocking=True)
    pixels = packed.view(torch.int32).flatten()
    return _resize(pixels, crops.to(device, non_blocking=True), size, max_height, max_width)


def _make_layout(rows: Sequence[npt.NDArray[Any]], largest: Sequence[int]) -> CropLayout:
    return CropLayout(torch.from_numpy(np.stack(rows).astype(np.int64)), torch.tensor(list(largest)))


def _round_up(side: int) -> int:
    return -(-side // _SIZE_STEP) * _SIZE_STEP


def _resize(content: torch.Tensor, crops: torch.Tensor, size: int, max_height: int, max_width: int) -> torch.Tensor:
    """Resize crops of at most `max_height` (H) by `max_width` (W) pixels to squares.

    Args:
        content: Pixels as int32. Shape `(P,)`.
        crops: As in `CropLayout`. Shape `(6, B)`.
        size: Side of the squares (S).
        max_height, max_width: Bounds of the crops.

    Returns:
        uint8 of shape `(B, S, S, 3)`.
    """
    count = crops.shape[1]
    rows, columns = (torch.arange(limit, device=content.device) for limit in (max_height, max_width))
    # (B, H, W) pixels. Those beyond a crop's edges belong to other crops and get weight 0 below.
    row_starts = torch.addcmul(crops[0, :, None], crops[1, :, None], rows)
    gathered = content[row_starts[:, :, None] + columns]
    images = gathered.view(torch.uint8).view(count, max_height, max_width, 4)[..., :3].float()
    # (2B, S, max(H, W)) weights of both axes at once: all heights, then all widths. Only columns are mirrored.
    weights = _resize_weights(crops[2:4].reshape(-1), crops[4:6].reshape(-1), max(max_height, max_width), size)
    vertical, horizontal = weights[:count, :, :max_height], weights[count:, :, :max_width]
    resized_rows = (vertical @ images.flatten(2)).view(count, size, max_width, 3)
    squares: torch.Tensor = horizontal @ resized_rows.permute(0, 2, 1, 3).flatten(2)
    squares = squares.view(count, size, size, 3).transpose(1, 2)
    return squares.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _resize_weights(extent: torch.Tensor, mirrored: torch.Tensor, inputs: int, outputs: int) -> torch.Tensor:
    """Return the weights of an antialiased bilinear resize along one axis, as in Pillow and torchvision.

    The filter of an output pixel is a triangle around its centre, cut off at the crop's edges and scaled to sum to one. Its
    half-width is one output pixel, or one input pixel if that is larger.

    Args:
        extent: Number of input pixels of each crop. Shape `(B,)`.
        mirrored: 1 to count output pixels from the end. Shape `(B,)`.
        inputs: Columns of the result; those from `extent` on are zero.
        outputs: Number of output pixels.

    Returns:
        Shape `(B, outputs, inputs)`.
    """
    scale = (extent / outputs)[:, None, None]
    output = torch.arange(outputs, device=extent.device)
    position = torch.where(mirrored[:, None] > 0, outputs - 1 - output, output)[:, :, None]
    pixel = torch.arange(inputs, device=extent.device)
    distance = (pixel - ((position + 0.5) * scale - 0.5)).abs_()
    weights = distance.div_(scale.clamp(min=1.0)).neg_().add_(1.0).clamp_(min=0.0)
    weights.masked_fill_(pixel >= extent[:, None, None], 0.0)
    return weights.div_(weights.sum(2, keepdim=True))


# At most one data set is stored on a device.
_STORED: list[tuple[Pixels, int, torch.device, DeviceImages]] = []


def images_on_device(pixels: Pixels, size: int, device: torch.device) -> DeviceImages | None:
    """Return a data set stored on a device, which is reused by the next training on it.

    Returns:
        None for a CPU, for images that do not fit, and for images that are not stored as plain pixels.
    """
    if device.type == "cpu":
        return None
    shards = pixels.plain
    for stored_pixels, stored_size, stored_device, images in _STORED:
        if stored_pixels is pixels and (stored_size, stored_device) == (size, device):
            return images
    # Free the other data set and torch's cached memory first, even if this data set stays on the CPU.
    _STORED.clear()
    if not shards:
        return None
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if sum(len(shard.content) for shard in shards) * 4 / 3 > _MEMORY_SHARE * free_bytes:
            return None
    _STORED.append((pixels, size, device, DeviceImages(shards, size, device)))
    return _STORED[0][3]
