"""Comparison of the two forms in which prepared images are stored, on this machine's disk and processor."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lrbench.core.files import writing
from lrbench.data.jpeg import decode_known_jpeg
from lrbench.data.pixels import Pixels
from lrbench.data.resized_images import encode_jpeg

_SAMPLE = 256


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How fast a split feeds training from each form, and how much disk it takes.

    Attributes:
        images: Images of the split.
        plain_bytes, jpeg_bytes: Disk space of the split.
        plain_rate: Images per second that the disk gives as plain pixels when they are not in memory.
        jpeg_rate: Images per second that the cores decode.
        fits: Whether the plain pixels of the split fit into half of the memory, which then gives them after one epoch.
    """

    images: int
    plain_bytes: int
    jpeg_bytes: int
    plain_rate: float
    jpeg_rate: float
    fits: bool

    @property
    def faster(self) -> str:
        """The form that feeds training faster: `pixels` or `jpeg`."""
        return "pixels" if self.fits or self.plain_rate >= self.jpeg_rate else "jpeg"

    def words(self, form: str) -> str:
        """Return the comparison as one sentence, and that the task's form stays.

        Args:
            form: The task's `prepare.format`.
        """
        reason = ", since they stay in memory after the first epoch" if self.fits else ""
        other = "pixels" if form == "jpeg" else "jpeg"
        advice = (
            f"it is {form}"
            if self.faster == form
            else f'it stays {form}: set prepare.format = "{other}" in a task of your own (like = "TASK") to change it, with '
            "results that are never compared with those of this one"
        )
        return (
            f"{self.faster} would feed training faster here{reason}: this disk gives {self.plain_rate:,.0f} images/s as plain "
            f"pixels ({self.plain_bytes / 1e9:,.1f} GB), and the cores decode {self.jpeg_rate:,.0f} images/s from JPEG "
            f"({self.jpeg_bytes / 1e9:,.1f} GB). The task's prepare.format decides; {advice}."
        )


def measure_storage(pixels: Pixels, folder: Path, *, quality: int, cores: int, memory: int) -> Storage:
    """Measure both forms on a sample of prepared images. A temporary file in the folder is deleted again.

    Args:
        pixels: Prepared images of a split, in either form.
        folder: Folder on the disk of the pixel cache.
        quality: Quality of JPEG.
        cores: Number of cores that decode.
        memory: Bytes of memory of this machine.

    Raises:
        FailureError: The disk is full.
    """
    chosen = np.random.default_rng(0).permutation(len(pixels))[:_SAMPLE]
    images = [np.ascontiguousarray(pixels.resized(int(index))) for index in chosen]
    encoded = [torch.frombuffer(bytearray(encode_jpeg(image, quality)), dtype=torch.uint8) for image in images]
    started = time.perf_counter()
    for content, image in zip(encoded, images, strict=True):
        decode_known_jpeg(content, *image.shape[:2])
    decoding = (time.perf_counter() - started) / len(images)
    scale = len(pixels) / len(images)
    plain_bytes = int(scale * sum(image.nbytes for image in images))
    return Storage(
        images=len(pixels),
        plain_bytes=plain_bytes,
        jpeg_bytes=int(scale * sum(len(content) for content in encoded)),
        plain_rate=1 / _cold_read(images, folder),
        jpeg_rate=cores / decoding,
        fits=plain_bytes < memory / 2,
    )


def _cold_read(images: list[np.ndarray], folder: Path) -> float:
    """Return the time of reading an image in random order from a file that is not in memory."""
    offsets = np.cumsum([0, *(image.nbytes for image in images)])
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for image in images:
                file.write(image.data)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            for number in np.random.default_rng(1).permutation(len(images)):
                os.pread(file.fileno(), images[number].nbytes, int(offsets[number]))
            return max((time.perf_counter() - started) / len(images), 1e-9)
