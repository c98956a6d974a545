"""What a task is: a labelled image-classification data set with its official splits and headline metric."""

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
    """One folder a class under `root`; the split comes from `split`.

    Attributes:
        exclude: Folders that are no classes.
    """

    layout: Literal["folders"]
    root: ReadableOrMore = "."
    exclude: tuple[str, ...] = ()
    split: Annotated[FirstSplit | ListedSplit | DrawnSplit, Field(discriminator="kind")] = DrawnSplit()


class SplitFoldersFiles(Strict):
    """`train/<class>/…` and `test/<class>/…`, with `val/<class>/…` for selection where it is given.

    Attributes:
        flat_labels: What may say the labels of a folder whose images lie in it directly, the first that is found: a CSV file
            of image and class, a text file of image and class index, torchvision's `meta.bin`, or ImageNet's development
            kit. Sought in the root and the three folders above.
        every: Take every so-many-th class, of the classes sorted by name, from the first: a smaller task in the same files.
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
        images: Folder of the images, relative to the root, or several to try.
        train: File naming the training images, or several to try, sought in the root and beside the image folder.
        test: The same for the test images.
        val: The same for validation images, where the data set has them.
        label: `folder` when the class is the image's own folder; `path` when it is the whole path above the image (as in
            SUN397, whose classes lie two and three folders deep); `column` when each line ends in a number that is the
            class's index.
        hashes: `md5:…` or `sha256:…` of the list files, by split; another hash is refused as half-copied.
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
    """Tables with a header (CSV) that name each image and its class: one for each split, or one that `split` divides.

    Attributes:
        images: Folder of the images, relative to the root, or several to try.
        file: The table of all images, or several names to try, sought in the root and beside the image folder.
        train: In place of `file`, the table of the training images.
        test: The table of the test images.
        val: The table of the validation images, where there is one.
        image: Column of the images' paths; by default the first.
        label: Column of their classes; by default the second.
        ending: What the paths lack of the files' names, as `.jpg`.
        separator: Between columns; by default a tab in `.tsv` files, a comma in others.
        split: Which images of `file` are for testing.
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
    def _one_way(self) -> "TableFiles":
        tables = [each for each in (self.train, self.test, self.val) if each is not None]
        if self.file is None and (self.train is None or self.test is None):
            raise ValueError(
                "name one table of all images (file), or those of training and test images (train and test)"
            )
        if self.file is not None and tables:
            raise ValueError("name one table of all images (file), or one for each split (train, test, val), not both")
        if self.file is None and "split" in self.model_fields_set:
            raise ValueError("split divides one table of all images (file); here each split has a table of its own")
        return self


class IndexedFiles(Strict):
    """Text files joined on an image id, as CUB-200-2011 and NABirds have them: never joined on the line number."""

    layout: Literal["indexed"]
    root: ReadableOrMore = "."
    folder: Readable = "images"
    images: Readable = "images.txt"
    labels: Readable = "image_class_labels.txt"
    split: Readable = "train_test_split.txt"
    classes: Readable = "classes.txt"


def _with_train_and_test(splits: dict[str, Any]) -> dict[str, Any]:
    missing = [split for split in ("train", "test") if split not in splits]
    if missing:
        raise ValueError(f"there is no {missing[0]!r} among {sorted(splits)}: name training and test images")
    return splits


class HubFiles(Strict):
    """A Hugging Face data set, read through `datasets` at a pinned revision.

    Attributes:
        id: `owner/name`, or a folder of Parquet or image files on disk.
        revision: Commit hash or tag; results of another revision are another task. Not needed for a folder on disk, whose
            images' sizes in bytes tell it from another.
        splits: Our split names to theirs, such as `test = "validation"`.
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
        return _with_train_and_test(splits)


class TorchvisionFiles(Strict):
    """A class of `torchvision.datasets`, built once a split with the arguments given for it.

    Attributes:
        dataset: The class's name.
        splits: Keyword arguments by split, such as `train = { split = "trainval" }`.
        root: Folder handed to the class as `root`, relative to the data root.
    """

    layout: Literal["torchvision"]
    dataset: Text
    root: ReadableOrMore = "."
    splits: dict[Literal["train", "val", "test"], Arguments]

    @field_validator("splits")
    @classmethod
    def _reading_only(cls, splits: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for split, arguments in splits.items():
            given = sorted({"root", "download"} & arguments.keys())
            if given:
                raise ValueError(f"{split} holds {given[0]!r}, which lrbench gives itself: leave it out")
        return _with_train_and_test(splits)


class SyntheticFiles(Strict):
    """Images made on the spot from a seed, or carried by a library: nothing to download.

    Attributes:
        generator: Which part of the embedded world (`source`, `objects`, `birds`, `indoor`, `sketch`) or `digits`.
        size: Side of the square images in pixels.
        train: Number of training images.
        test: Number of test images.
        options: The generator's own parameters.
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
        mirrors: Tried in order when the official address fails.
        md5: Published hash; `sha256` where that is what is published.
        bytes: Size, checked where no hash is published.
        unpacks_to: Folder that appears when it is unpacked; None for a file that is used as it is.
        inner: File name of the archive inside it that holds the folder; None where it does itself.
        images: Number of image files that it holds, junk not counted: fewer mean that unpacking was cut short.
        into: Folder to unpack in (or to put the file in), relative to the data root.
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
    def _folder_beside_file(self) -> "Archive":
        if self.unpacks_to == download_name(self.url):
            raise ValueError(
                f"unpacks_to is {self.unpacks_to!r}, which is the downloaded file's own name: a file and a folder cannot "
                "share it, so fetch this data by hand"
            )
        return self


