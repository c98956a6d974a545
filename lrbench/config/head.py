"""Tasks that only test: further test images for the classifier that a network was trained with."""

from typing import Annotated, Literal

from pydantic import Field

from lrbench.config.paths import Readable, ReadableOrMore
from lrbench.config.strict import Name, Strict

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Head(Strict):
    """Classifier that the task tests.

    Attributes:
        sources: Tasks on which a network of a suite may have been pretrained. Of other networks, the number of outputs decides.
        classes: File of the classifier's classes, one on each line in the order of its outputs, next to the task's TOML.
        sha256: Hash of that file.
    """

    sources: Annotated[tuple[Name, ...], Field(min_length=1)]
    classes: Readable
    sha256: Sha256


class TestFoldersFiles(Strict):
    """Test images in one folder for each class. A task with fewer classes than the classifier compares their scores only.

    Attributes:
        layout: Name of the layout.
        root: Folder of the class folders under the data root, or several candidates. A folder is named like a class of `head`,
            or by the class's position from 0.
    """

    __test__ = False

    layout: Literal["test-folders"]
    root: ReadableOrMore = "."


class TestLabelsFiles(Strict):
    """Numbered test images, and a JSON file that lists the accepted classes of image 1, 2, … as positions from 0.

    An image without accepted classes is not used.

    Attributes:
        layout: Name of the layout.
        root: Folder of the images under the data root, or several candidates. Images may be in folders of classes.
        labels: JSON file, or several candidates, in the image folder or one of the three folders above it.
        sha256: Hash of the JSON file.
    """

    __test__ = False

    layout: Literal["test-labels"]
    root: ReadableOrMore = "."
    labels: ReadableOrMore
    sha256: Sha256
