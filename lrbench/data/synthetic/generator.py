"""The interface of a generator: what it is asked to render, its options, and the images it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.synthetic.stream import Stream

Integers = npt.NDArray[np.int64]
Options = Mapping[str, int | float]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The images of one split.

    Attributes:
        pixels: Shape `(N, S, S, 3)`, uint8.
        labels: Training labels, some of which may be wrong. Shape `(N,)`.
        annotations: Other known properties of each image. Shape `(N,)` each.
    """

    pixels: npt.NDArray[np.uint8]
    labels: Integers
    annotations: dict[str, Integers] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The split to render. `options` has a value for every option of the generator."""

    seed: int
    split: str
    count: int
    size: int
    options: Options

    def stream(self, generator: str) -> Stream:
        """Return the random stream of the split."""
        return Stream("world", self.seed, generator, self.split)

    def whole(self, name: str) -> int:
        """Return the value of an integer option."""
        return int(self.options[name])


@dataclass(frozen=True)
class Option:
    """An option of a generator: its default, its bounds, and whether it is a whole number."""

    default: int | float
    low: int | float
    high: int | float
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A task family.

    Attributes:
        classes: Returns the class names for the options.
        render: Renders a split.
        options: Options by name.
        check: Returns what is wrong with a combination of options, as a sentence; None if nothing is.
        further_splits: Returns the number of images of splits beyond `train` and `test`, from the options and the number of
            test images.
        edition: Returns a text that enters the fingerprint of the data.
        version: Part of the images' names. It changes when the same seed gives different images.
        bytes_per_pixel: Peak memory of rendering for each pixel of a split.
    """

    classes: Callable[[Options], list[str]]
    render: Callable[[Request], Rendered]
    options: Mapping[str, Option] = field(default_factory=dict)
    check: Callable[[Options], str | None] = lambda _: None
    further_splits: Callable[[Options, int], dict[SplitName, int]] = lambda *_: {}
    edition: Callable[[Options], str] = lambda _: ""
    version: str
    bytes_per_pixel: int

    def complete(self, options: Options, where: str) -> dict[str, int | float]:
        """Return the given options with the defaults of the others.

        Args:
            options: Options from a task file.
            where: Source of the options, for errors.

        Raises:
            InputError: An option is unknown or out of range.
        """
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(
                    f"{where}: files.options.{name} is not an option of this generator. Its options: {known}."
                )
            option = self.options[name]
            if not option.low <= value <= option.high:
                raise InputError(
                    f"{where}: files.options.{name} is {value}, but must be between {option.low} and {option.high}."
                )
            if option.whole and value != int(value):
                raise InputError(f"{where}: files.options.{name} is {value}, but must be a whole number.")
        complete = {name: options.get(name, option.default) for name, option in self.options.items()}
        if problem := self.check(complete):
            raise InputError(f"{where}: {problem}")
        return complete
