"""Examples: which images a task has, their labels and splits, whatever the layout they came from."""

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

SplitName = Literal["train", "val", "test"]


class ImageSource(Protocol):
    """Reads the images of one split; made picklable, so that several processes can decode."""

    def read(self, index: int) -> Bytes:
        """Image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: The image does not decode; the message names the file.
        """
        ...

    def stamp(self) -> str:
        """What changes when the images' content changes (sizes and modification times): keys the prepared cache."""
        ...

    def content(self) -> str | None:
        """What tells images from others of the same names on any machine (files' sizes); None where nothing does."""
        ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a task.

    Attributes:
        ids: A stable name of each image, such as its path relative to the data set's root. Shape `(N,)`.
        labels: Class index of each image. Shape `(N,)`, int64.
        images: Reads the images.
        annotations: What else is known of each image (embedded world only), by name. Shape `(N,)` each.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    images: ImageSource
    annotations: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """By what a task's data is told from other data of the same task.

    Attributes:
        fingerprint: Of its classes and of every split's names and labels.
        content: Of its images' files, by their sizes; None where the images do not lie in files of their own.
    """

    fingerprint: str
    content: str | None = None

    def difference(self, before: "Identity") -> str | None:
        """What this data has otherwise than data seen before, in words after the task's name; None where nothing."""
        if self.fingerprint != before.fingerprint:
            return "has other images, classes or splits now"
        if self.content and before.content and self.content != before.content:
            return "has images of the same names but of other sizes in bytes now"
        return None


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A task whose files were found: its classes and splits.

    Attributes:
        task: What the TOML says.
        classes: Class names in the order of their labels.
        splits: `train` and `test`, and `val` where the data set has one.
        partial: True when images are missing and the user said that this is all right.
        problems: What is missing, in words, when partial.
        drawn: The test images where lrbench drew the split, sorted; empty where the data set brings one.
        edition: What tells this data from another edition of it where its images' names do not, such as a revision.
        unused: What lies in class folders and is not used: files that are no images by their endings, and folders.
        tolerant: Whether the user accepts data that is not whole, which holds for damaged images too.
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
        """The drawn split as a file that a `listed` split can name: one test image a line; None where none was drawn."""
        if not self.drawn:
            return None
        head = f"# The test images of {self.task.name}; all others are for training. Drawn by lrbench.\n"
        return head + "".join(f"{image}\n" for image in self.drawn)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the edition, the class names and every split's ids and labels.

        Equal where task, classes, splits and the images' names are: what is in the images is not looked at. Images without
        names (arrays, rows) are known by their places.
        """
        lines = [self.task.name, *([self.edition] if self.edition else []), *self.classes]
        for name in ("train", "val", "test"):
            split = self.splits.get(name)
            if split is not None:
                lines.append(f"\n[{name}]")
                lines.extend(f"{label}\t{image}" for image, label in zip(split.ids, split.labels, strict=True))
        return sha256_bytes("\n".join(lines).encode())

    @cached_property
    def identity(self) -> Identity:
        """The fingerprint, and what the images' files say beside it."""
        parts = [split.images.content() for _, split in sorted(self.splits.items())]
        content = None if None in parts else sha256_bytes("\n".join(map(str, parts)).encode())
        return Identity(fingerprint=self.fingerprint, content=content)


@dataclass(frozen=True, kw_only=True)
class EvaluationTransform:
    """Resize the short side (or both), then cut the centre square: the transform of every evaluation.

    Attributes:
        size: Side of the square in pixels.
        resize: Length of the short side after resizing, at least `size`.
        interpolation: Pillow's filter, antialiased.
        squash: Whether the long side becomes as long as the short one, too.
    """

    size: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"]
    squash: bool = False

    @classmethod
    def of(cls, settings: Input) -> "EvaluationTransform":
        """The transform of a network's input; timm and torchvision state it alike: 224 at 0.875 resizes to 256."""
        return cls(
            size=settings.size,
            resize=max(settings.size, int(settings.size / settings.crop_fraction)),
            interpolation=settings.interpolation,
            squash=settings.crop_mode == "squash",
        )
