"""A split's images, resized and ready: in memory, mapped from the prepared cache, or decoded anew at each use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torchvision.transforms.v2 import InterpolationMode, functional

from lrbench.data.examples import EvaluationTransform
from lrbench.data.jpeg import Bytes, decode_own_jpeg

_FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
# The middle of a longer image is resized. From a ratio of 17 on, every crop is in the middle, in training too.
_LONGEST = 32
Indices = npt.NDArray[np.int64]


class Pixels(Protocol):
    """A split's images, resized and ready."""

    def __len__(self) -> int: ...

    def __hash__(self) -> int: ...

    def evaluation(self, indices: Indices) -> Bytes:
        """Centre crops. Shape `(B, S, S, 3)`."""
        ...

    def resized(self, index: int) -> Bytes:
        """One whole image, its short side resized. Shape `(h, w, 3)`."""
        ...

    @property
    def plain(self) -> "Sequence[Shard] | None":
        """All images as plain pixels, or None where they are not kept so (JPEG, or decoded anew)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some images one after the other.

    Attributes:
        content: Their bytes. Shape `(total,)`.
        index: Offset, length, height and width of each. Shape `(n, 4)`.
    """

    content: Bytes
    index: Indices


class StoredPixels:
    """Images in shards, in memory or mapped from the cache.

    Args:
        shards: In the order of the images.
        size: Side of an evaluation crop.
        encoded: Whether images are JPEG and not plain pixels.
    """

    def __init__(self, shards: Sequence[Shard], size: int, *, encoded: bool) -> None:
        self._shards = tuple(shards)
        self._starts = np.cumsum([0, *(len(shard.index) for shard in shards)])
        self._size = size
        self._encoded = encoded
        exact = not encoded and len(self) > 0 and all((shard.index[:, 2:] == size).all() for shard in shards)
        # Where every image is a square of the right size, a shard is one array.
        self._squares = [shard.content.reshape(-1, size, size, 3) for shard in shards] if exact else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def plain(self) -> Sequence[Shard] | None:
        """All images as plain pixels, or None where they are JPEG."""
        return None if self._encoded else self._shards

    def evaluation(self, indices: Indices) -> Bytes:
        """Centre crops, bit-identical to resize and centre crop of the original (of the JPEG where encoded)."""
        crops = np.empty((len(indices), self._size, self._size, 3), dtype=np.uint8)
        if self._squares is not None:
            owners = np.searchsorted(self._starts, indices, side="right") - 1
            for owner in np.unique(owners):
                mine = owners == owner
                crops[mine] = self._squares[owner][indices[mine] - self._starts[owner]]
            return crops
        for position, index in enumerate(indices):
            crops[position] = centre_crop(self.resized(int(index)), self._size)
        return crops

    def resized(self, index: int) -> Bytes:
        """One whole resized image. Shape `(h, w, 3)`."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._shards[number]
        offset, length, height, width = shard.index[index - int(self._starts[number])].tolist()
        content = shard.content[offset : offset + length]
        if self._encoded:
            return decode_own_jpeg(content, height, width)
        return content.reshape(height, width, 3)


class DecodedAnew:
    """Images that are kept nowhere: each use decodes and resizes the original.

    Args:
        make: Makes one whole resized image, shape `(h, w, 3)`.
        count: Number of images.
        size: Side of an evaluation crop.
    """

    plain: Sequence[Shard] | None = None

    def __init__(self, make: Callable[[int], Bytes], count: int, size: int) -> None:
        self._make, self._count, self._size = make, count, size

    def __len__(self) -> int:
        return self._count

    def evaluation(self, indices: Indices) -> Bytes:
        """Centre crops. Shape `(B, S, S, 3)`."""
        return np.stack([centre_crop(self._make(int(index)), self._size) for index in indices])

    def resized(self, index: int) -> Bytes:
        """One whole resized image. Shape `(h, w, 3)`."""
        return self._make(index)


def resize(image: Bytes, transform: EvaluationTransform) -> Bytes:
    """Resize so that the short side has `transform.resize` pixels, antialiased; the long side is cut to whole pixels.

    Where the transform squashes, both sides become so long. Otherwise, of an image more than 32 times as long as wide, only
    the middle 32 squares are resized: the whole would take memory without bound.

    torchvision does it, on whole numbers from 0 to 255; so crops agree with its `Resize` and `CenterCrop` to the bit.
    Processors with AVX2 all give the same bits; on others a value may differ by 1.

    Args:
        image: Shape `(H, W, 3)`.
        transform: How long the short side is to be, and the filter.

    Returns:
        Shape `(h, w, 3)`, contiguous.
    """
    sides = [transform.resize] * (2 if transform.squash else 1)
    if not transform.squash:
        height, width = image.shape[:2]
        longest = _LONGEST * min(height, width)
        top, left = (max(0, side - longest) // 2 for side in (height, width))
        image = np.ascontiguousarray(image[top : top + longest, left : left + longest])
    if (min(image.shape[:2]) == transform.resize and len(sides) == 1) or list(image.shape[:2]) == sides:
        return image
    mode = _FILTERS[transform.interpolation]
    channels_first = torch.from_numpy(image).permute(2, 0, 1)
    resized = functional.resize(channels_first, sides, interpolation=mode, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def resize_arithmetic() -> dict[str, str]:
    """What decides the bits of a resized image beside the image: the libraries and the kind of processor."""
    kind = "scalar" if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else "vector"
    versions = {library.__name__: library.__version__.partition("+")[0] for library in (torch, torchvision)}
    return {**versions, "arithmetic": kind}


def centre_crop(pixels: Bytes, size: int) -> Bytes:
    """The centre square of an image, placed as torchvision's `CenterCrop` places it. Shape `(size, size, 3)`."""
    height, width, _ = pixels.shape
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return pixels[top : top + size, left : left + size]
