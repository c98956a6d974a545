"""Opening every image of a task: which are bad, which carry an orientation, and which test images are in training."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.machine import cores_here
from lrbench.data.decode import UndecodableImage, noticing
from lrbench.data.decoding_room import DecodingRoom
from lrbench.data.examples import SplitName, TaskData

# Futures in flight for each thread: enough to keep them busy, few enough to hold no images to speak of.
_AHEAD = 64
# Bytes of a hash of an image's pixels, and rows that are hashed at a time.
_DIGEST, _ROWS = 16, 64


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """An image that does not decode, or is damaged."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RepeatedImage:
    """A test image that is, pixel by pixel, a training or validation image too.

    Attributes:
        name: The test image.
        split, other: The first such image.
        same_class: Whether both have the same label.
    """

    name: str
    split: str
    other: str
    same_class: bool


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What verifying a task found.

    Attributes:
        counts: Number of images by split.
        by_class: Number of images of each class, by split.
        bad: Images that do not decode, or are damaged.
        repeated: Test images that are in training too.
        oriented: By split, images whose metadata say that they are to be shown turned or mirrored; only splits with such.
    """

    counts: dict[str, int]
    by_class: dict[str, dict[str, int]]
    bad: tuple[BadImage, ...]
    repeated: tuple[RepeatedImage, ...]
    oriented: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Checked:
    """What opening an image gave: what is wrong, a hash of its pixels (None where it does not decode), and its orientation."""

    bad: BadImage | None
    digest: bytes | None
    oriented: bool


def verify(data: TaskData, control: Control) -> Verification:
    """Decode every image once, on all cores.

    Raises:
        InterruptedWork: Asked to stop.
    """
    bad: list[BadImage] = []
    oriented: dict[str, list[str]] = {}
    # Zero for an image that is bad.
    digests = {name: np.zeros((len(split), _DIGEST), np.uint8) for name, split in data.splits.items()}
    total, room = sum(len(split) for split in data.splits.values()), DecodingRoom()
    with ThreadPoolExecutor(max_workers=cores_here()) as pool:
        done = 0
        for block in _blocks(data):
            for (name, index), checked in zip(
                block, pool.map(lambda image: _check(data, room, *image), block), strict=True
            ):
                done += 1
                if checked.bad is not None:
                    bad.append(checked.bad)
                if checked.digest is not None:
                    digests[name][index] = np.frombuffer(checked.digest, np.uint8)
                if checked.oriented:
                    oriented.setdefault(name, []).append(data.splits[name].ids[index])
            control.progress(done, total, "images")
            if control.stop_requested():
                raise InterruptedWork(f"stopped after {done:,} of {total:,} images; {len(bad)} bad ones so far.")
    by_class: dict[str, dict[str, int]] = {}
    for name, split in data.splits.items():
        counts = np.bincount(split.labels, minlength=len(data.classes)).tolist()
        by_class[name] = dict(zip(data.classes, counts, strict=True))
    return Verification(
        counts={name: len(split) for name, split in data.splits.items()},
        by_class=by_class,
        bad=tuple(bad),
        repeated=tuple(sorted(_repeated(data, digests), key=lambda each: each.name)),
        oriented={name: tuple(ids) for name, ids in oriented.items()},
    )


def _repeated(data: TaskData, digests: dict[SplitName, npt.NDArray[np.uint8]]) -> Iterator[RepeatedImage]:
    """Every test image that another split has too, with the first one there."""
    test = data.splits["test"]
    places: dict[bytes, list[int]] = {}
    for index in np.flatnonzero(digests["test"].any(axis=1)).tolist():
        places.setdefault(digests["test"][index].tobytes(), []).append(index)
    # Everything of the other splits is looked at and nothing of them is kept: they may have a million images.
    for name, split in data.splits.items():
        for other, digest in enumerate(digests[name] if name != "test" else ()):
            for index in places.pop(digest.tobytes(), ()):
                yield RepeatedImage(
                    name=test.ids[index],
                    split=name,
                    other=split.ids[other],
                    same_class=bool(test.labels[index] == split.labels[other]),
                )


def _blocks(data: TaskData) -> Iterator[list[tuple[SplitName, int]]]:
    every: list[tuple[SplitName, int]] = []
    for name, split in data.splits.items():
        every.extend((name, index) for index in range(len(split)))
    size = _AHEAD * cores_here()
    for start in range(0, len(every), size):
        yield every[start : start + size]


def _check(data: TaskData, room: DecodingRoom, split: SplitName, index: int) -> _Checked:
    images = data.splits[split].images
    with noticing() as remarks:
        try:
            with room.one_image():
                pixels = images.read(index)
                found = hashlib.sha256(str(pixels.shape).encode())
                # In pieces: a copy of a large photograph would take as much memory again.
                for top in range(0, len(pixels), _ROWS):
                    found.update(pixels[top : top + _ROWS].tobytes())
        except UndecodableImage as error:
            return _Checked(BadImage(split=split, name=error.name, reason=error.reason), None, False)
    damage = remarks.damage
    bad = None if damage is None else BadImage(split=split, name=damage.name, reason=damage.reason)
    return _Checked(bad, found.digest()[:_DIGEST], remarks.oriented is not None)
