"""Tasks: labelled image-classification data sets with official splits and a headline metric."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from lrbench.config.paths import Address, Below, FileName, NamedBelow, Readable, ReadableOrMore, download_name
from lrbench.config.splits import ColumnSplit, DrawnSplit, FirstSplit, ListedSplit
from lrbench.config.strict import Arguments, Count, Finite, Name, Strict, Text, WholeSeed

Metric = Literal["top1", "mean_per_class"]
METRIC_NAMES = {"top1": "top-1", "mean_per_class": "mean per class"}


class FoldersFiles(Strict):
    """One folder per class in `root`, divided by `split`.

    Attributes:
        exclude: Folders that are not classes.
    """

    layout: Literal["folders"]
    root: ReadableOrMore = "."
    exclude: tuple[str, ...] = ()
    split: Annotated[FirstSplit | ListedSplit | DrawnSplit, Field(discriminator="kind")] = DrawnSplit()

    @model_validator(mode="after")
    def _check_group(self) -> "FoldersFiles":
        if isinstance(self.split, DrawnSplit) and self.split.group is not None and self.split.group.column is not None:
            raise ValueError('split.group.column needs a table (layout = "table"): use pattern for class folders')
        return self


class SplitFoldersFiles(Strict):
    """`train/<class>/…` and `test/<class>/…`, and optionally `val/<class>/…` for selection.

    Attributes:
        flat_labels: Candidates for the labels of a folder without class folders; the first that exists is used. A CSV file of
            image and class, a text file of image and class index, torchvision's `meta.bin`, or ImageNet's development kit,
            in the root or one of the three folders above it.
        every: Use every n-th class in the order of their names, from the first, for a smaller task on the same files.
    """

    layout: Literal["split-folders"]
    root: ReadableOrMore = "."
    train: Readable = "train"
    test: Readable = "test"
    val: Readable | None = None
    flat_labels: tuple[Readable, ...] = ()
    every: Count = 1


class ListsFiles(Strict):
    """Text files that name each split's images.

    Attributes:
        images: Folder of the images, relative to the root, or several candidates.
        train: File that names the training images, or several candidates, in the root or next to the image folder.
        test: The same for the test images.
        val: The same for validation images, if the data set has them.
        label: `folder` if the image's folder is the class; `path` if the whole path above the image is (as in SUN397, whose
            classes are two or three folders deep); `column` if each line ends in the class index.
        hashes: `md5:…` or `sha256:…` of the list files, by split. A file with another hash is refused as incomplete.
    """

    layout: Literal["lists"]
    root: ReadableOrMore = "."
    images: ReadableOrMore = "."
    train: ReadableOrMore
    test: ReadableOrMore
    val: ReadableOrMore | None = None
    label: Literal["folder", "path", "column"] = "folder"
    hashes: dict[Literal["train", "val", "test"], str] = {}

    @field_validator("hashes")
    @classmethod
    def _known_algorithm(cls, hashes: dict[str, str]) -> dict[str, str]:
        for split, value in hashes.items():
            if not value.startswith(("md5:", "sha256:")):
                raise ValueError(f"the hash of {split} must start with md5: or sha256:, not {value!r}")
        return hashes


class TableFiles(Strict):
    """Tables with a header (CSV) of images and classes: one per split, or one that `split` divides.

    Attributes:
        images: Folder of the images, relative to the root, or several candidates.
        file: Table of all images, or several candidates, in the root or next to the image folder.
        train: Table of the training images, instead of `file`.
        test: Table of the test images.
        val: Table of the validation images, if there is one.
        image: Column of the images' paths. Default: the first.
        label: Column of the classes. Default: the second.
        ending: Extension to append to the paths, such as `.jpg`.
        separator: Column separator. Default: a tab in `.tsv` files, else a comma.
        split: Rule that divides the images of `file`.
    """

    layout: Literal["table"]
    root: ReadableOrMore = "."
    images: ReadableOrMore = "."
    file: ReadableOrMore | None = None
    train: ReadableOrMore | None = None
    test: ReadableOrMore | None = None
    val: ReadableOrMore | None = None
    image: str | None = None
    label: str | None = None
    ending: str = ""
    separator: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = None
    split: Annotated[ColumnSplit | FirstSplit | ListedSplit | DrawnSplit, Field(discriminator="kind")] = DrawnSplit()

    @model_validator(mode="after")
    def _check_tables(self) -> "TableFiles":
        tables = [table for table in (self.train, self.test, self.val) if table is not None]
        if self.file is None and (self.train is None or self.test is None):
            raise ValueError(
                "name one table of all images (file), or one each for training and test images (train and test)"
            )
        if self.file is not None and tables:
            raise ValueError("name one table of all images (file), or one for each split (train, test, val), not both")
        if self.file is None and "split" in self.model_fields_set:
            raise ValueError("split divides one table of all images (file), but each split has a table here")
        return self


class IndexedFiles(Strict):
    """Text files that are joined on an image id (not on the line number), as in CUB-200-2011 and NABirds."""

    layout: Literal["indexed"]
    root: ReadableOrMore = "."
    folder: Readable = "images"
    images: Readable = "images.txt"
    labels: Readable = "image_class_labels.txt"
    split: Readable = "train_test_split.txt"
    classes: Readable = "classes.txt"


def _require_train_and_test(splits: dict[str, Any]) -> dict[str, Any]:
    missing = [split for split in ("train", "test") if split not in splits]
    if missing:
        raise ValueError(f"there is no {missing[0]!r} among {sorted(splits)}: name both training and test images")
    return splits


class HubFiles(Strict):
    """A Hugging Face data set, read with `datasets` at a pinned revision.

    Attributes:
        id: `owner/name`, or a folder of Parquet or image files.
        revision: Commit hash or tag. Results of different revisions are not compared. Not needed for a folder, which is
            identified by the sizes of its images.
        splits: Names of the data set's splits, such as `test = "validation"`.
        label_offset: Subtracted from every label, for data sets that count from 1.
    """

    layout: Literal["hub"]
    id: Text
    revision: Text | None = None
    config: Text | None = None
    image: Text = "image"
    label: Text = "label"
    splits: dict[Literal["train", "val", "test"], Text] = {"train": "train", "test": "test"}
    label_offset: Annotated[int, Field(ge=-(1 << 31), le=1 << 31)] = 0

    @field_validator("splits")
    @classmethod
    def _train_and_test(cls, splits: dict[str, str]) -> dict[str, str]:
        return _require_train_and_test(splits)


class TorchvisionFiles(Strict):
    """A class of `torchvision.datasets`, created for each split.

    Attributes:
        dataset: Name of the class.
        splits: Keyword arguments by split, such as `train = { split = "trainval" }`.
        root: Argument `root` of the class, relative to the data root.
    """

    layout: Literal["torchvision"]
    dataset: Text
    root: ReadableOrMore = "."
    splits: dict[Literal["train", "val", "test"], Arguments]

    @field_validator("splits")
    @classmethod
    def _check_arguments(cls, splits: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for split, arguments in splits.items():
            reserved = sorted({"root", "download"} & arguments.keys())
            if reserved:
                raise ValueError(f"{split} holds {reserved[0]!r}, which lrbench sets: remove it")
        return _require_train_and_test(splits)


class SyntheticFiles(Strict):
    """Images generated from a seed or included in a library, without download.

    Attributes:
        generator: Part of the synthetic world (`source`, `objects`, `birds`, `indoor`, `sketch`), `ps10` or `digits`.
        size: Side of the square images in pixels.
        train: Number of training images.
        test: Number of test images.
        options: Parameters of the generator.
    """

    layout: Literal["synthetic"]
    generator: Text
    size: Annotated[int, Field(ge=16, le=1_024)] = 48
    seed: WholeSeed = 0
    train: Annotated[int, Field(gt=0, le=10_000_000)]
    test: Annotated[int, Field(gt=0, le=10_000_000)]
    options: dict[str, int | Finite] = {}


Files = Annotated[
    FoldersFiles
    | SplitFoldersFiles
    | ListsFiles
    | TableFiles
    | IndexedFiles
    | HubFiles
    | TorchvisionFiles
    | SyntheticFiles,
    Field(discriminator="layout"),
]


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
        sanity: Expected range of the headline (a fraction) of a ResNet-50 pretrained on ImageNet, by protocol. A result
            outside it may indicate a problem with the data or the weights.
    """

    homepage: str | None = None
    licence: str | None = None
    citation: str | None = None
    notes: tuple[str, ...] = ()
    sanity: dict[Literal["probe", "finetune"], tuple[Finite, Finite]] = {}


