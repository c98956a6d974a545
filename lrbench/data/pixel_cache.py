"""The pixel cache: every image decoded and resized once, shared by all snapshots, seeds and protocols.

A cache is a folder of Arrow shards (`shard-00000.arrow`, …) with the columns `image`, `height` and `width`, in the stream
format that `datasets.Dataset.from_file` reads, and `about.json` with their checksums. The folder gets its final name only when
it is complete. A preparation that was stopped continues from its finished shards; damaged shards are written again.
"""

import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import PIL
from PIL import features

from lrbench.core.errors import FailureError
from lrbench.core.files import sha256_json, sync_folder, writing
from lrbench.core.leftovers import temporary_name
from lrbench.core.locks import locked
from lrbench.data.pixels import StoredPixels, resize_arithmetic
from lrbench.data.resized_images import DamagedImage, FilledShard, ResizedImages
from lrbench.data.shards import (
    ABOUT,
    ShardBuffers,
    ShardRecord,
    is_whole,
    map_shard,
    read_about,
    shard_path,
    write_about,
    write_shard,
)

# Increases with every change that can change a pixel or the format.
_VERSION = 3

CachedPixels = tuple[StoredPixels, list[DamagedImage]]
"""The pixels of a split, and its damaged images."""


class PixelCache:
    """The cache of one split under one transform.

    Args:
        images: The images.
        root: Folder of all pixel caches.

    Attributes:
        folder: Folder of this cache; its name contains a hash of everything that determines the pixels.
    """

    def __init__(self, images: ResizedImages, root: Path) -> None:
        self._images = images
        data, transform, prepare = images.data, images.transform, images.data.task.prepare
        self._about = {
            "version": _VERSION,
            "task": data.fingerprint,
            "split": images.name,
            "stamp": images.split.images.stamp(),
            "size": transform.size,
            "resize": transform.resize,
            "interpolation": transform.interpolation,
            "format": prepare.format,
            "quality": prepare.quality if images.encoded else None,
            "pillow": PIL.__version__,
            "libjpeg": _libjpeg_version(),
            **resize_arithmetic(),
            **({"crop_mode": "squash"} if transform.squash else {}),
            **({"orientation": "upright"} if data.task.upright else {}),
        }
        self.folder = root / f"{data.task.name}-{images.name}-{transform.resize}-{sha256_json(self._about)[:16]}"

    def is_complete(self) -> bool:
        """Return whether the cache covers all images. Its checksums are not compared."""
        return self._complete_records() is not None

    def load(self) -> CachedPixels:
        """Return the pixels, after preparing what the cache lacks.

        Raises:
            InputError: An image does not decode, or its orientation is not decided.
            FailureError: The disk is full, or the cache is damaged again after it was written.
            InterruptedWork: A stop was requested.
        """
        # Without a lock, so that a complete cache can be on a read-only disk.
        cached = self._read()
        if cached is None:
            with locked(self.folder, self._images.control) as has_lock:
                cached = self._read()
                if cached is None:
                    self._write(has_lock=has_lock)
                    cached = self._read()
        if cached is None:
            raise FailureError(
                f"the pixel cache {self.folder} is damaged immediately after it was written. Check the disk and the memory of "
                "this machine, or use --no-cache."
            )
        return cached

    def _read(self) -> CachedPixels | None:
        """Return the pixels, or None if the cache is missing or damaged."""
        records = self._complete_records()
        if records is None:
            return None
        paths = [shard_path(self.folder, number) for number in range(len(records))]
        with ThreadPoolExecutor(max_workers=self._images.workers) as pool:
            for done, whole in enumerate(pool.map(is_whole, paths, records), 1):
                if not whole:
                    return None
                self._images.control.progress(done, len(paths), "shards checked")
        damaged = [image for record in records for image in record.damaged]
        self._images.check_damage(damaged[0] if damaged else None)
        oriented = sum(record.oriented for record in records)
        self._images.check_orientation(f"{oriented:,} {self._images.name} images" if oriented else None)
        size, encoded = self._images.transform.size, self._images.encoded
        return StoredPixels(list(map(map_shard, paths)), size, encoded=encoded), damaged

    def _complete_records(self) -> tuple[ShardRecord, ...] | None:
        """Return the records of all shards, or None if they do not cover all images."""
        records = read_about(self.folder)
        return records if records and sum(record.images for record in records) == len(self._images) else None

    def _write(self, *, has_lock: bool) -> None:
        """Write the cache to a temporary folder and rename it, or write damaged shards again.

        With the lock, finished shards of an earlier call are used. Without it another process may write the same cache, so
        this process writes to a folder with a unique name, and the cache that is finished first is used.
        """
        self._images.is_resumable = has_lock
        folder = self.folder
        with writing(folder):
            is_complete = self.is_complete()
            if not is_complete and folder.is_dir():
                self._images.control.say(
                    f"{folder / ABOUT} is damaged or of an old version; its images are prepared again"
                )
            if has_lock and is_complete:
                self._write_missing(folder)
            elif has_lock:
                part = folder.parent / f".{folder.name}.part"
                part.mkdir(parents=True, exist_ok=True)
                # Temporary files of a killed process.
                for leftover in part.glob(".*.part"):
                    leftover.unlink()
                self._write_missing(part)
                _replace_folder(part, folder)
            else:
                temporary = temporary_name(folder)
                temporary.mkdir(parents=True)
                try:
                    self._write_missing(temporary)
                    if self._read() is None:
                        _replace_folder(temporary, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)

    def _write_missing(self, folder: Path) -> None:
        """Write all missing or damaged shards of a folder, and `about.json`."""
        records, buffers, first = list(read_about(folder) or ()), ShardBuffers(), 0
        for number, record in enumerate(records):
            path, last = shard_path(folder, number), first + record.images
            if not is_whole(path, record):
                self._images.control.say(
                    f"{path} is damaged (wrong checksum); its {record.images:,} images are prepared again"
                )
                # One shard, even if the shard size has changed since.
                (filled,) = self._images.shards(first, last, buffers.at_least(record.bytes))
                records[number] = _write_filled(path, filled)
                write_about(folder, self._about, records)
            first = last

        def append(filled: FilledShard) -> None:
            records.append(_write_filled(shard_path(folder, len(records)), filled))
            write_about(folder, self._about, records)

        # One shard is written while the next one is filled, which bounds the memory.
        with ThreadPoolExecutor(max_workers=1) as writer:
            pending: deque[Future[None]] = deque()
            for filled in self._images.shards(first, len(self._images), buffers.allocate):
                pending.append(writer.submit(append, filled))
                if len(pending) > 1:
                    pending.popleft().result()
            for write in pending:
                write.result()


def _write_filled(path: Path, filled: FilledShard) -> ShardRecord:
    return write_shard(path, filled.shard, filled.damaged, filled.oriented)


def _replace_folder(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    sync_folder(folder.parent)


def _libjpeg_version() -> str | None:
    # Pillow's version of "jpg" is that of the interface, which libjpeg-turbo keeps while its decoder changes.
    return features.version_feature("libjpeg_turbo") or features.version("jpg")
