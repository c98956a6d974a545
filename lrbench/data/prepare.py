"""The pixel cache: every image decoded and resized once, and shared by every snapshot, seed and protocol.

A cache is a folder: `images.bin` (all images one after the other), `index.npy` (offset, length, height and width of
each) and `about.json`. It appears under its final name whole or not at all.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from lrbench.control import Control
from lrbench.data.examples import EvaluationTransform, Split, SplitName, TaskData
from lrbench.files import sha256_json, sync_folder, write_json, writing
from lrbench.locks import locked

# Rises with every change that can change a pixel.
_VERSION = 1
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_Pixels = npt.NDArray[np.uint8]


class Pixels(Protocol):
    """A split's images, resized and ready."""

    def __len__(self) -> int: ...

    def evaluation(self, indices: npt.NDArray[np.int64]) -> _Pixels:
        """Centre crops. Shape `(B, S, S, 3)`."""
        ...

    def resized(self, index: int) -> _Pixels:
        """One whole image, its short side resized. Shape `(h, w, 3)`."""
        ...


class StoredPixels:
    """Images one after the other in one array, usually mapped from the cache.

    Args:
        content: All images' bytes. Shape `(total,)`.
        index: Offset, length, height and width of each image. Shape `(N, 4)`.
        size: Side of an evaluation crop.
        encoded: Whether images are JPEG and not plain pixels.
    """

    def __init__(self, content: _Pixels, index: npt.NDArray[np.int64], size: int, *, encoded: bool) -> None:
        self._content = content
        self._index = index
        self._size = size
        self._encoded = encoded
        exact = not encoded and len(index) > 0 and bool((index[:, 2:] == size).all())
        self._squares: _Pixels | None = content.reshape(len(index), size, size, 3) if exact else None

    def __len__(self) -> int:
        return len(self._index)

    def evaluation(self, indices: npt.NDArray[np.int64]) -> _Pixels:
        """Centre crops, bit-identical to resize and centre crop of the original (of the JPEG where encoded)."""
        if self._squares is not None:
            return self._squares[indices]
        crops = np.empty((len(indices), self._size, self._size, 3), dtype=np.uint8)
        for position, index in enumerate(indices):
            crops[position] = centre_crop(self.resized(int(index)), self._size)
        return crops

    def resized(self, index: int) -> _Pixels:
        """One whole resized image. Shape `(h, w, 3)`."""
        offset, length, height, width = (int(value) for value in self._index[index])
        content = self._content[offset : offset + length]
        if self._encoded:
            with Image.open(io.BytesIO(content.tobytes())) as image:
                return np.asarray(image)
        return content.reshape(height, width, 3)


def resize_short_side(image: Image.Image, transform: EvaluationTransform) -> Image.Image:
    """Resize so that the short side has `transform.resize` pixels, antialiased; the long side is cut to whole pixels.

    The arithmetic is torchvision's, so that crops agree with its `Resize` and `CenterCrop` to the pixel.
    """
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short == transform.resize:
        return image
    other = int(transform.resize * long / short)
    size = (transform.resize, other) if width <= height else (other, transform.resize)
    return image.resize(size, _FILTERS[transform.interpolation])


def centre_crop(pixels: _Pixels, size: int) -> _Pixels:
    """The centre square of an image, placed as torchvision's `CenterCrop` places it. Shape `(size, size, 3)`."""
    height, width, _ = pixels.shape
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return pixels[top : top + size, left : left + size]


def prepare(
    data: TaskData,
    split: SplitName,
    transform: EvaluationTransform,
    *,
    cache: Path | None,
    workers: int | None = None,
    control: Control | None = None,
) -> Pixels:
    """Decode and resize a split's images once, or find it done.

    Args:
        data: The task.
        split: Which of its splits.
        transform: How images are resized and cropped.
        cache: Folder of the caches; None keeps the pixels in memory.
        workers: Threads that decode; None for one a core.
        control: Told how far the work is.

    Raises:
        InputError: An image does not decode; the message names the file.
        FailureError: The disk is full.
    """
    control = control or Control()
    work = _Work(data, data.splits[split], split, transform, workers or os.cpu_count() or 1, control)
    if cache is None:
        blocks = list(work.blocks())
        content = np.frombuffer(b"".join(block for block, _ in blocks), dtype=np.uint8)
        return work.stored(content, work.index([shape for _, shape in blocks]))
    folder = cache / "pixels" / work.name
    with locked(folder, control):
        pixels = work.read(folder)
        if pixels is None:
            work.write(folder)
            pixels = work.read(folder)
    assert pixels is not None
    return pixels


