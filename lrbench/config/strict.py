"""Base class and value types of the records that TOML files are read into."""

import inspect
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
_MAX_NAME_LENGTH = 100
_MAX_INTEGER = 2**63 - 1
_MAX_COUNT = 10**9
# Limits on arguments: number of values, depth of nesting.
_MAX_VALUES, _MAX_DEPTH = 2_000, 8

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=_MAX_NAME_LENGTH)]
"""Name of a task or suite. File names hold two of them and more, which limits the length."""
Text = Annotated[str, Field(max_length=500)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=_MAX_COUNT)]
Epochs = Annotated[int, Field(gt=0, le=100_000)]
# References and file names contain it as digits.
Seed = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
WholeSeed = Annotated[int, Field(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]
Threads = Annotated[int, Field(gt=0, le=4_096)]
BatchSize = Annotated[int, Field(ge=2, le=1 << 20)]
OneOrMore = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""One name or several."""


def name_problem(name: str) -> str | None:
    """Return why text is not a valid `Name`, as the end of a sentence; None if it is valid."""
    if len(name) > _MAX_NAME_LENGTH:
        return f"must have no more than {_MAX_NAME_LENGTH} characters, not {len(name):,}"
    if not re.fullmatch(NAME_PATTERN, name) or name.endswith("\n"):
        return f"must consist of lowercase letters, digits, `.`, `_` and `-`, not {name!r}"
    return None


def arguments_problem(arguments: dict[str, Any]) -> str | None:
    """Return why keyword arguments of a network or data set cannot be stored; None if they can."""
    values: list[tuple[str, Any]] = []
    problem = _collect(arguments, "", 0, values)
    if problem is None and len(values) > _MAX_VALUES:
        problem = f"it holds {len(values):,} values, more than {_MAX_VALUES:,}"
    for key, value in values:
        is_number = isinstance(value, int | float)
        if problem is None and is_number and not abs(value) <= _MAX_INTEGER:
            problem = f"{key} must be a finite number up to {_MAX_INTEGER:,}"
    return problem


def _collect(value: Any, key: str, depth: int, values: list[tuple[str, Any]]) -> str | None:
    """Append all scalars in `value` to `values`, with their keys; return the problem if the nesting is too deep."""
    if depth > _MAX_DEPTH:
        return f"{key} is nested more than {_MAX_DEPTH} levels deep"
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else [(key, item) for item in value]
        return next(
            (problem for name, item in items if (problem := _collect(item, str(name), depth + 1, values))), None
        )
    values.append((key, value))
    return None


def _bounded(arguments: dict[str, Any]) -> dict[str, Any]:
    if problem := arguments_problem(arguments):
        raise ValueError(problem)
    return arguments


Arguments = Annotated[dict[str, Any], AfterValidator(_bounded)]


def attribute_descriptions(docstring: str | None) -> dict[str, str]:
    """Return the texts of the section `Attributes` of a docstring, by name. Several names may share a text: `mean, std: …`."""
    _, _, section = inspect.cleandoc(docstring or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    for entry in re.split(r"^    (?=\S)", section, flags=re.MULTILINE)[1:]:
        names, _, text = entry.partition(": ")
        texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


class Strict(BaseModel):
    """Frozen record that refuses unknown keys. The docstring's section `Attributes` describes its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for name, text in attribute_descriptions(cls.__doc__).items():
            if name in cls.model_fields:
                cls.model_fields[name].description = text


def without_one_thread(content: dict[str, Any]) -> dict[str, Any]:
    """Return content without `threads = 1`, as in records that are older than the key."""
    return {key: value for key, value in content.items() if key != "threads" or value != 1}
