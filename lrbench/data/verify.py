"""Verifying a task's images: decode all of them, and find test images that are also training images."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.machine import available_cores
from lrbench.data.decode import UndecodableImage, collect_findings
from lrbench.data.examples import SplitName, TaskData
from lrbench.data.memory_budget import DecodingBudget

_IMAGES_PER_THREAD = 64
_DIGEST_BYTES = 16
# Rows hashed at a time, to avoid a copy of the whole image.
_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """An image that does not decode or is damaged."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RepeatedImage:
    """A test image whose pixels are identical to those of a training or validation image.

    Attributes:
        name: Name of the test image.
        split, other: Split and name of the first identical image.
        same_class: Whether both images have the same label.
    """

    name: str
    split: str
    other: str
    same_class: bool


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of verifying a task.

    Attributes:
        counts: Number of images by split.
        by_class: Number of images of each class, by split.
        bad: Images that do not decode or are damaged.
        repeated: Test images that are also in another split.
        oriented: Images whose metadata state that they are shown rotated or mirrored, by split; without empty splits.
    """

    counts: dict[str, int]
    by_class: dict[str, dict[str, int]]
    bad: tuple[BadImage, ...]
    repeated: tuple[RepeatedImage, ...]
    oriented: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _CheckedImage:
    """Result for one image.

    Attributes:
        bad: What is wrong with it, or None.
        digest: Hash of its pixels, or None if it does not decode.
        oriented: Whether its metadata state an orientation.
    """

    bad: BadImage | None
    digest: bytes | None
    oriented: bool


def verify(data: TaskData, control: Control) -> Verification:
    """Decode every image of a task once, on all cores.

    Raises:
        InterruptedWork: A stop was requested.
    """
    bad: list[BadImage] = []
    oriented: dict[str, list[str]] = {}
    # All zeros for an image that does not decode.
    digests = {name: np.zeros((len(split), _DIGEST_BYTES), np.uint8) for name, split in data.splits.items()}
    total, budget = sum(len(split) for split in data.splits.values()), DecodingBudget()
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        done = 0
        for block in _blocks(data):
            for (name, index), checked in zip(
                block, pool.map(lambda image: _check(data, budget, *image), block), strict=True
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
                raise InterruptedWork(f"stopped after {done:,} of {total:,} images, of which {len(bad):,} are bad.")
    by_class: dict[str, dict[str, int]] = {}
    for name, split in data.splits.items():
        counts = np.bincount(split.labels, minlength=len(data.classes)).tolist()
        by_class[name] = dict(zip(data.classes, counts, strict=True))
    return Verification(
        counts={name: len(split) for name, split in data.splits.items()},
        by_class=by_class,
        bad=tuple(bad),
        repeated=tuple(sorted(_find_repeated(data, digests), key=lambda image: image.name)),
        oriented={name: tuple(ids) for name, ids in oriented.items()},
    )


def _find_repeated(data: TaskData, digests: dict[SplitName, npt.NDArray[np.uint8]]) -> Iterator[RepeatedImage]:
    """Yield every test image that is also in another split."""
    test = data.splits["test"]
    test_images: dict[bytes, list[int]] = {}
    for index in np.flatnonzero(digests["test"].any(axis=1)).tolist():
        test_images.setdefault(digests["test"][index].tobytes(), []).append(index)
    # The dictionary holds the test split only: training may have a million images.
    for name, split in data.splits.items():
        for other, digest in enumerate(digests[name] if name != "test" else ()):
            for index in test_images.pop(digest.tobytes(), ()):
                yield RepeatedImage(
                    name=test.ids[index],
                    split=name,
                    other=split.ids[other],
                    same_class=bool(test.labels[index] == split.labels[other]),
                )


def _blocks(data: TaskData) -> Iterator[list[tuple[SplitName, int]]]:
    images = [(name, index) for name, split in data.splits.items() for index in range(len(split))]
    size = _IMAGES_PER_THREAD * available_cores()
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _check(data: TaskData, budget: DecodingBudget, split: SplitName, index: int) -> _CheckedImage:
    images = data.splits[split].images
    with collect_findings() as findings:
        try:
            with budget.one_image():
                pixels = images.read(index)
                digest = hashlib.sha256(str(pixels.shape).encode())
                for top in range(0, len(pixels), _ROWS):
                    digest.update(pixels[top : top + _ROWS].tobytes())
        except UndecodableImage as error:
            return _CheckedImage(BadImage(split=split, name=error.name, reason=error.reason), None, False)
    damage = findings.damage
    bad = None if damage is None else BadImage(split=split, name=damage.name, reason=damage.reason)
    return _CheckedImage(bad, digest.digest()[:_DIGEST_BYTES], findings.oriented is not None)
