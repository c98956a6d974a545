"""Decoding and resizing the images of a split with threads, and packing them into shards."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lrbench.config.registry import is_shipped
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.data.decode import UndecodableImage, collect_findings
from lrbench.data.examples import EvaluationTransform, SplitName, TaskData
from lrbench.data.jpeg import Bytes
from lrbench.data.memory_budget import DecodingBudget
from lrbench.data.orientation import needs_orientation, orientation_error
from lrbench.data.pixels import Shard, resize

_SHARD_BYTES = 32 << 20
# Memory for images that are decoded ahead and not yet used, whatever the number of threads.
_AHEAD_BYTES = 256 << 20
# Images per task of a thread: handing over a task costs a tenth of the time of an image.
_IMAGES_PER_TASK = 8

DamagedImage = tuple[str, str]
"""File name of a damaged image, and its damage as a clause."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Properties of a resized image.

    Attributes:
        shape: Height and width.
        damaged: File name and damage if the original is damaged.
        oriented: Whether the metadata of the original state that it is shown rotated or mirrored.
    """

    shape: tuple[int, int]
    damaged: DamagedImage | None
    oriented: bool


ResizedImage = tuple[bytes | memoryview, ImageFacts]
"""Bytes of a resized image, as plain pixels or as JPEG, and its properties."""


@dataclass(frozen=True, slots=True)
class FilledShard:
    """A shard and the properties of its images."""

    shard: Shard
    facts: list[ImageFacts]

    @property
    def damaged(self) -> list[DamagedImage]:
        """The damaged images."""
        return [facts.damaged for facts in self.facts if facts.damaged is not None]

    @property
    def oriented(self) -> int:
        """Number of images that are shown rotated or mirrored."""
        return sum(facts.oriented for facts in self.facts)


class ResizedImages:
    """The images of a split, decoded and resized on request.

    Args:
        data: The task's data.
        split: Name of the split.
        transform: Resize and crop.
        workers: Number of threads.
        control: Receives progress; may request a stop.

    Attributes:
        is_resumable: Whether a later call continues from finished shards, for the message of a stop.
    """

    def __init__(
        self, data: TaskData, split: SplitName, transform: EvaluationTransform, workers: int, control: Control
    ) -> None:
        self.data, self.name, self.transform, self.workers, self.control = data, split, transform, workers, control
        self.split = data.splits[split]
        self.encoded = data.task.prepare.format == "jpeg"
        self.is_resumable = False
        self._quality = data.task.prepare.quality
        self._memory = DecodingBudget()
        # Published data sets contain damaged images, and published results used them.
        self._accepts_damage = data.tolerant or is_shipped(data.task)
        self._needs_orientation = needs_orientation(data.task)

    def __len__(self) -> int:
        return len(self.split)

    def check_damage(self, damaged: DamagedImage | None) -> None:
        """Check that a damaged image is acceptable.

        Raises:
            UndecodableImage: It is not.
        """
        if damaged is not None and not self._accepts_damage:
            name, reason = damaged
            advice = f"{reason} (--partial uses the readable part, and marks every result as partial)"
            raise UndecodableImage(name, advice, self.data.task.argument)

    def check_orientation(self, images: str | None) -> None:
        """Check that the task states what to do with images whose metadata state an orientation.

        Raises:
            InputError: It does not.
        """
        if images is not None and self._needs_orientation:
            raise orientation_error(self.data.task, images)

    def read(self, index: int) -> ResizedImage:
        """Decode and resize one image.

        Raises:
            UndecodableImage: It does not decode, or is damaged and that is not accepted.
            InputError: Its metadata state an orientation that the task does not handle.
        """
        with collect_findings() as findings, self._memory.one_image():
            pixels = resize(self.split.images.read(index), self.transform)
        damage = None if findings.damage is None else (findings.damage.name, findings.damage.reason)
        self.check_damage(damage)
        self.check_orientation(findings.oriented)
        height, width, _ = pixels.shape
        content = encode_jpeg(pixels, self._quality) if self.encoded else pixels.reshape(-1).data
        return content, ImageFacts((height, width), damage, findings.oriented is not None)

    def stream(self, first: int, last: int) -> Iterator[ResizedImage]:
        """Yield images `first … last - 1` in order; threads decode ahead within a memory limit.

        Raises:
            InterruptedWork: A stop was requested.
        """
        ahead: deque[Future[list[ResizedImage]]] = deque()
        done = start = first
        # Average size of a resized image: an estimate that counts as one image, then the actual sizes.
        total_bytes, num_images = 3 * self.transform.resize**2, 1
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            try:
                while True:
                    room = max(1, _AHEAD_BYTES * num_images // total_bytes)
                    # Fewer per task where images are large, so that every thread still has work.
                    per_task = min(_IMAGES_PER_TASK, max(1, room // (4 * self.workers)))
                    while start < last and start - done < room and len(ahead) < 4 * self.workers:
                        end = min(start + per_task, done + room, last)
                        ahead.append(pool.submit(self._read_range, range(start, end)))
                        start = end
                    if not ahead:
                        return
                    for image in ahead.popleft().result():
                        yield image
                        done += 1
                        total_bytes, num_images = total_bytes + len(image[0]), num_images + 1
                    self.control.progress(done, last, "images prepared")
                    if self.control.stop_requested():
                        then = " to continue from the finished shards" if self.is_resumable else ""
                        raise InterruptedWork(
                            f"stopped after {done:,} of {last:,} images were prepared. Run the same command again{then}."
                        )
            finally:
                for future in ahead:
                    future.cancel()

    def shards(self, first: int, last: int, allocate: Callable[[int], Bytes]) -> Iterator[FilledShard]:
        """Yield images `first … last - 1` packed into shards.

        Args:
            first: Index of the first image.
            last: One after the last index.
            allocate: Returns memory for a shard of at least the given number of bytes.
        """
        content, size = allocate(_SHARD_BYTES), 0
        lengths: list[int] = []
        facts: list[ImageFacts] = []
        for image, image_facts in self.stream(first, last):
            if size + len(image) > len(content):
                if lengths:
                    yield _make_shard(content[:size], lengths, facts)
                content, size, lengths, facts = allocate(max(_SHARD_BYTES, len(image))), 0, [], []
            content[size : size + len(image)] = np.frombuffer(image, np.uint8)
            size += len(image)
            lengths.append(len(image))
            facts.append(image_facts)
        if lengths:
            yield _make_shard(content[:size], lengths, facts)

    def _read_range(self, indices: range) -> list[ResizedImage]:
        return [self.read(index) for index in indices]


def _make_shard(content: Bytes, lengths: list[int], facts: list[ImageFacts]) -> FilledShard:
    sizes = np.array(lengths, dtype=np.int64)
    shapes = np.array([image.shape for image in facts], dtype=np.int64)
    index = np.column_stack([np.cumsum(sizes) - sizes, sizes, shapes])
    return FilledShard(Shard(content=content, index=index), facts)


def encode_jpeg(pixels: Bytes, quality: int) -> bytes:
    """Encode an image, shape `(h, w, 3)`, as JPEG."""
    image = Image.fromarray(pixels)
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        return buffer.getvalue()
    # Pillow releases the interpreter lock while it encodes into a system file, but not into a BytesIO.
    with os.fdopen(os.memfd_create("jpeg"), "w+b", buffering=0) as file:
        image.save(file, format="JPEG", quality=quality)
        return os.pread(file.fileno(), file.tell(), 0)
