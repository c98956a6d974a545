"""Labelled images of a task and their splits, independent of the layout they were read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from lrbench.config.suite import Input
from lrbench.config.task import Task
from lrbench.core.files import sha256_bytes
from lrbench.data.jpeg import Bytes

SplitName = Literal["train", "val", "test", "conflict"]
"""Name of a split. `conflict` has images whose evidence contradicts itself, so that no label is right (synthetic data only)."""


class ImageSource(Protocol):
    """Reads the images of one split. Picklable, so that several processes can decode."""

    def read(self, index: int) -> Bytes:
        """Return image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: The image does not decode; the message names the file.
        """
        ...

    def stamp(self) -> str:
        """Return a text that changes with the image files (sizes and modification times), for the key of the pixel cache."""
        ...

    def content(self) -> str | None:
        """Return a text that identifies the images on any machine (sizes of files); None if nothing does."""
        ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a task.

    Attributes:
        ids: Stable name of each image, such as its path relative to the root of the data set. Shape `(N,)`.
        labels: Class index of each image. Shape `(N,)`, int64.
        images: Reads the images.
        annotations: Further labels of each image by name (synthetic data only). Shape `(N,)` each.
        groups: Group of each image, such as a patient, of which no two are in different splits; None if the task names none.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    images: ImageSource
    annotations: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    groups: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Identifies the data of a task, to detect changed data.

    Attributes:
        fingerprint: Hash of the classes and of the names and labels of all images.
        content: Hash of the sizes of the image files; None if images are not separate files.
    """

    fingerprint: str
    content: str | None = None

    def difference(self, before: "Identity") -> str | None:
        """Return how this data differs from earlier data, as the end of a sentence; None if it does not."""
        if self.fingerprint != before.fingerprint:
            return "now has different images, classes or splits"
        if self.content and before.content and self.content != before.content:
            return "now has images of the same names but different file sizes"
        return None


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Classes and splits of a task whose files were read.

    Attributes:
        task: The task.
        classes: Class names in the order of their labels.
        splits: `train` and `test`, and `val` and `conflict` if the data set has them.
        partial: Whether images are missing (and the user accepts that).
        problems: What is missing, as clauses.
        drawn: Sorted test images if lrbench drew the split; empty if the data set has its own split.
        edition: Identifies an edition of the data that image names do not distinguish, such as a revision.
        unused: Contents of class folders that are not used: folders, and files without an image ending.
        tolerant: Whether the user accepts incomplete data and damaged images.
    """

    task: Task
    classes: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    partial: bool = False
    problems: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    edition: str = ""
    unused: tuple[str, ...] = ()
    tolerant: bool = False

    @cached_property
    def drawn_list(self) -> str | None:
        """The drawn split as the content of a list for a `listed` split, one test image per line; None if none was drawn."""
        if not self.drawn:
            return None
        head = f"# The test images of {self.task.name}; all others are for training. Drawn by lrbench.\n"
        return head + "".join(f"{image}\n" for image in self.drawn)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the task name, the edition, the class names, and the ids and labels of all splits.

        It does not depend on the content of the images. Images without names (arrays, rows) are identified by their index.
        """
        lines = [self.task.name, *([self.edition] if self.edition else []), *self.classes]
        for name in ("train", "val", "test", "conflict"):
            split = self.splits.get(name)
            if split is not None:
                lines.append(f"\n[{name}]")
                lines.extend(f"{label}\t{image}" for image, label in zip(split.ids, split.labels, strict=True))
        return sha256_bytes("\n".join(lines).encode())

    @cached_property
    def identity(self) -> Identity:
        """The fingerprint, and the hash of the file sizes."""
        parts = [split.images.content() for _, split in sorted(self.splits.items())]
        content = None if None in parts else sha256_bytes("\n".join(map(str, parts)).encode())
        return Identity(fingerprint=self.fingerprint, content=content)


@dataclass(frozen=True, kw_only=True)
class EvaluationTransform:
    """Transform of every evaluation: resize the short side (or both sides), then crop the centre square.

    Attributes:
        size: Side of the square in pixels.
        resize: Length of the short side after resizing, at least `size`.
        interpolation: Filter, antialiased.
        squash: Whether both sides are resized to `resize`.
    """

    size: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"]
    squash: bool = False

    @classmethod
    def of(cls, settings: Input) -> "EvaluationTransform":
        """Return the transform for a network's input settings, as timm and torchvision: 224 at 0.875 resizes to 256."""
        return cls(
            size=settings.size,
            resize=max(settings.size, int(settings.size / settings.crop_fraction)),
            interpolation=settings.interpolation,
            squash=settings.crop_mode == "squash",
        )
