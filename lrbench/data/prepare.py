"""Preparing a task's splits: images decoded and resized once, in the pixel cache or in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lrbench.config import load_task
from lrbench.config.registry import is_shipped
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.machine import available_cores
from lrbench.data.examples import EvaluationTransform, SplitName, TaskData
from lrbench.data.jpeg import Bytes, decode_known_jpeg
from lrbench.data.loading import load_task_data, report_unused
from lrbench.data.pixel_cache import PixelCache
from lrbench.data.pixels import DecodedOnUse, Pixels, StoredPixels
from lrbench.data.resized_images import DamagedImage, ResizedImages

# Without a cache, splits up to this size are kept in memory, and larger ones are decoded at each use.
_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task whose images are ready to be read.

    Attributes:
        data: Classes and splits.
        transform: Evaluation transform of the pixels.
        pixels: Prepared images of each split.
    """

    data: TaskData
    transform: EvaluationTransform
    pixels: dict[SplitName, Pixels]


def prepare_task(
    name: str,
    settings: Input,
    splits: Sequence[SplitName] | None,
    *,
    roots: Sequence[Path],
    partial: bool,
    cache: Path | None,
    control: Control,
) -> PreparedTask:
    """Load a task and prepare its images for the input of a network.

    Args:
        name: Task name or path of its TOML.
        settings: Input of the network.
        splits: Splits to prepare, of those that the task has; None for all.
        roots: Data roots that are searched.
        partial: Whether to accept incomplete data.
        cache: Folder of the caches; None to write no cache.
        control: Receives messages and progress; may request a stop.

    Raises:
        InputError: The data is missing or incomplete, or an image does not decode.
        InterruptedWork: A stop was requested.
    """
    data = load_task_data(load_task(name), roots, partial=partial)
    report_unused(data, control)
    transform = EvaluationTransform.of(settings)
    names = tuple(name for name in data.splits if splits is None or name in splits)
    data, pixels = prepare_splits(data, names, transform, cache=cache, control=control)
    return PreparedTask(data=data, transform=transform, pixels=pixels)


def fill_caches(
    name: str,
    settings: Input,
    splits: Sequence[SplitName] | None,
    *,
    roots: Sequence[Path],
    partial: bool,
    cache: Path,
    control: Control,
) -> None:
    """Write the caches of a task that are missing. Complete ones are not read; they are checked when they are read.

    Args and errors are those of `prepare_task`.
    """
    data = load_task_data(load_task(name), roots, partial=partial)
    transform = EvaluationTransform.of(settings)
    for split in [split for split in data.splits if splits is None or split in splits]:
        pixels = PixelCache(ResizedImages(data, split, transform, available_cores(), control), cache / "pixels")
        if not pixels.is_complete():
            pixels.load()


def prepare_splits(
    data: TaskData, splits: Sequence[SplitName], transform: EvaluationTransform, *, cache: Path | None, control: Control
) -> tuple[TaskData, dict[SplitName, Pixels]]:
    """Prepare several splits of a task with `prepare`.

    Returns:
        The data, marked as partial if images of a user's own task are damaged; and the pixels of each split.
    """
    pixels, damaged = {}, []
    for split in splits:
        images = ResizedImages(data, split, transform, available_cores(), control)
        pixels[split], damaged_in_split = _prepare(images, cache)
        damaged += damaged_in_split
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
    """Decode and resize the images of a split, unless the cache already contains them.

    Args:
        data: The task's data.
        split: Name of the split.
        transform: Resize and crop.
        cache: Folder of the caches. None keeps up to 1 GiB of pixels in memory, and decodes larger splits at each use.
        workers: Number of decoding threads; None for one per available core.
        control: Receives progress; may request a stop.

    Raises:
        InputError: An image does not decode; the message names the file.
        FailureError: The disk is full; finished shards are kept.
        InterruptedWork: A stop was requested; finished shards are kept.
    """
    images = ResizedImages(data, split, transform, workers or available_cores(), control or Control())
    return _prepare(images, cache)[0]


def _prepare(images: ResizedImages, cache: Path | None) -> tuple[Pixels, list[DamagedImage]]:
    """Return the pixels of a split and its damaged images, which are reported."""
    pixels, damaged = _prepare_in_memory(images) if cache is None else PixelCache(images, cache / "pixels").load()
    if damaged:
        name, reason = damaged[0]
        images.control.say(
            f"{len(damaged):,} {images.name} images of {images.data.task.name} are damaged; their readable part is used "
            f"(first: {name}: {reason})"
        )
    return pixels, damaged


def _prepare_in_memory(images: ResizedImages) -> tuple[Pixels, list[DamagedImage]]:
    shards, size = [], 0
    damaged: list[DamagedImage] = []
    for filled in images.shards(0, len(images), lambda count: np.empty(count, dtype=np.uint8)):
        size += len(filled.shard.content)
        if size > _MEMORY_BYTES:
            return DecodedOnUse(lambda index: _decode(images, index), len(images), images.transform.size), damaged
        shards.append(filled.shard)
        damaged += filled.damaged
    return StoredPixels(shards, images.transform.size, encoded=images.encoded), damaged


def _decode(images: ResizedImages, index: int) -> Bytes:
    """Return one resized image with the same pixels as from a cache, including the JPEG encoding if the cache uses it."""
    content, facts = images.read(index)
    height, width = facts.shape
    if images.encoded:
        return decode_known_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), height, width)
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)
