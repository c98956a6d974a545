"""The layouts, by the name that a task's TOML gives under `files.layout`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrbench.config.task import Task
from lrbench.data.layouts.folders import find_folders, read_folders
from lrbench.data.layouts.head_tests import (
    find_test_folders,
    find_test_labels,
    read_test_folders,
    read_test_labels,
)
from lrbench.data.layouts.hub import find_hub, read_hub
from lrbench.data.layouts.indexed import find_indexed, read_indexed
from lrbench.data.layouts.layout_data import LayoutData
from lrbench.data.layouts.lists import find_lists, read_lists
from lrbench.data.layouts.split_folders import find_split_folders, read_split_folders
from lrbench.data.layouts.table import find_table, read_table
from lrbench.data.layouts.torchvision import find_torchvision, read_torchvision


@dataclass(frozen=True)
class Layout:
    """One on-disk layout.

    Attributes:
        description: What is on disk, in one line.
        find: Takes the task, its `[files]` and the data roots. Returns the data set's folder, or None for data in a library's
            cache; reads no image list.
        read: Takes the same. Returns classes and splits; decodes no image.
    """

    description: str
    find: Callable[[Task, Any, Sequence[Path]], Path | None]
    read: Callable[[Task, Any, Sequence[Path]], LayoutData]


LAYOUTS: Mapping[str, Layout] = {
    "folders": Layout("one folder for each class; a rule or a list gives the split", find_folders, read_folders),
    "split-folders": Layout("train/<class>/ and test/<class>/", find_split_folders, read_split_folders),
    "lists": Layout("one text file of image names for each split", find_lists, read_lists),
    "table": Layout("CSV files with a column of images and a column of classes", find_table, read_table),
    "indexed": Layout("text files joined on an image id, as in CUB-200-2011", find_indexed, read_indexed),
    "hub": Layout("a Hugging Face data set, or a folder in one of its formats", find_hub, read_hub),
    "test-folders": Layout("test images of a classifier, in class folders", find_test_folders, read_test_folders),
    "test-labels": Layout("numbered test images with accepted classes in JSON", find_test_labels, read_test_labels),
    "torchvision": Layout("files that a class of torchvision.datasets reads", find_torchvision, read_torchvision),
}
