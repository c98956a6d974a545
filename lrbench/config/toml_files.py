"""Reading of TOML files, and changes to their content."""

import json
import os
import tomllib
from collections.abc import Sequence
from datetime import date, time
from functools import lru_cache
from pathlib import Path
from typing import Any

from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes

# The largest shipped file has 4 KiB.
_MAX_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        InputError: The file cannot be read, or it is not TOML.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}. Correct or delete it."
        ) from error
    # A new copy for each caller, which may change it.
    content: dict[str, Any] = json.loads(_read_as_json(path, status.st_mtime_ns, status.st_size))
    return content


@lru_cache(maxsize=256)
def _read_as_json(path: Path, modified: int, size: int) -> str:
    try:
        text = read_bytes(path, limit=_MAX_BYTES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        return json.dumps(tomllib.loads(text), default=str)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not well-formed TOML: {error}. Correct that line.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file (UTF-8): {error.reason} at byte {error.start}.") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: {representation_problem(error)}") from error


def representation_problem(error: Exception) -> str:
    """Return why well-formed content cannot be represented, and what to do."""
    if isinstance(error, RecursionError):
        return "lists or tables are nested too deeply. Flatten them."
    return "a number has thousands of digits. Write a smaller one."


def apply_changes(content: dict[str, Any], changes: Sequence[str], *, option: str = "--set") -> None:
    """Change values of `content` in place.

    Args:
        content: Tables of a TOML file.
        changes: Changes, each `key.subkey=value`.
        option: The option that gave the changes, for errors.

    Raises:
        InputError: A change is not `key=value`, or its key passes through a value.
    """
    for change in changes:
        key, equals, text = change.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            example = {"--argument": "img_size=256", "--input": "size=64"}.get(option, "schedule.batch=128")
            raise InputError(f"{option} takes key=value, such as {option} {example}, not {change!r}.")
        value = _parse_value(text, f"{option} {key.strip()}")
        table = content
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise InputError(
                    f"{option} {change}: `{part}` is a value, not a table, so it has no key `{parts[-1]}`."
                )
        table[parts[-1]] = value


def _parse_value(text: str, where: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
    except (RecursionError, ValueError) as error:
        raise InputError(f"{where}: {representation_problem(error)}") from error
    # No key takes a date, but a name may look like one.
    return text.strip() if isinstance(value, date | time) else value


def differences(before: dict[str, Any], after: dict[str, Any], table: str = "") -> list[str]:
    """Return the values that differ, also in nested tables, each as `schedule.batch was 64 and is now 32`."""
    changes = []
    for key in (*after, *(key for key in before if key not in after)):
        old, new, name = before.get(key), after.get(key), f"{table}.{key}" if table else key
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, name)
        elif old != new:
            was, now = ("not set" if value is None else value for value in (old, new))
            changes.append(f"{name} was {was} and is now {now}")
    return changes
