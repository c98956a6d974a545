"""What every record of a TOML is, and the numbers that they hold."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
_LONGEST_NAME = 100
_LARGEST_SEED = 2**63 - 1
_MOST = 10**9
# Values in all arguments of a network, and tables within tables; `model_limits` bounds the network that comes of them.
_VALUES, _NESTED = 2_000, 8

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=_LONGEST_NAME)]
"""A task's or a suite's. Names of files hold two of them, seeds, and more."""
Text = Annotated[str, Field(max_length=500)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=_MOST)]
Epochs = Annotated[int, Field(gt=0, le=100_000)]
# References and file names hold it as digits.
Seed = Annotated[int, Field(ge=0, le=_LARGEST_SEED)]
WholeSeed = Annotated[int, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)]
Threads = Annotated[int, Field(gt=0, le=4_096)]
BatchSize = Annotated[int, Field(ge=2, le=1 << 20)]
OneOrMore = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""A name, or several."""


def name_problem(name: str) -> str | None:
    """Return why text is no `Name`, as the end of a sentence; None where it is one."""
    if len(name) > _LONGEST_NAME:
        return f"must have no more than {_LONGEST_NAME} characters, not {len(name):,}"
    if not re.fullmatch(NAME_PATTERN, name) or name.endswith("\n"):
        return f"must be of small letters, digits, `.`, `_` and `-`, not {name!r}"
    return None


def arguments_problem(arguments: dict[str, Any]) -> str | None:
    """Return why keyword arguments of a network or a data set cannot be written down and read again; None where they can."""
    values: list[tuple[str, Any]] = []
    problem = _collect(arguments, "", 0, values)
    if problem is None and len(values) > _VALUES:
        problem = f"it holds {len(values):,} values, more than {_VALUES:,}"
    for key, value in values:
        is_number = isinstance(value, int | float)
        if problem is None and is_number and not abs(value) <= _LARGEST_SEED:
            problem = f"{key} is {_LARGEST_SEED:,} or more, or no finite number"
    return problem


def _collect(value: Any, key: str, depth: int, values: list[tuple[str, Any]]) -> str | None:
    """Add the single values in a value to `values`, each with its key; return what is wrong with their nesting."""
    if depth > _NESTED:
        return f"{key} is nested more than {_NESTED} deep"
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


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def without_one_thread(content: dict[str, Any]) -> dict[str, Any]:
    """A record's content without `threads` where that is 1, as in records from before it could be said."""
    return {key: value for key, value in content.items() if key != "threads" or value != 1}
