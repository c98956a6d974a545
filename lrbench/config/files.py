"""Layouts: how the images of a task are stored, as the `[files]` table of its TOML."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lrbench.config.head import TestFoldersFiles, TestLabelsFiles
from lrbench.config.paths import Readable, ReadableOrMore
from lrbench.config.splits import ColumnSplit, DrawnSplit, FirstSplit, ListedSplit
from lrbench.config.strict import Arguments, Count, Finite, Strict, Text, WholeSeed


class FoldersFiles(Strict):
    """One folder per class in `root`, divided by `split`.

    Attributes:
        layout: Name of the layout.
        root: Folder of the class folders under the data root, or several candidates.
        exclude: Folders that are not classes; a name that nearly matches an existing folder is refused.
        split: Rule that selects the test images, see below. Default: a fifth of each class, drawn.
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
        layout: Name of the layout.
        root: Folder of the splits, or several candidates.
        train: Folder of the training images.
        test: Folder of the test images.
        val: Folder of validation images; without it, a share of each class of `train` is held out.
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
        layout: Name of the layout.
        root: Folder of the lists and the images, or several candidates.
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
        layout: Name of the layout.
        root: Folder of the tables and the images, or several candidates.
        images: Folder of the images, relative to the root, or several candidates.
        file: Table of all images, or several candidates, in the root or next to the image folder.
        train: Table of the training images, instead of `file`.
        test: Table of the test images.
        val: Table of the validation images, if there is one.
        image: Column of the images' paths. Default: the first.
        label: Column of the classes. Default: the second.
        ending: Extension to append to the paths, such as `.jpg`.
        separator: Column separator. Default: a tab in `.tsv` files, else a comma.
        split: Rule that divides the images of `file`, see below. Default: a fifth of each class, drawn.
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
    """Text files that are joined on an image id (not on the line number), as in CUB-200-2011 and NABirds.

    Attributes:
        layout: Name of the layout.
        root: Folder of the text files, or several candidates.
        folder: Folder of the images.
        images: File of ids and images.
        labels: File of ids and classes.
        split: File of ids and 1 for training, 0 for testing.
        classes: File of classes and their names.
    """

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
        layout: Name of the layout.
        id: `owner/name`, or a folder of Parquet or image files.
        revision: Commit hash or tag. Results of different revisions are not compared. Not needed for a folder, which is
            identified by the sizes of its images.
        config: Configuration of the data set.
        image: Column of the images. Images given as paths are read inside the data set's folder only.
        label: Column of the labels.
        splits: Names of the data set's splits, as `{ train = "train", test = "validation" }`.
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
        layout: Name of the layout.
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
        layout: Name of the layout.
        generator: Part of the synthetic world (`source`, `objects`, `birds`, `indoor`, `sketch`), `ps10` or `digits`.
        size: Side of the square images in pixels.
        train: Number of training images.
        test: Number of test images.
        seed: Seed of the generator.
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
    | SyntheticFiles
    | TestFoldersFiles
    | TestLabelsFiles,
    Field(discriminator="layout"),
]
