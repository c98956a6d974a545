"""Settings as Python values."""

import json
from collections.abc import Mapping
from typing import Any


def options_of(settings: Mapping[str, Any]) -> list[str]:
    """Return settings such as `{"probe.strengths": 9}` as the values of `--set`: `probe.strengths=9`."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]