class About(Strict):
    """What a reader of a result should know of the data.

    Attributes:
        sanity: By protocol, between which headlines (fractions) published figures and experience put a ResNet-50 pretrained
            on ImageNet; outside, something may be wrong with the data or the weights.
    """

    homepage: str | None = None
    licence: str | None = None
    citation: str | None = None
    notes: tuple[str, ...] = ()
    sanity: dict[Literal["probe", "finetune"], tuple[Finite, Finite]] = {}


class Prepare(Strict):
    """How the prepared cache keeps images: `pixels` (uint8, exact) or `jpeg` (re-encoded, for the largest sets)."""

    format: Literal["pixels", "jpeg"] = "pixels"
    quality: Annotated[int, Field(ge=1, le=100)] = 90


class Task(Strict):
    """One task, as its TOML says it.

    A TOML may begin with `like = "caltech256"`: what it does not say is then as in that registered task. Its keys stand for the
    whole, but in the tables `files`, `prepare` and `about`, where each key stands for itself.

    Attributes:
        name: What it is called on the command line and in results.
        metric: The headline: `top1` or `mean_per_class`, as the field reports this data set.
        classes: Number of classes; counted from the files when not pinned.
        counts: Number of images by split; data with fewer is half-copied.
        least: By split, as many images as any class of the whole data has at least; a class with fewer is half-copied.
        most: By split, as many as any class has at most; one with more holds another's images.
        orientation: Whether the orientation that images' metadata state is applied: `stored` (no) or `upright` (yes). Where a
            shipped task says nothing, it is not; where a user's says nothing, such images are refused.
        manual: How to get the data by hand where no download exists.
    """

    name: Name
    title: Text = ""
    metric: Metric = "top1"
    classes: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    counts: dict[Literal["train", "val", "test"], Count] = {}
    least: dict[Literal["train", "val", "test"], Count] = {}
    most: dict[Literal["train", "val", "test"], Count] = {}
    orientation: Literal["stored", "upright"] | None = None
    files: Files
    archives: Annotated[tuple[Archive, ...], Field(max_length=100)] = ()
    manual: str | None = None
    prepare: Prepare = Prepare()
    about: About = About()

    # Where the TOML was read. Not a field: it is no part of what the task is, so no hash or record of a task holds it.
    _path: Path | None = PrivateAttr(default=None)
    _registered: bool = PrivateAttr(default=True)

    def read_from(self, path: Path, *, registered: bool) -> None:
        """Remember which file the task was read from.

        Args:
            path: The TOML file, as the user gave it where it is not registered.
            registered: Whether the task's name alone finds the file again.
        """
        self._path, self._registered = path, registered

    @property
    def display_title(self) -> str:
        """The title, or else the name."""
        return self.title or self.name

    @property
    def upright(self) -> bool:
        """Whether the orientation that images' metadata state is applied."""
        return self.orientation == "upright"

    @property
    def argument(self) -> str:
        """What stands for the task on a command line: its name, or the path of a TOML that is not registered."""
        return self.name if self._registered or self._path is None else shlex.quote(str(self._path))

    @property
    def path(self) -> Path | None:
        """The TOML file; None for a task that was read from none."""
        return self._path

    @property
    def folder(self) -> Path | None:
        """The folder of the TOML file, where split lists lie beside it; None for a task that was read from no file."""
        return None if self._path is None else self._path.parent

    @model_validator(mode="after")
    def _counts_fit_classes(self) -> "Task":
        if self.classes and "train" in self.counts and self.counts["train"] < self.classes:
            raise ValueError(
                f"counts.train is {self.counts['train']}, fewer than the {self.classes} classes: each class needs at "
                "least one training image"
            )
        return self
