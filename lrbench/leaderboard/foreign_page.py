"""The page of snapshots that belong to no suite: timm models, the Hub's, and files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.leaderboard import tables
from lrbench.leaderboard.index import Entry, load_index
from lrbench.references import FOREIGN


@dataclass(frozen=True, kw_only=True)
class ForeignTable:
    """One protocol's table of snapshots that belong to no suite.

    Attributes:
        protocol: Its name.
        rows: A row a snapshot, a column a target.
        warning: Which of its columns do not compare, in a sentence; empty where all do.
        partial: Whether the data was not whole.
    """

    protocol: str
    rows: Sequence[dict[str, str]]
    warning: str
    partial: bool


def render_foreign(results: Path, cache: Path | None = None) -> str:
    """A table a protocol: a row a snapshot, a column a target; one cell each, so without intervals."""
    index = load_index(results, FOREIGN, cache)
    parts = [
        "# Other snapshots",
        "Snapshots from outside lrbench's suites, with the BatchNorm statistics that they came with. One transfer each, "
        "so there are no intervals over pretraining seeds.",
    ]
    shown = foreign_tables(index.entries)
    parts += [_section(table) for table in shown if not table.partial]
    if partial := [_section(table) for table in shown if table.partial]:
        parts += ["## Partial data\n\nMade with data that was not whole; compared among themselves only.", *partial]
    targets = sorted({entry.task for entry in index.entries})
    if notes := [f"- {name}: {' '.join(said)}" for name in targets if (said := tables.target_notes(name))]:
        parts.append("## Of the targets\n\n" + "\n".join(notes))
    if index.problems:
        parts.append("## Left out\n\n" + "\n".join(f"- {problem}" for problem in index.problems))
    return "\n\n".join(parts) + "\n"


def _section(table: ForeignTable) -> str:
    word = " (partial data)" if table.partial else ""
    warning = f" {table.warning}" if table.warning else ""
    return (
        f"## {table.protocol}{word}\n\n{tables.markdown(table.rows)}\n\nHeadline metric of each task, percent.{warning}"
    )


def foreign_tables(entries: Sequence[Entry]) -> list[ForeignTable]:
    """The tables of foreign results, those of whole data first."""
    made = []
    for partial in (False, True):
        for protocol in sorted({entry.protocol for entry in entries if entry.partial == partial}):
            mine = [entry for entry in entries if entry.partial == partial and entry.protocol == protocol]
            made.append(ForeignTable(protocol=protocol, rows=_rows(mine), warning=_mixed(mine), partial=partial))
    return made


def _rows(entries: Sequence[Entry]) -> list[dict[str, str]]:
    targets = sorted({entry.task for entry in entries})
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        name = f"{entry.reference}{' (random weights)' if entry.random else ''}"
        row = rows.setdefault(f"{name} {entry.sha256[:8]}", {"snapshot": f"{name} `{entry.sha256[:8]}`"})
        text = f"{100 * entry.headline:.1f}"
        # Several transfer seeds stand side by side, in the order of their files.
        row[entry.task] = f"{row[entry.task]}, {text}" if entry.task in row else text
    return [
        {"snapshot": row["snapshot"], **{task: row.get(task, tables.NOTHING) for task in targets}}
        for row in rows.values()
    ]


def _mixed(entries: Sequence[Entry]) -> str:
    """Foreign networks differ in input by nature; other differences within a column are said."""
    columns: dict[str, set[str]] = {}
    for entry in entries:
        version, _, fingerprint, _, settings, _ = json.loads(entry.comparable)
        columns.setdefault(entry.task, set()).add(json.dumps([version, fingerprint, settings]))
    mixed = sorted(task for task, kinds in columns.items() if len(kinds) > 1)
    if not mixed:
        return ""
    return f"**Not comparable down the column** (other images, settings or protocol versions): {', '.join(mixed)}."
