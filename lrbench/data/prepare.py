"""The pixel cache: every image decoded and resized once, and shared by every snapshot, seed and protocol.

A cache is a folder of Arrow shards (`shard-00000.arrow`, …: columns `image`, `height` and `width`, in the stream form that
`datasets.Dataset.from_file` maps too) and `about.json`. It appears under its final name whole or not at all; what a stopped
preparation has finished is gone on with.
"""

import io
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from lrbench.control import Control
from lrbench.data.decode import Bytes, decode_own_jpeg
from lrbench.data.decoding_room import DecodingRoom
from lrbench.data.examples import EvaluationTransform, Split, SplitName, TaskData
from lrbench.data.pixels import (
    DecodedAnew,
    Indices,
    Pixels,
    Shard,
    StoredPixels,
    resize,
    resize_arithmetic,
)
from lrbench.errors import InterruptedWork
from lrbench.files import atomic_path, sha256_json, sync_folder, write_json, writing
from lrbench.locks import locked
from lrbench.machine import cores_here

# Rises with every change that can change a pixel, or how pixels are kept.
_VERSION = 3
_SHARD_BYTES = 32 << 20
# Without a cache, so much is kept in memory; what is larger is decoded anew at each use.
_MEMORY_BYTES = 1 << 30
_AT_A_TIME = 8
# What is decoded ahead and waits for its turn takes about so much memory at most, however many threads decode.
_AHEAD_BYTES = 256 << 20
_ABOUT = "about.json"

