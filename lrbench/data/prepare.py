"""The pixel cache: every image decoded and resized once, and shared by every snapshot, seed and protocol.

A cache is a folder of Arrow shards (`shard-00000.arrow`, …: columns `image`, `height` and `width`, in the stream form that
`datasets.Dataset.from_file` maps too) and `about.json`, which holds their checksums. It appears under its final name whole or
not at all. What a stopped preparation has finished is used again; of a damaged cache, the damaged shards are made again.
"""

import io
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from lrbench.config.loading import is_shipped
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.core.files import sha256_json, sync_folder, writing
from lrbench.core.leftovers import temporary_name
from lrbench.core.locks import locked
from lrbench.core.machine import cores_here
from lrbench.data.decode import UndecodableImage, noticing
from lrbench.data.decoding_room import DecodingRoom
from lrbench.data.examples import EvaluationTransform, Split, SplitName, TaskData
from lrbench.data.jpeg import Bytes, decode_own_jpeg
from lrbench.data.orientation import asks_for_orientation, unstated_orientation
from lrbench.data.pixels import DecodedAnew, Pixels, Shard, StoredPixels, resize, resize_arithmetic
from lrbench.data.shards import (
    ABOUT,
    ShardRecord,
    ShardRooms,
    is_whole,
    map_shard,
    read_about,
    shard_path,
    write_about,
    write_shard,
)

# Rises with every change that can change a pixel, or how pixels are kept.
_VERSION = 3
_SHARD_BYTES = 32 << 20
# Without a cache, so much is kept in memory; what is larger is decoded anew at each use.
_MEMORY_BYTES = 1 << 30
_AT_A_TIME = 8
# What is decoded ahead and waits for its turn takes about so much memory at most, however many threads decode.
_AHEAD_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of a resized image beside its bytes.

    Attributes:
        shape: Height and width.
        damaged: File and damage, where the original is damaged.
        oriented: Whether the original's metadata say that it is to be shown turned or mirrored.
    """

    shape: tuple[int, int]
    damaged: tuple[str, str] | None
    oriented: bool


_Image = tuple[bytes | memoryview, _Facts]
"""A resized image's bytes, plain or as JPEG, and what else is known of it."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """Images that make a shard."""

    shard: Shard
    facts: list[_Facts]

    @property
    def damaged(self) -> list[tuple[str, str]]:
        return [facts.damaged for facts in self.facts if facts.damaged is not None]

    def write(self, path: Path) -> ShardRecord:
        return write_shard(path, self.shard, self.damaged, sum(facts.oriented for facts in self.facts))


