"""The files of a pixel cache: Arrow shards, and `about.json`, which holds a checksum of each.

Nothing of a shard is read before its checksum is found to match, which is computed once a process: a flipped bit would be
another pixel, or would crash the reader.
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

# Shards that this process found whole, by what would be another if they were written since.
_WHOLE: set[tuple[str, int, int, int, int, int]] = set()


class ShardRecord(Strict):
    """What `about.json` says of a shard.

    Attributes:
        bytes: Size of the file.
        crc32: Checksum of the file.
        images: Number of images in it.
        damaged: File and damage of each image that its decoder reported as damaged.
        oriented: Number of images whose metadata say that they are to be shown turned or mirrored.
    """

    bytes: Annotated[int, Field(ge=0)]
    crc32: int
    images: Annotated[int, Field(gt=0)]
    damaged: tuple[tuple[str, str], ...] = ()
    oriented: int = 0


class _About(Strict):
    shards: tuple[ShardRecord, ...]


def shard_path(folder: Path, number: int) -> Path:
    """The file of a cache's shard."""
    return folder / f"shard-{number:05d}.arrow"


def read_about(folder: Path) -> tuple[ShardRecord, ...] | None:
    """What a cache says of its shards; None where it is damaged, was written without checksums, or is not there."""
    try:
        content = read_json(folder / ABOUT, "It is written again.")
        checksum = content.pop("sha256")
        return _About.model_validate({"shards": content["shards"]}).shards if checksum == sha256_json(content) else None
    except (OSError, InputError, AttributeError, KeyError, TypeError, ValidationError):
        return None


def write_about(folder: Path, about: Mapping[str, Any], records: Sequence[ShardRecord]) -> None:
    """Write what a cache is and what is in its shards."""
    content = {**about, "shards": [record.model_dump(mode="json") for record in records]}
    write_json(folder / ABOUT, {**content, "sha256": sha256_json(content)})


def is_whole(path: Path, record: ShardRecord) -> bool:
    """Whether a shard's file is there and has its checksum."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            seen = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, record.crc32)
            if seen not in _WHOLE:
                if status.st_size != record.bytes or _crc32(file) != record.crc32:
                    return False
                _WHOLE.add(seen)
    except (OSError, InputError):
        return False
    return True


def write_shard(path: Path, shard: Shard, damaged: Sequence[tuple[str, str]], oriented: int) -> ShardRecord:
    """Write a shard whole or not at all.

    Args:
        path: The file.
        shard: Its images.
        damaged: File and damage of those that are damaged.
        oriented: Number of those that are to be shown turned or mirrored.
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
    """Map a whole shard into memory."""
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


class ShardRooms:
    """Memory for shards, used again and again: one is filled while the one before is written."""

    def __init__(self) -> None:
        self._rooms = deque([np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)])

    def at_least(self, least: int) -> Callable[[int], Bytes]:
        """As `room`, which then gives memory of at least `least` bytes."""
        return lambda count: self.room(max(count, least))

    def room(self, count: int) -> Bytes:
        """Memory of at least so many bytes: not what was given last, which is being written, but what was given before that."""
        self._rooms.rotate()
        if len(self._rooms[0]) < count:
            self._rooms[0] = np.empty(count, dtype=np.uint8)
        return self._rooms[0]


def _crc32(file: Any) -> int:
    """CRC-32 of what a file holds from where it stands."""
    block, checksum = bytearray(_BLOCK_BYTES), 0
    while count := file.readinto(block):
        checksum = zlib.crc32(memoryview(block)[:count], checksum)
    return checksum