class _Work:
    """One split under one transform: its cache key, and how it is made and read."""

    def __init__(
        self,
        data: TaskData,
        split: Split,
        name: SplitName,
        transform: EvaluationTransform,
        workers: int,
        control: Control,
    ) -> None:
        self._split, self._transform, self._workers, self._control = split, transform, workers, control
        self._format = data.task.prepare
        # Everything that can change a pixel is part of the key.
        self._about = {
            "version": _VERSION,
            "task": data.fingerprint,
            "split": name,
            "stamp": split.images.stamp(),
            "size": transform.size,
            "resize": transform.resize,
            "interpolation": transform.interpolation,
            "format": self._format.format,
            "quality": self._format.quality if self._format.format == "jpeg" else None,
            "pillow": PIL.__version__,
        }
        self.name = f"{data.task.name}-{name}-{transform.resize}-{sha256_json(self._about)[:16]}"

    def blocks(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Each image's bytes, height and width, in order; a few hundred are decoded ahead."""
        total = len(self._split)
        with ThreadPoolExecutor(max_workers=self._workers) as pool:
            pending = iter(range(total))
            ahead = [pool.submit(self._block, index) for index in islice(pending, 32 * self._workers)]
            try:
                for done in range(total):
                    yield ahead.pop(0).result()
                    ahead.extend(pool.submit(self._block, index) for index in islice(pending, 1))
                    self._control.progress(done + 1, total, "images prepared")
            finally:
                for future in ahead:
                    future.cancel()

    def _block(self, index: int) -> tuple[bytes, tuple[int, int]]:
        image = resize_short_side(self._split.images.read(index), self._transform)
        shape = (image.height, image.width)
        if self._format.format == "jpeg":
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=self._format.quality)
            return buffer.getvalue(), shape
        return image.tobytes(), shape

    def index(self, shapes: list[tuple[int, int]], lengths: list[int] | None = None) -> npt.NDArray[np.int64]:
        sizes = np.array(shapes, dtype=np.int64).reshape(len(shapes), 2)
        long = np.array(lengths, dtype=np.int64) if lengths is not None else sizes.prod(axis=1) * 3
        offsets = np.cumsum(long) - long
        return np.column_stack([offsets, long, sizes])

    def stored(self, content: _Pixels, index: npt.NDArray[np.int64]) -> StoredPixels:
        return StoredPixels(content, index, self._transform.size, encoded=self._format.format == "jpeg")

    def write(self, folder: Path) -> None:
        """Make the cache in a temporary folder and move it into place whole."""
        with writing(folder):
            # What a killed process left half-made; nobody else works here while the lock is held.
            for stale in folder.parent.glob(f".{folder.name}.*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
            try:
                shapes, lengths = [], []
                with (temporary / "images.bin").open("wb") as file:
                    for content, shape in self.blocks():
                        file.write(content)
                        shapes.append(shape)
                        lengths.append(len(content))
                    file.flush()
                    os.fsync(file.fileno())
                with (temporary / "index.npy").open("wb") as file:
                    np.save(file, self.index(shapes, lengths))
                    file.flush()
                    os.fsync(file.fileno())
                write_json(temporary / "about.json", {**self._about, "bytes": sum(lengths)})
                os.replace(temporary, folder)
                sync_folder(folder.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def read(self, folder: Path) -> StoredPixels | None:
        """The cache's pixels, or None where it is not there or not whole."""
        if not folder.is_dir():
            return None
        try:
            about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            index = np.load(folder / "index.npy", allow_pickle=False)
            path = folder / "images.bin"
            whole = path.stat().st_size == about["bytes"] and index.shape == (len(self._split), 4)
            content = np.memmap(path, dtype=np.uint8, mode="r") if whole and about["bytes"] else None
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return None if content is None else self.stored(content, index)
