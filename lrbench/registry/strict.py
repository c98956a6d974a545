"""What every record of a TOML is."""

from pydantic import BaseModel, ConfigDict

OneOrMore = str | tuple[str, ...]
"""A name, or several of which the first that is there counts."""


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
