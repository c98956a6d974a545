"""Resized images of a split: in memory, mapped from the pixel cache, or decoded at each use."""

import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torchvision.transforms.v2 import InterpolationMode, functional

from lrbench.data.examples import EvaluationTransform
from lrbench.data.jpeg import Bytes, decode_known_jpeg

_FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
# Images with a larger ratio of sides are cut to their middle, where from a ratio of 17 all training crops are anyway.
_MAX_RATIO = 32
Indices = npt.NDArray[np.int64]


class Pixels(Protocol):
    """Resized images of a split."""

    def __len__(self) -> int: ...

    def __hash__(self) -> int: ...

    def evaluation(self, indices: Indices) -> Bytes:
        """Return centre crops. Shape `(B, S, S, 3)`."""
        ...

    def resized(self, index: int) -> Bytes:
        """Return one resized image before cropping. Shape `(h, w, 3)`."""
        ...

    @property
    def plain(self) -> "Sequence[Shard] | None":
        """All images as plain pixels, or None if they are stored as JPEG or decoded at each use."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive images in one buffer.

    Attributes:
        content: Bytes of all images. Shape `(total,)`.
        index: Offset, length, height and width of each image. Shape `(n, 4)`.
    """

    content: Bytes
    index: Indices


class StoredPixels:
    """Images in shards, in memory or mapped from the cache.

    Args:
        shards: Shards in the order of the images.
        size: Side of an evaluation crop.
        encoded: Whether images are stored as JPEG instead of plain pixels.
    """

    def __init__(self, shards: Sequence[Shard], size: int, *, encoded: bool) -> None:
        self._shards = tuple(shards)
        self._starts = np.cumsum([0, *(len(shard.index) for shard in shards)])
        # `bisect` in a list takes a tenth of the time of `searchsorted` for one image.
        self._start_list = self._starts.tolist()
        self._size = size
        self._encoded = encoded
        with warnings.catch_warnings():
            # Mapped shards are read-only, and only read here.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self._jpeg = [torch.from_numpy(shard.content) for shard in shards] if encoded else []
        all_squares = not encoded and len(self) > 0 and all((shard.index[:, 2:] == size).all() for shard in shards)
        # If every image is a square of the right size, a shard is one array.
        self._squares = [shard.content.reshape(-1, size, size, 3) for shard in shards] if all_squares else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def plain(self) -> Sequence[Shard] | None:
        """All images as plain pixels, or None if they are JPEG."""
        return None if self._encoded else self._shards

    def evaluation(self, indices: Indices) -> Bytes:
        """Return centre crops, bit-identical to a resize and centre crop of the original (or of the stored JPEG).

        Returns:
            Shape `(B, S, S, 3)`.
        """
        crops = np.empty((len(indices), self._size, self._size, 3), dtype=np.uint8)
        if self._squares is not None:
            numbers = np.searchsorted(self._starts, indices, side="right") - 1
            for number in np.unique(numbers):
                in_shard = numbers == number
                crops[in_shard] = self._squares[number][indices[in_shard] - self._starts[number]]
            return crops
        for position, index in enumerate(indices):
            crops[position] = centre_crop(self.resized(int(index)), self._size)
        return crops

    def resized(self, index: int) -> Bytes:
        """Return one resized image before cropping. Shape `(h, w, 3)`."""
        number = bisect_right(self._start_list, index) - 1
        shard = self._shards[number]
        offset, length, height, width = shard.index[index - self._start_list[number]].tolist()
        if self._encoded:
            return decode_known_jpeg(self._jpeg[number][offset : offset + length], height, width)
        return shard.content[offset : offset + length].reshape(height, width, 3)


class DecodedOnUse:
    """Images that are decoded and resized at each use.

    Args:
        decode: Returns the resized image of an index, shape `(h, w, 3)`.
        count: Number of images.
        size: Side of an evaluation crop.
    """

    plain: Sequence[Shard] | None = None

    def __init__(self, decode: Callable[[int], Bytes], count: int, size: int) -> None:
        self._decode, self._count, self._size = decode, count, size

    def __len__(self) -> int:
        return self._count

    def evaluation(self, indices: Indices) -> Bytes:
        """Return centre crops. Shape `(B, S, S, 3)`."""
        return np.stack([centre_crop(self._decode(int(index)), self._size) for index in indices])

    def resized(self, index: int) -> Bytes:
        """Return one resized image before cropping. Shape `(h, w, 3)`."""
        return self._decode(index)


def resize(image: Bytes, transform: EvaluationTransform) -> Bytes:
    """Resize an image with antialiasing so that its short side has `transform.resize` pixels, as torchvision's `Resize`.

    The long side is rounded down to whole pixels; with `transform.squash`, both sides have that length. Without it, an image
    more than 32 times as long as wide is first cut to its middle 32 squares, because memory would be unbounded.

    Results are bit-identical to torchvision's `Resize` on uint8 tensors. All processors with AVX2 give the same bits; on others
    a value may differ by 1.

    Args:
        image: Shape `(H, W, 3)`.
        transform: Length of the short side, and the filter.

    Returns:
        Shape `(h, w, 3)`, contiguous.
    """
    sides = [transform.resize] * (2 if transform.squash else 1)
    if not transform.squash:
        height, width = image.shape[:2]
        longest = _MAX_RATIO * min(height, width)
        top, left = (max(0, side - longest) // 2 for side in (height, width))
        image = np.ascontiguousarray(image[top : top + longest, left : left + longest])
    if (min(image.shape[:2]) == transform.resize and len(sides) == 1) or list(image.shape[:2]) == sides:
        return image
    mode = _FILTERS[transform.interpolation]
    channels_first = torch.from_numpy(image).permute(2, 0, 1)
    resized = functional.resize(channels_first, sides, interpolation=mode, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def resize_arithmetic() -> dict[str, str]:
    """Return the library versions and kind of processor that determine the bits of a resized image."""
    kind = "scalar" if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else "vector"
    versions = {library.__name__: library.__version__.partition("+")[0] for library in (torch, torchvision)}
    return {**versions, "arithmetic": kind}


def centre_crop(pixels: Bytes, size: int) -> Bytes:
    """Return the centre square of an image, as torchvision's `CenterCrop`. Shape `(size, size, 3)`."""
    height, width, _ = pixels.shape
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return pixels[top : top + size, left : left + size]
