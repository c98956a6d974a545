"""Rules that divide a task's images into training and test images."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lrbench.config.paths import Readable
from lrbench.config.strict import Count, OneOrMore, Strict, WholeSeed


class FirstSplit(Strict):
    """Train on the first `train` images of each class by name, test on the rest.

    The published code of transfer papers splits Caltech-256 in this way (files 1 to 60 of each class).

    Attributes:
        kind: Name of the rule.
        train: Training images per class.
        test_images: Maximum number of test images per class, the next by name. The others are not used.
    """

    kind: Literal["first"]
    train: Count
    test_images: Count | None = None


class ListedSplit(Strict):
    """A list of the test images next to the task's TOML. All other images are for training.

    Attributes:
        kind: Name of the rule.
        test: File name of the list, relative to the TOML, with one image per line as `class/file` or file number. The first
            lines may be comments that start with `# `.
        sha256: Hash of the list, which identifies the split.
    """

    kind: Literal["listed"]
    test: Readable
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Group(Strict):
    """Rule that finds the images of one patient, scene or video. Exactly one key is set.

    Attributes:
        column: Column of the table with the group of each image.
        pattern: Regular expression that occurs in the image's path; the group is its first part in parentheses, or all of it.
        level: Position of a folder in the image's path that is the group, from 1.
    """

    column: str | None = None
    pattern: Annotated[str, Field(max_length=500)] | None = None
    level: Annotated[int, Field(ge=1, le=64)] | None = None

    @model_validator(mode="after")
    def _check_rule(self) -> "Group":
        if sum(value is not None for value in (self.column, self.pattern, self.level)) != 1:
            raise ValueError("give exactly one of column, pattern and level")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
        return self


class DrawnSplit(Strict):
    """A stratified test split drawn from the seed, identical for everyone with the same files.

    The list of drawn images is written to `leaderboard/splits/`, in the format of a `listed` split, and each result records
    its hash.

    Attributes:
        kind: Name of the rule.
        test: Share of each class's images for testing, rounded, at least one image.
        train: Training images per class, instead of `test`. The rest are for testing.
        test_images: Maximum number of test images per class. The others are not used.
        seed: Seed of the draw.
        group: Images of one group are all in the same split, also in the validation split that a transfer holds out.
    """

    kind: Literal["drawn"] = "drawn"
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    train: Count | None = None
    test_images: Count | None = None
    seed: WholeSeed = 0
    group: Group | None = None

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps results valid that are older than the key.
        content: dict[str, Any] = write(self)
        if self.group is None:
            content.pop("group", None)
        return content

    @model_validator(mode="after")
    def _check_rule(self) -> "DrawnSplit":
        if self.group is not None and (self.train is not None or self.test_images is not None):
            raise ValueError("group divides whole groups by a share: give test, not train or test_images")
        if self.train is not None and "test" in self.model_fields_set:
            raise ValueError("give train (images per class) or test (a share), not both")
        return self


class ColumnSplit(Strict):
    """A column of the table with the split of each image.

    Attributes:
        kind: Name of the rule.
        name: Name of the column.
        train: Value, or several values, for training images.
        test: The same for test images.
        val: The same for validation images, if there are any.
    """

    kind: Literal["column"]
    name: str
    train: OneOrMore = "train"
    test: OneOrMore = "test"
    val: OneOrMore | None = None

    @model_validator(mode="after")
    def _check_unique(self) -> "ColumnSplit":
        values = [
            value
            for names in (self.train, self.test, self.val)
            if names is not None
            for value in ((names,) if isinstance(names, str) else names)
        ]
        duplicates = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if duplicates:
            raise ValueError(f"the value {duplicates[0]!r} names more than one split")
        return self
