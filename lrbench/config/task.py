"""Tasks: labelled image-classification data sets with official splits and a headline metric."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from lrbench.config.files import Files, SyntheticFiles
from lrbench.config.head import Head, TestFoldersFiles, TestLabelsFiles
from lrbench.config.paths import Address, Below, FileName, NamedBelow, download_name
from lrbench.config.strict import Count, Finite, Name, Strict, Text
from lrbench.core.errors import InputError

Metric = Literal["top1", "mean_per_class"]
METRIC_NAMES = {"top1": "top-1", "mean_per_class": "mean per class"}


class Archive(Strict):
    """One file to download.

    Attributes:
        url: Official address.
        mirrors: Addresses to try in order when the official one fails.
        md5: Published MD5 hash, if there is one.
        sha256: Published SHA-256 hash, if there is one.
        bytes: Size, checked when no hash is published.
        unpacks_to: Folder that unpacking creates; None for a file that is not unpacked.
        inner: File name of the archive inside this one that holds the folder; None if this one holds it.
        images: Number of image files in it. Fewer files mean that unpacking was interrupted.
        into: Folder to unpack in, or to store the file in, relative to the data root.
    """

    url: Address
    mirrors: tuple[Address, ...] = ()
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    bytes: Annotated[int, Field(gt=0, le=10**15)] | None = None
    unpacks_to: NamedBelow | None = None
    inner: FileName | None = None
    images: Count | None = None
    into: Below = "."

    @model_validator(mode="after")
    def _check_unpacks_to(self) -> "Archive":
        if self.unpacks_to == download_name(self.url):
            raise ValueError(
                f"unpacks_to is {self.unpacks_to!r}, which is also the downloaded file's name: get this data by hand"
            )
        return self


class About(Strict):
    """Information on the data for readers of results.

    Attributes:
        homepage: Page of the data set.
        licence: Its licence.
        citation: Publication to cite.
        notes: Notes that are shown with every result.
        sanity: Expected range of the headline (a fraction) of a ResNet-50 pretrained on ImageNet, by protocol. A result
            outside it may indicate a problem with the data or the weights.
    """

    homepage: str | None = None
    licence: str | None = None
    citation: str | None = None
    notes: tuple[str, ...] = ()
    sanity: dict[Literal["probe", "finetune"], tuple[Finite, Finite]] = {}


class Prepare(Strict):
    """Format of the pixel cache.

    Attributes:
        format: `pixels` (uint8, exact) or `jpeg` (re-encoded, for the largest data sets). `lrbench data prepare` measures which
            would feed training faster from this disk.
        quality: JPEG quality.
    """

    format: Literal["pixels", "jpeg"] = "pixels"
    quality: Annotated[int, Field(ge=1, le=100)] = 90


class Task(Strict):
    """One task.

    A TOML may start with `like = "caltech256"` to take its missing keys from that registered task. Tables are replaced as a
    whole, except `files` of the same layout, `prepare` and `about`, which are merged key by key.

    Attributes:
        name: Name on the command line and in results: lowercase letters, digits, `.`, `_` and `-`.
        title: Longer name on pages. Default: the name.
        metric: Headline metric that publications report for the data set.
        classes: Number of classes; data with another number is refused as incomplete. Default: counted.
        counts: Number of images by split, as `{ train = 5994, test = 5794 }`; data with another number is incomplete. Default:
            counted.
        least: Smallest number of images per class, by split, as `{ train = 732 }`. A class with fewer images is incomplete.
        most: Largest number of images per class, by split. A class with more images contains those of another.
        groups: Names of groups of tasks that it belongs to, for `lrbench transfer --tasks GROUP`.
        untrained_classes: Whether classes may have test images without training images, as in draws of VTAB-1k. Their images
            count as wrong.
        orientation: `upright` applies the orientation in the images' metadata, `stored` ignores it. Without it, images with an
            orientation are refused, except in shipped tasks, which ignore it.
        head: Classifier that a task without training images tests.
        files: Layout of the images on disk.
        archives: Downloads of `lrbench data fetch`.
        manual: How to get the data by hand when it cannot be downloaded.
        prepare: Format of the pixel cache.
        about: Origin of the data, and notes.
    """

    name: Name
    title: Text = ""
    metric: Metric = "top1"
    classes: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    counts: dict[Literal["train", "val", "test"], Count] = {}
    least: dict[Literal["train", "val", "test"], Count] = {}
    most: dict[Literal["train", "val", "test"], Count] = {}
    groups: tuple[Name, ...] = ()
    untrained_classes: bool = False
    orientation: Literal["stored", "upright"] | None = None
    head: Head | None = None
    files: Files
    archives: Annotated[tuple[Archive, ...], Field(max_length=100)] = ()
    manual: str | None = None
    prepare: Prepare = Prepare()
    about: About = About()

    # Not fields, because the file's path must not enter hashes and records of the task.
    _path: Path | None = PrivateAttr(default=None)
    _registered: bool = PrivateAttr(default=True)

    def read_from(self, path: Path, *, registered: bool) -> None:
        """Record the file that the task was read from.

        Args:
            path: The TOML file, as the user gave it if it is not registered.
            registered: True if the file can be found by the task's name.
        """
        self._path, self._registered = path, registered

    @property
    def display_title(self) -> str:
        """Title, or the name of a task without one."""
        return self.title or self.name

    @property
    def upright(self) -> bool:
        """True when the orientation in the images' metadata is applied."""
        return self.orientation == "upright"

    @property
    def has_known_evidence(self) -> bool:
        """True if wrong labels and the evidence in each image are known, as in some generated tasks."""
        return isinstance(self.files, SyntheticFiles) and self.files.generator in {"source", "ps10"}

    @property
    def argument(self) -> str:
        """Argument that selects the task on a command line: its name, or the path of an unregistered TOML."""
        return self.name if self._registered or self._path is None else shlex.quote(str(self._path))

    @property
    def path(self) -> Path | None:
        """TOML file of the task, or None."""
        return self._path

    @property
    def folder(self) -> Path | None:
        """Folder of the TOML file, which also holds split lists, or None."""
        return None if self._path is None else self._path.parent

    def require_training_images(self, where: str = "") -> None:
        """Refuse a task that only tests a classifier.

        Args:
            where: Start of the error, for a task that a file names.

        Raises:
            InputError: It has no training images.
        """
        if self.head is not None:
            raise InputError(
                f"{where}{self.name} has only test images, for classifiers of networks trained on "
                f"{' or '.join(self.head.sources)}. Use `lrbench transfer --protocol head`, or choose a task with training "
                "images."
            )

    @model_validator(mode="after")
    def _check_head(self) -> "Task":
        tests = isinstance(self.files, TestFoldersFiles | TestLabelsFiles)
        if tests and self.head is None:
            raise ValueError(
                f"the layout {self.files.layout!r} has no training images: add a table [head], or use another layout"
            )
        if self.head is not None and not tests:
            raise ValueError(
                f"a task with [head] has the layout 'test-folders' or 'test-labels', not {self.files.layout!r}"
            )
        return self

    @model_validator(mode="after")
    def _check_counts(self) -> "Task":
        if self.classes and "train" in self.counts and self.counts["train"] < self.classes:
            raise ValueError(
                f"counts.train is {self.counts['train']}, less than the number of classes ({self.classes}): each class needs "
                "at least one training image"
            )
        return self