def prepare_splits(
    data: TaskData, splits: Sequence[SplitName], transform: EvaluationTransform, *, cache: Path | None, control: Control
) -> tuple[TaskData, dict[SplitName, Pixels]]:
    """Prepare several splits of a task, as `prepare` does.

    Returns:
        The data, marked partial where images of the user's own are damaged; and the pixels of each split.
    """
    pixels, damaged = {}, []
    for split in splits:
        work = _Work(data, data.splits[split], split, transform, cores_here(), control)
        pixels[split] = work.prepare(cache)
        damaged += work.damaged
    if damaged and not is_shipped(data.task):
        data = replace(data, partial=True, problems=(*data.problems, f"{len(damaged):,} of its images are damaged"))
    return data, pixels


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
        cache: Folder of the caches. None keeps up to 1 GiB of pixels in memory, and decodes anew at each use what is larger.
        workers: Threads that decode; None for one for each core that this process may use.
        control: Told how far the work is; may stop it.

    Raises:
        InputError: An image does not decode; the message names the file.
        FailureError: The disk is full; what is finished is kept.
        InterruptedWork: Asked to stop; what is finished is kept.
    """
    work = _Work(data, data.splits[split], split, transform, workers or cores_here(), control or Control())
    return work.prepare(cache)


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
        self._data, self._split, self._name = data, split, name
        self._transform, self._workers, self._control = transform, workers, control
        self._room = DecodingRoom()
        # File and damage of each damaged image in use.
        self.damaged: list[tuple[str, str]] = []
        # Published data sets hold damaged images, and published figures were made with them.
        self._tolerant = data.tolerant or is_shipped(data.task)
        self._asks = asks_for_orientation(data.task)
        # Whether a later call goes on with what was finished when this one is stopped.
        self._resumes = False
        self._format = data.task.prepare
        self._encoded = self._format.format == "jpeg"
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
            "quality": self._format.quality if self._encoded else None,
            "pillow": PIL.__version__,
            "libjpeg": _libjpeg_version(),
            **resize_arithmetic(),
            **({"crop_mode": "squash"} if transform.squash else {}),
            **({"orientation": "upright"} if data.task.upright else {}),
        }
        self.name = f"{data.task.name}-{name}-{transform.resize}-{sha256_json(self._about)[:16]}"

    def prepare(self, cache: Path | None) -> Pixels:
        """The split's pixels, from the cache or made now; says which damaged images are used."""
        pixels = self._in_memory() if cache is None else self._cached(cache / "pixels" / self.name)
        if self.damaged:
            name, reason = self.damaged[0]
            self._control.say(
                f"{len(self.damaged):,} {self._name} images of {self._data.task.name} are damaged and used as far as they "
                f"decode; the first is {name}: {reason}"
            )
        return pixels

    def _in_memory(self) -> Pixels:
        shards, held = [], 0
        for filled in self._shards(0, len(self._split), lambda count: np.empty(count, dtype=np.uint8)):
            held += len(filled.shard.content)
            if held > _MEMORY_BYTES:
                return DecodedAnew(self._anew, len(self._split), self._transform.size)
            shards.append(filled.shard)
            self.damaged += filled.damaged
        return StoredPixels(shards, self._transform.size, encoded=self._encoded)

    def _cached(self, folder: Path) -> Pixels:
        # What is whole needs no lock, and so may lie where nothing can be written.
        pixels = self.read(folder)
        if pixels is None:
            with locked(folder, self._control) as alone:
                pixels = self.read(folder)
                if pixels is None:
                    self.write(folder, alone=alone)
                    pixels = self.read(folder)
        if pixels is None:
            raise FailureError(
                f"the pixel cache {folder} is damaged again right after it was written. Check the disk and the memory of "
                "this machine, or keep no cache (--no-cache)."
            )
        return pixels

    def _anew(self, index: int) -> Bytes:
        content, facts = self._image(index)
        height, width = facts.shape
        # The same pixels as from a cache, also where that keeps JPEG.
        pixels = np.frombuffer(content, np.uint8)
        return decode_own_jpeg(pixels, height, width) if self._encoded else pixels.reshape(height, width, 3)

    def images(self, first: int, total: int) -> Iterator[_Image]:
        """Images `first … total - 1`, in order; a few dozen for each thread are decoded ahead, as far as memory allows."""
        ahead: deque[Future[list[_Image]]] = deque()
        done = start = first
        # How large an image comes out, on average: a guess, which counts as one image, until some came out.
        taken, counted = 3 * self._transform.resize**2, 1
        with ThreadPoolExecutor(max_workers=self._workers) as pool:
            try:
                while True:
                    room = max(1, _AHEAD_BYTES * counted // taken)
                    # Some at a time, since handing over costs as much as a tenth of an image; fewer where images are large,
                    # so that every thread still has some.
                    several = min(_AT_A_TIME, max(1, room // (4 * self._workers)))
                    while start < total and start - done < room and len(ahead) < 4 * self._workers:
                        end = min(start + several, done + room, total)
                        ahead.append(pool.submit(self._some, range(start, end)))
                        start = end
                    if not ahead:
                        return
                    for image in ahead.popleft().result():
                        yield image
                        done += 1
                        taken, counted = taken + len(image[0]), counted + 1
                    self._control.progress(done, total, "images prepared")
                    if self._control.stop_requested():
                        kept = "; finished shards are kept. Run the same command again to go on."
                        raise InterruptedWork(
                            f"stopped after {done:,} of {total:,} images were prepared"
                            + (kept if self._resumes else ". Run the same command again.")
                        )
            finally:
                for future in ahead:
                    future.cancel()

    def _some(self, indices: range) -> list[_Image]:
        return [self._image(index) for index in indices]

    def _image(self, index: int) -> _Image:
        with noticing() as remarks, self._room.one_image():
            pixels = resize(self._split.images.read(index), self._transform)
        damage = remarks.damage
        if damage is not None and not self._tolerant:
            raise self._refusal(damage.name, damage.reason)
        if remarks.oriented is not None and self._asks:
            raise unstated_orientation(self._data.task, remarks.oriented)
        height, width, _ = pixels.shape
        content = _as_jpeg(pixels, self._format.quality) if self._encoded else pixels.reshape(-1).data
        damaged = None if damage is None else (damage.name, damage.reason)
        return content, _Facts((height, width), damaged, remarks.oriented is not None)

    def _refusal(self, name: str, damage: str) -> UndecodableImage:
        advice = f"{damage} (--partial uses it as far as it decodes, and marks every result)"
        return UndecodableImage(name, advice, self._data.task.argument)

    def _shards(self, first: int, last: int, rooms: Callable[[int], Bytes]) -> Iterator[_Filled]:
        """Images `first … last - 1` in shards; `rooms` gives the memory for one of at least so many bytes."""
        content, filled = rooms(_SHARD_BYTES), 0
        lengths: list[int] = []
        facts: list[_Facts] = []
        for image, known in self.images(first, last):
            if filled + len(image) > len(content):
                if lengths:
                    yield _filled(content[:filled], lengths, facts)
                content, filled, lengths, facts = rooms(max(_SHARD_BYTES, len(image))), 0, [], []
            content[filled : filled + len(image)] = np.frombuffer(image, np.uint8)
            filled += len(image)
            lengths.append(len(image))
            facts.append(known)
        if lengths:
            yield _filled(content[:filled], lengths, facts)

    def write(self, folder: Path, *, alone: bool) -> None:
        """Make the cache in a folder of another name and rename it, or make the damaged shards of one again.

        Args:
            folder: Where it appears.
            alone: Whether no other process can be at the same work. Then shards that an earlier call finished are used; else
                this process works in a folder of its own, and what another one finished first counts.
        """
        self._resumes = alone
        with writing(folder):
            records = self._records(folder)
            if records is None and folder.is_dir():
                self._control.say(
                    f"{folder / ABOUT} is damaged, or of a version without checksums; its images are prepared again"
                )
            if alone and records is not None:
                self._fill(folder)
                return
            if alone:
                part = folder.parent / f".{folder.name}.part"
                part.mkdir(parents=True, exist_ok=True)
                # Temporary files are a killed process's.
                for stale in part.glob(".*.part"):
                    stale.unlink()
                self._fill(part)
                _put_in_place(part, folder)
                return
            own = temporary_name(folder)
            own.mkdir()
            try:
                self._fill(own)
                if self.read(folder) is None:
                    _put_in_place(own, folder)
            finally:
                shutil.rmtree(own, ignore_errors=True)

    def _fill(self, folder: Path) -> None:
        """Write all shards that a folder lacks or whose checksum differs, and what they are."""
        records, rooms, first = list(read_about(folder) or ()), ShardRooms(), 0
        for number, record in enumerate(records):
            path, last = shard_path(folder, number), first + record.images
            if not is_whole(path, record):
                self._control.say(
                    f"{path} is damaged: its checksum differs; its {record.images:,} images are prepared again"
                )
                # Whatever shards hold at most by now, these images are one.
                (filled,) = self._shards(first, last, rooms.at_least(record.bytes))
                records[number] = filled.write(path)
                write_about(folder, self._about, records)
            first = last

        def add(filled: _Filled) -> None:
            records.append(filled.write(shard_path(folder, len(records))))
            write_about(folder, self._about, records)

        # One shard is written while the next is decoded; never more, so that memory stays small.
        with ThreadPoolExecutor(max_workers=1) as writer:
            pending: deque[Future[None]] = deque()
            for filled in self._shards(first, len(self._split), rooms.room):
                pending.append(writer.submit(add, filled))
                if len(pending) > 1:
                    pending.popleft().result()
            for written in pending:
                written.result()

    def _records(self, folder: Path) -> tuple[ShardRecord, ...] | None:
        """What a cache says of its shards; None where that is not all images."""
        records = read_about(folder)
        return records if records and sum(record.images for record in records) == len(self._split) else None

    def read(self, folder: Path) -> StoredPixels | None:
        """The cache's pixels, or None where it is not there or not whole.

        Raises:
            InputError: An image is damaged, or its orientation is to be decided on.
        """
        records = self._records(folder)
        if records is None:
            return None
        paths = [shard_path(folder, number) for number in range(len(records))]
        with ThreadPoolExecutor(max_workers=self._workers) as pool:
            for done, whole in enumerate(pool.map(is_whole, paths, records), 1):
                if not whole:
                    return None
                self._control.progress(done, len(paths), "shards checked")
        self.damaged = [damaged for record in records for damaged in record.damaged]
        if self.damaged and not self._tolerant:
            raise self._refusal(*self.damaged[0])
        oriented = sum(record.oriented for record in records)
        if oriented and self._asks:
            raise unstated_orientation(self._data.task, f"{oriented:,} {self._name} images")
        return StoredPixels(list(map(map_shard, paths)), self._transform.size, encoded=self._encoded)


def _put_in_place(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    sync_folder(folder.parent)


def _libjpeg_version() -> str | None:
    # Pillow's plain answer for "jpg" is the interface's version, which libjpeg-turbo keeps while its decoder changes.
    return features.version_feature("libjpeg_turbo") or features.version("jpg")


def _as_jpeg(pixels: Bytes, quality: int) -> bytes:
    image = Image.fromarray(pixels)
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        return buffer.getvalue()
    # Into a file of the system's, Pillow encodes without holding up the other threads; into Python's memory it does not.
    with os.fdopen(os.memfd_create("jpeg"), "w+b", buffering=0) as file:
        image.save(file, format="JPEG", quality=quality)
        return os.pread(file.fileno(), file.tell(), 0)


def _filled(content: Bytes, lengths: list[int], facts: list[_Facts]) -> _Filled:
    long = np.array(lengths, dtype=np.int64)
    shapes = np.array([known.shape for known in facts], dtype=np.int64)
    return _Filled(Shard(content=content, index=np.column_stack([np.cumsum(long) - long, long, shapes])), facts)
