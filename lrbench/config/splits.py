"""How a task may say which of its images are for training and which for testing."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lrbench.config.paths import Readable
from lrbench.config.strict import Count, OneOrMore, Strict, WholeSeed


class FirstSplit(Strict):
    """Train on the first `train` images of each class, in the order of their names; test on the rest.

    This is how Caltech-256 is split by the code of the transfer papers that give it (files 1 to 60 of each class).

    Attributes:
        train: Training images of each class.
        test_images: At most so many test images of each class, the next in order; the others are left out.
    """

    kind: Literal["first"]
    train: Count
    test_images: Count | None = None


class ListedSplit(Strict):
    """A list of the test images, shipped beside the task's TOML; every other image is for training.

    Attributes:
        test: The list's file name, beside the TOML: one image a line, as `class/file` or as a file number. Its first lines
            may be comments, which begin with `# `.
        sha256: The list's own hash, so that two people with one hash have one split.
    """

    kind: Literal["listed"]
    test: Readable
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DrawnSplit(Strict):
    """A stratified test split drawn from the seed: the same images for everyone with the same files.

    The list of the images drawn is written down beside the results (`leaderboard/splits/`), in the form of a `listed`
    split, and its hash stands in each result.

    Attributes:
        test: Share of each class's images, rounded, at least one.
        train: Number of training images of each class, in place of `test`; the rest are for testing.
        test_images: At most so many test images of each class; the others that would be are left out.
        seed: Keys the draw.
    """

    kind: Literal["drawn"] = "drawn"
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    train: Count | None = None
    test_images: Count | None = None
    seed: WholeSeed = 0

    @model_validator(mode="after")
    def _one_rule(self) -> "DrawnSplit":
        if self.train is not None and "test" in self.model_fields_set:
            raise ValueError("give train (images a class) or test (a share), not both")
        return self


class ColumnSplit(Strict):
    """A column of the table says for what each image is.

    Attributes:
        name: The column.
        train: What it says of training images, or several such words.
        test: The same for test images.
        val: The same for validation images, where there are any.
    """

    kind: Literal["column"]
    name: str
    train: OneOrMore = "train"
    test: OneOrMore = "test"
    val: OneOrMore | None = None

    @model_validator(mode="after")
    def _one_split_each(self) -> "ColumnSplit":
        given = [each for each in (self.train, self.test, self.val) if each is not None]
        words = [word for each in given for word in ((each,) if isinstance(each, str) else each)]
        twice = [word for word in dict.fromkeys(words) if words.count(word) > 1]
        if twice:
            raise ValueError(f"the word {twice[0]!r} stands for more than one split")
        return self
