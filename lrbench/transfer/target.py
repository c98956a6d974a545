"""A target task, prepared for the input of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrbench.config import load_task
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.memo import memoised
from lrbench.data.examples import EvaluationTransform, Identity, TaskData
from lrbench.data.pixels import Pixels, Shard
from lrbench.data.prepare import prepare_task
from lrbench.transfer.selection import number_groups, validation_split


@dataclass(frozen=True, kw_only=True)
class Development:
    """Training and validation images, whose labels a protocol may read.

    Attributes:
        pixels: Pixels of the images, training images first.
        labels: Shape `(N,)`.
        ids: Name of each image.
        given: Positions of the images of the data set's validation split; empty without one.
        groups: Number of each image's group, of which no two images are separated. Shape `(N,)`; None without groups.
    """

    pixels: "JoinedPixels"
    labels: npt.NDArray[np.int64]
    ids: Sequence[str]
    given: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64] | None = None

    def split(self, fraction: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return positions to train on and to select on: the data set's validation split, or else a stratified fraction."""
        if len(self.given):
            return np.setdiff1d(np.arange(len(self.labels)), self.given), self.given
        return validation_split(self.labels, fraction, seed, self.groups)


class JoinedPixels:
    """Pixels of several splits, concatenated."""

    def __init__(self, parts: Sequence[Pixels]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def evaluation(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return evaluation crops. Shape `(B, S, S, 3)`."""
        if len(self._parts) == 1:
            return self._parts[0].evaluation(indices)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        crops = [
            self._parts[owner].evaluation(indices[position : position + 1] - self._starts[owner])
            for position, owner in enumerate(owners)
        ]
        return np.concatenate(crops)

    @property
    def plain(self) -> Sequence[Shard] | None:
        """All images as uncompressed pixels, or None if some are compressed."""
        parts = [part.plain for part in self._parts]
        return None if None in parts else [shard for part in parts for shard in part or ()]

    def resized(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one resized image, not cropped. Shape `(h, w, 3)`."""
        owner = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[owner].resized(int(index - self._starts[owner]))


@dataclass(frozen=True, kw_only=True)
class Target:
    """A prepared target task.

    Attributes:
        data: Classes and splits.
        identity: Hashes of the images and labels.
        transform: Evaluation transform of the pixels.
        development: Training and validation images with labels.
        test: Test images. Their labels stay sealed until a choice is frozen.
    """

    data: TaskData
    identity: Identity
    transform: EvaluationTransform
    development: Development
    test: Pixels


@memoised(16)
def open_target(
    task: str, settings: Input, roots: Sequence[Path], partial: bool, cache: Path | None, control: Control
) -> Target:
    """Prepare a target for a network's input; the process remembers the latest ones for its next snapshots.

    Raises:
        InputError: The data is missing or incomplete, or an image does not decode.
    """
    load_task(task).require_training_images()
    prepared = prepare_task(task, settings, None, roots=roots, partial=partial, cache=cache, control=control)
    data, pixels = prepared.data, prepared.pixels
    names = [name for name in ("train", "val") if name in data.splits]
    trained = len(data.splits["train"])
    labels = np.concatenate([data.splits[name].labels for name in names])  # type: ignore[index]
    return Target(
        data=data,
        identity=data.identity,
        transform=prepared.transform,
        development=Development(
            pixels=JoinedPixels([pixels[name] for name in names]),  # type: ignore[index]
            labels=labels,
            ids=[image for name in names for image in data.splits[name].ids],  # type: ignore[index]
            given=np.arange(trained, len(labels)),
            groups=number_groups([data.splits[name].groups for name in names]),  # type: ignore[index]
        ),
        test=pixels["test"],
    )