_Image = tuple[bytes | memoryview, tuple[int, int]]
"""An image's bytes, height and width."""


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
    control = control or Control()
    work = _Work(data, data.splits[split], split, transform, workers or cores_here(), control)
    if cache is None:
        return work.in_memory()
    folder = cache / "pixels" / work.name
    # What is whole needs no lock, and so may lie where nothing can be written.
    pixels = work.read(folder)
    if pixels is None:
        with locked(folder, control) as alone:
            pixels = work.read(folder)
            if pixels is None:
                work.write(folder, alone=alone)
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
        self._room = DecodingRoom()
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
        }
        self.name = f"{data.task.name}-{name}-{transform.resize}-{sha256_json(self._about)[:16]}"

    def in_memory(self) -> Pixels:
        shards, held = [], 0
        for shard in self._shards(0, lambda count: np.empty(count, dtype=np.uint8)):
            held += len(shard.content)
            if held > _MEMORY_BYTES:
                return DecodedAnew(self._anew, len(self._split), self._transform.size)
            shards.append(shard)
        return StoredPixels(shards, self._transform.size, encoded=self._encoded)

    def _anew(self, index: int) -> Bytes:
        content, (height, width) = self._image(index)
        # The same pixels as from a cache, also where that keeps JPEG.
        pixels = np.frombuffer(content, np.uint8)
        return decode_own_jpeg(pixels, height, width) if self._encoded else pixels.reshape(height, width, 3)

    def images(self, first: int) -> Iterator[_Image]:
        """The images from `first` on, in order; a few dozen for each thread are decoded ahead, as far as memory allows."""
        total = len(self._split)
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
        with self._room.one_image():
            pixels = resize(self._split.images.read(index), self._transform)
        height, width, _ = pixels.shape
        if self._encoded:
            return _as_jpeg(pixels, self._format.quality), (height, width)
        return pixels.reshape(-1).data, (height, width)

    def _shards(self, first: int, rooms: Callable[[int], Bytes]) -> Iterator[Shard]:
        """The images from `first` on, in shards; `rooms` gives the memory for one of at least so many bytes."""
        content, filled = rooms(_SHARD_BYTES), 0
        lengths: list[int] = []
        shapes: list[tuple[int, int]] = []
        for image, shape in self.images(first):
            if filled + len(image) > len(content):
                if lengths:
                    yield _shard(content[:filled], lengths, shapes)
                content, filled, lengths, shapes = rooms(max(_SHARD_BYTES, len(image))), 0, [], []
            content[filled : filled + len(image)] = np.frombuffer(image, np.uint8)
            filled += len(image)
            lengths.append(len(image))
            shapes.append(shape)
        if lengths:
            yield _shard(content[:filled], lengths, shapes)

    def write(self, folder: Path, *, alone: bool) -> None:
        """Make the cache in a folder of another name and rename it.

        Args:
            folder: Where it appears.
            alone: Whether no other process can be at the same work. Then shards that an earlier call finished are gone on
                with; else this process works in a folder of its own, and what another one finished first counts.
        """
        self._resumes = alone
        with writing(folder):
            if alone:
                part = folder.parent / f".{folder.name}.part"
                part.mkdir(parents=True, exist_ok=True)
                # Temporary files are a killed process's.
                for stale in part.glob(".*.part"):
                    stale.unlink()
                self._fill(part)
                _put_in_place(part, folder)
                return
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as own:
                self._fill(Path(own, "part"))
                if self.read(folder) is None:
                    _put_in_place(Path(own, "part"), folder)

    def _fill(self, part: Path) -> None:
        """Write all shards that are not in a folder yet, and what they are."""
        sizes: list[int] = []
        first = 0
        while (shard := _read_shard(part / _shard_name(len(sizes)))) is not None:
            first += len(shard.index)
            sizes.append((part / _shard_name(len(sizes))).stat().st_size)
        # One shard is written while the next is decoded; never more, so that memory stays small.
        with ThreadPoolExecutor(max_workers=1) as writer:
            pending: deque[Future[int]] = deque()
            for shard in self._shards(first, _Rooms().room):
                path = part / _shard_name(len(sizes) + len(pending))
                pending.append(writer.submit(_write_shard, path, shard))
                if len(pending) > 1:
                    sizes.append(pending.popleft().result())
            sizes += [written.result() for written in pending]
        write_json(part / _ABOUT, {**self._about, "sizes": sizes})

    def read(self, folder: Path) -> StoredPixels | None:
        """The cache's pixels, or None where it is not there or not whole."""
        try:
            about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            paths = [folder / _shard_name(number) for number in range(len(about["sizes"]))]
            if [path.stat().st_size for path in paths] != about["sizes"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        shards = [shard for path in paths if (shard := _read_shard(path)) is not None]
        if len(shards) < len(paths) or sum(len(shard.index) for shard in shards) != len(self._split):
            return None
        return StoredPixels(shards, self._transform.size, encoded=self._encoded)


def _put_in_place(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    sync_folder(folder.parent)


def _libjpeg_version() -> str | None:
    # Pillow's plain answer for "jpg" is the interface's version, which libjpeg-turbo keeps while its decoder changes.
    return features.version_feature("libjpeg_turbo") or features.version("jpg")


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


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


class _Rooms:
    """Memory for shards, used again and again: one is filled while the one before is written."""

    def __init__(self) -> None:
        self._rooms = deque([np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)])

    def room(self, count: int) -> Bytes:
        """Memory of at least so many bytes: not what was given last, which is being written, but what was given before that."""
        self._rooms.rotate()
        if len(self._rooms[0]) < count:
            self._rooms[0] = np.empty(count, dtype=np.uint8)
        return self._rooms[0]


def _shard(content: Bytes, lengths: list[int], shapes: list[tuple[int, int]]) -> Shard:
    long = np.array(lengths, dtype=np.int64)
    index = np.column_stack([np.cumsum(long) - long, long, np.array(shapes, dtype=np.int64)])
    return Shard(content=content, index=index)


def _write_shard(path: Path, shard: Shard) -> int:
    """Write a shard whole or not at all; gives its size in bytes."""
    import pyarrow as pa

    offsets = np.append(shard.index[:, 0], len(shard.content))
    images = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(shard.index), [None, pa.py_buffer(offsets), pa.py_buffer(shard.content)]
    )
    sides = (pa.array(shard.index[:, column], type=pa.int32()) for column in (2, 3))
    batch = pa.record_batch([images, *sides], names=["image", "height", "width"])
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_stream(file, batch.schema) as out,
    ):
        out.write_batch(batch)
    return path.stat().st_size


def _read_shard(path: Path) -> Shard | None:
    """Map a shard, or None where it is not there or damaged."""
    import pyarrow as pa

    try:
        batch = pa.ipc.open_stream(pa.memory_map(str(path))).read_next_batch()
        images = batch.column("image")
        _, offsets, content = images.buffers()
        starts: Indices = np.frombuffer(offsets, dtype=np.int64)[: len(images) + 1]
        sides = [batch.column(name).to_numpy().astype(np.int64) for name in ("height", "width")]
        shard = Shard(
            content=np.frombuffer(content, dtype=np.uint8)[: starts[-1]],
            index=np.column_stack([starts[:-1], np.diff(starts), *sides]),
        )
    except (OSError, pa.ArrowException, KeyError, ValueError, StopIteration):
        return None
    return shard
