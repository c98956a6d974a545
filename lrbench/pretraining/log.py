"""Training log: one JSON line per epoch in `log.jsonl`, and wall-clock times in `timings.jsonl`."""

from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import Any

from lrbench.core.control import Control
from lrbench.core.files import append_line, canonical_json, parse_json, read_bytes, write_bytes, write_text
from lrbench.core.locks import locked

# Ten thousand epochs of every stage need less.
_MAX_BYTES = 64 << 20


def write_log(snapshot: Path, stage: int, records: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Write a segment's records into its arm's log, replacing older records of that stage.

    The log is a function of the records alone, so an interrupted run ends with the same bytes as an uninterrupted one.

    Args:
        snapshot: The segment's snapshot; the log is in the same folder.
        stage: The segment's stage.
        records: One per epoch, with `stage` among the keys.
        say: Called with a warning when the log is damaged; its readable lines are kept.
    """
    path = snapshot.with_name("log.jsonl")
    # Several stages of an arm may train at once. The wait is short, and cannot be interrupted.
    with locked(path, Control()):
        others = [record for record in _read(path, say) if record["stage"] != stage]
        merged = sorted(others + records, key=lambda record: record["update"])
        write_text(path, "".join(canonical_json(record) + "\n" for record in merged))


def append_timing(snapshot: Path, record: dict[str, Any]) -> None:
    """Append a line to `timings.jsonl`, which differs between identical runs."""
    append_line(snapshot.with_name("timings.jsonl"), canonical_json(record))


def clear_log(snapshot: Path, control: Control) -> None:
    """Remove log files that a killed process left half-written."""
    path = snapshot.with_name("log.jsonl")
    with locked(path, control) as exclusive:
        for partial_file in path.parent.glob(f".{path.name}.*.part") if exclusive else ():
            partial_file.unlink(missing_ok=True)


def _read(path: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    try:
        content = read_bytes(path, limit=_MAX_BYTES)
    except FileNotFoundError:
        return []
    lines = content.splitlines()
    records = [record for line in lines if (record := _record(line)) is not None]
    if len(records) < len(lines):
        # Copied, not moved: until the readable lines are written, the log is their only place.
        backup = _backup(path)
        write_bytes(backup, content)
        count = len(lines) - len(records)
        say(f"Skipped {count} damaged line{'s' * (count > 1)} of {path}; the original is saved as {backup.name}.")
    return records


def _backup(path: Path) -> Path:
    """Return an unused path for the copy of a damaged log."""
    names = chain(["log.damaged.jsonl"], (f"log.damaged-{number}.jsonl" for number in count(2)))
    return next(backup for backup in map(path.with_name, names) if not backup.exists())


def _record(line: bytes) -> dict[str, Any] | None:
    """Return a line's record; None if `write_log` cannot have written it."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    plain = isinstance(record, dict) and all(isinstance(value, str | int | float | None) for value in record.values())
    return record if plain and all(type(record.get(key)) is int for key in ("stage", "update")) else None
