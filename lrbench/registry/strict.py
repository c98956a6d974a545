"""What every record of a TOML is, and the numbers that they hold."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
OneOrMore = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""A name, or several."""


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def without_one_thread(content: dict[str, Any]) -> dict[str, Any]:
    """A record's content without `threads` where that is 1, as in records from before it could be said."""
    return {key: value for key, value in content.items() if key != "threads" or value != 1}
