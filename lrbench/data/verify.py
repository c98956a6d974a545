"""Opening every image of a task, and saying which are bad."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lrbench.control import Control
from lrbench.data.decode import UndecodableImage
from lrbench.data.decoding_room import DecodingRoom
from lrbench.data.examples import TaskData
from lrbench.errors import InterruptedWork
from lrbench.machine import cores_here

# Futures in flight for each thread: enough to keep them busy, few enough to hold no images to speak of.
_AHEAD = 64


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """An image that does not decode."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What verifying a task found.

    Attributes:
        counts: Number of images by split.
        by_class: Number of images of each class, by split.
        bad: Images that do not decode.
    """

    counts: dict[str, int]
    by_class: dict[str, dict[str, int]]
    bad: tuple[BadImage, ...]


def verify(data: TaskData, control: Control) -> Verification:
    """Decode every image once, on all cores.

    Raises:
        InterruptedWork: Asked to stop.
    """
    bad: list[BadImage] = []
    total, room = sum(len(split) for split in data.splits.values()), DecodingRoom()
    with ThreadPoolExecutor(max_workers=cores_here()) as pool:
        done = 0
        for block in _blocks(data):
            for problem in pool.map(lambda each: _check(data, room, *each), block):
                done += 1
                if problem is not None:
                    bad.append(problem)
            control.progress(done, total, "images")
            if control.stop_requested():
                raise InterruptedWork(f"stopped after {done:,} of {total:,} images; {len(bad)} bad ones so far.")
    by_class: dict[str, dict[str, int]] = {}
    for name, split in data.splits.items():
        counts = np.bincount(split.labels, minlength=len(data.classes)).tolist()
        by_class[name] = dict(zip(data.classes, counts, strict=True))
    return Verification(
        counts={name: len(split) for name, split in data.splits.items()}, by_class=by_class, bad=tuple(bad)
    )


def _blocks(data: TaskData) -> Iterator[list[tuple[str, int]]]:
    every: list[tuple[str, int]] = []
    for name, split in data.splits.items():
        every.extend((name, index) for index in range(len(split)))
    size = _AHEAD * cores_here()
    for start in range(0, len(every), size):
        yield every[start : start + size]


def _check(data: TaskData, room: DecodingRoom, split: str, index: int) -> BadImage | None:
    images = data.splits[split].images  # type: ignore[index]
    try:
        with room.one_image():
            images.read(index)
    except UndecodableImage as error:
        return BadImage(split=split, name=error.name, reason=error.reason)
    return None
