"""Files of a pixel cache: Arrow shards, and `about.json` with their checksums.

A shard is read only if its checksum matches, because a flipped bit would change a pixel or crash Arrow. The checksum is
computed once per process.
"""

import os
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from lrbench.config.strict import Strict
from lrbench.core.errors import InputError
from lrbench.core.files import atomic_path, open_regular, read_json, sha256_json, write_json
from lrbench.data.jpeg import Bytes
from lrbench.data.pixels import Indices, Shard

ABOUT = "about.json"
_BLOCK_BYTES = 4 << 20

# Shards whose checksum this process has verified, keyed by everything that a later write changes.
_VERIFIED: set[tuple[str, int, int, int, int, int]] = set()


class ShardRecord(Strict):
    """Record of a shard in `about.json`.

    Attributes:
        bytes: Size of the file.
        crc32: Checksum of the file.
        images: Number of images in it.
        damaged: File name and damage of each damaged image.
        oriented: Number of images whose metadata state that they are shown rotated or mirrored.
    """

    bytes: Annotated[int, Field(ge=0)]
    crc32: int
    images: Annotated[int, Field(gt=0)]
    damaged: tuple[tuple[str, str], ...] = ()
    oriented: int = 0


class _About(Strict):
    shards: tuple[ShardRecord, ...]


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{number:05d}.arrow"


def read_about(folder: Path) -> tuple[ShardRecord, ...] | None:
    """Return the records of a cache's shards; None if `about.json` is missing, damaged, or of a version without checksums."""
    try:
        content = read_json(folder / ABOUT, "It is written again.")
        checksum = content.pop("sha256")
        return _About.model_validate({"shards": content["shards"]}).shards if checksum == sha256_json(content) else None
    except (OSError, InputError, AttributeError, KeyError, TypeError, ValidationError):
        return None


def write_about(folder: Path, about: Mapping[str, Any], records: Sequence[ShardRecord]) -> None:
    """Write `about.json`: the settings of a cache and the records of its shards."""
    content = {**about, "shards": [record.model_dump(mode="json") for record in records]}
    write_json(folder / ABOUT, {**content, "sha256": sha256_json(content)})


def is_whole(path: Path, record: ShardRecord) -> bool:
    """Return whether a shard exists and its checksum matches."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            state = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, record.crc32)
            if state not in _VERIFIED:
                if status.st_size != record.bytes or _crc32(file) != record.crc32:
                    return False
                _VERIFIED.add(state)
    except (OSError, InputError):
        return False
    return True


def write_shard(path: Path, shard: Shard, damaged: Sequence[tuple[str, str]], oriented: int) -> ShardRecord:
    """Write a shard atomically and return its record.

    Args:
        path: Path of the shard.
        shard: The images.
        damaged: File name and damage of each damaged image.
        oriented: Number of images that are shown rotated or mirrored.
    """
    import pyarrow as pa

    offsets = np.append(shard.index[:, 0], len(shard.content))
    images = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(shard.index), [None, pa.py_buffer(offsets), pa.py_buffer(shard.content)]
    )
    sides = (pa.array(shard.index[:, column], type=pa.int32()) for column in (2, 3))
    batch = pa.record_batch([images, *sides], names=["image", "height", "width"])
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, batch.schema) as out:
            out.write_batch(batch)
        with open_regular(temporary) as written:
            return ShardRecord(
                bytes=os.fstat(written.fileno()).st_size,
                crc32=_crc32(written),
                images=len(shard.index),
                damaged=tuple(damaged),
                oriented=oriented,
            )


def map_shard(path: Path) -> Shard:
    """Map a shard into memory."""
    import pyarrow as pa

    batch = pa.ipc.open_stream(pa.memory_map(str(path))).read_next_batch()
    images = batch.column("image")
    _, offsets, content = images.buffers()
    starts: Indices = np.frombuffer(offsets, dtype=np.int64)[: len(images) + 1]
    sides = [batch.column(name).to_numpy().astype(np.int64) for name in ("height", "width")]
    return Shard(
        content=np.frombuffer(content, dtype=np.uint8)[: starts[-1]],
        index=np.column_stack([starts[:-1], np.diff(starts), *sides]),
    )


class ShardBuffers:
    """Two buffers for shards, used in turn: one is filled while the other is written."""

    def __init__(self) -> None:
        self._buffers = deque([np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)])

    def at_least(self, minimum: int) -> Callable[[int], Bytes]:
        """Return a variant of `allocate` whose buffers have at least `minimum` bytes."""
        return lambda count: self.allocate(max(count, minimum))

    def allocate(self, count: int) -> Bytes:
        """Return the buffer that was not returned last, enlarged to at least `count` bytes."""
        self._buffers.rotate()
        if len(self._buffers[0]) < count:
            self._buffers[0] = np.empty(count, dtype=np.uint8)
        return self._buffers[0]


def _crc32(file: Any) -> int:
    """Return the CRC-32 of a file from its current position."""
    block, checksum = bytearray(_BLOCK_BYTES), 0
    while count := file.readinto(block):
        checksum = zlib.crc32(memoryview(block)[:count], checksum)
    return checksum