class Prepare(Strict):
    """Format of the pixel cache: `pixels` (uint8, exact) or `jpeg` (re-encoded, for the largest data sets)."""

    format: Literal["pixels", "jpeg"] = "pixels"
    quality: Annotated[int, Field(ge=1, le=100)] = 90


class Task(Strict):
    """One task.

    A TOML may start with `like = "caltech256"` to take its missing keys from that registered task. Tables are replaced as a
    whole, except `files`, `prepare` and `about`, which are merged key by key.

    Attributes:
        name: Name on the command line and in results.
        metric: Headline metric that publications report for the data set.
        classes: Number of classes. Default: counted from the files.
        counts: Number of images by split. Data with fewer images is incomplete.
        least: Minimum number of images per class, by split. A class with fewer images is incomplete.
        most: Maximum number of images per class, by split. A class with more images contains those of another.
        groups: Names of groups of tasks that it belongs to, for `lrbench transfer --tasks GROUP`.
        untrained_classes: Whether classes may have test images without training images, as in draws of VTAB-1k. Their images
            count as wrong.
        orientation: `upright` applies the orientation in the images' metadata, `stored` ignores it. Default: `stored` for
            shipped tasks; in other tasks, images with an orientation are refused.
        manual: How to get the data by hand when it cannot be downloaded.
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

    @model_validator(mode="after")
    def _check_counts(self) -> "Task":
        if self.classes and "train" in self.counts and self.counts["train"] < self.classes:
            raise ValueError(
                f"counts.train is {self.counts['train']}, less than the number of classes ({self.classes}): each class needs "
                "at least one training image"
            )
        return self
