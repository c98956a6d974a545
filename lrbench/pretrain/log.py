"""The training log: one JSON line an epoch in `log.jsonl`, and wall-clock times apart in `timings.jsonl`."""

from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import Any

from lrbench.core.control import Control
from lrbench.core.files import append_line, canonical_json, parse_json, read_bytes, write_bytes, write_text
from lrbench.core.locks import locked

# Ten thousand epochs of every stage take less.
_LARGEST = 64 << 20


def write_log(snapshot: Path, stage: int, records: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Put a segment's records into its arm's log, in the place of older ones of that stage.

    The log is a function of the records alone, so an interrupted run ends with the same bytes as one that was not.

    Args:
        snapshot: The segment's snapshot, whose folder the log is in.
        stage: The segment's stage.
        records: One an epoch, with `stage` among the keys.
        say: Told where the log is damaged; what can be read of it goes on.
    """
    path = snapshot.with_name("log.jsonl")
    # Stages that start from another arm's state may be in the making at once. The wait is short, and nothing stops it.
    with locked(path, Control()):
        others = [record for record in _read(path, say) if record["stage"] != stage]
        every = sorted(others + records, key=lambda record: record["update"])
        write_text(path, "".join(canonical_json(record) + "\n" for record in every))


def append_timing(snapshot: Path, record: dict[str, Any]) -> None:
    """Add a line to `timings.jsonl`, which is not meant to be compared."""
    append_line(snapshot.with_name("timings.jsonl"), canonical_json(record))


def clear_log(snapshot: Path, control: Control) -> None:
    """Remove what a killed process had begun to write of a log."""
    path = snapshot.with_name("log.jsonl")
    with locked(path, control) as alone:
        for stale in path.parent.glob(f".{path.name}.*.part") if alone else ():
            stale.unlink(missing_ok=True)


def _read(path: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    try:
        content = read_bytes(path, limit=_LARGEST)
    except FileNotFoundError:
        return []
    lines = content.splitlines()
    records = [record for line in lines if (record := _record(line)) is not None]
    if len(records) < len(lines):
        # A copy: until the lines that can be read are written anew, they are in the log alone.
        aside = _aside(path)
        write_bytes(aside, content)
        say(f"{len(lines) - len(records)} lines of {path} are damaged and left out; the file as it was is {aside.name}")
    return records


def _aside(path: Path) -> Path:
    """Where a damaged log is kept: no earlier one is written over."""
    names = chain(["log.damaged.jsonl"], (f"log.damaged-{number}.jsonl" for number in count(2)))
    return next(place for place in map(path.with_name, names) if not place.exists())


def _record(line: bytes) -> dict[str, Any] | None:
    """A line's record; None where it is none that `write_log` could have written."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    plain = isinstance(record, dict) and all(isinstance(value, str | int | float | None) for value in record.values())
    return record if plain and all(type(record.get(key)) is int for key in ("stage", "update")) else None
