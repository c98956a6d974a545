"""The page of snapshots that belong to no suite: timm models, the Hub's, and files."""

import json
from collections.abc import Sequence
from pathlib import Path

from lrbench.leaderboard import tables
from lrbench.leaderboard.index import Entry, load_index
from lrbench.references import FOREIGN


def render_foreign(results: Path, cache: Path | None = None) -> str:
    """A table a protocol: a row a snapshot, a column a target; one cell each, so without intervals."""
    index = load_index(results, FOREIGN, cache)
    parts = [
        "# Other snapshots",
        "Snapshots from outside lrbench's suites, with the BatchNorm statistics that they came with. One transfer each, "
        "so there are no intervals over pretraining seeds.",
    ]
    full = [entry for entry in index.entries if not entry.partial]
    partial = [entry for entry in index.entries if entry.partial]
    parts += _tables(full, "")
    if partial:
        parts.append("## Partial data\n\nMade with data that was not whole; compared among themselves only.")
        parts += _tables(partial, " (partial data)")
    if index.problems:
        parts.append("## Left out\n\n" + "\n".join(f"- {problem}" for problem in index.problems))
    return "\n\n".join(parts) + "\n"


def _tables(entries: Sequence[Entry], word: str) -> list[str]:
    parts = []
    for protocol in sorted({entry.protocol for entry in entries}):
        mine = [entry for entry in entries if entry.protocol == protocol]
        targets = sorted({entry.task for entry in mine})
        rows: dict[str, dict[str, str]] = {}
        for entry in mine:
            name = f"{entry.reference}{' (random weights)' if entry.random else ''}"
            row = rows.setdefault(f"{name} {entry.sha256[:8]}", {"snapshot": f"{name} `{entry.sha256[:8]}`"})
            text = f"{100 * entry.headline:.1f}"
            # Several transfer seeds stand side by side, in the order of their files.
            row[entry.task] = f"{row[entry.task]}, {text}" if entry.task in row else text
        shown = [
            {"snapshot": row["snapshot"], **{task: row.get(task, tables.NOTHING) for task in targets}}
            for row in rows.values()
        ]
        parts.append(
            f"## {protocol}{word}\n\n{tables.markdown(shown)}\n\nHeadline metric of each task, percent.{_mixed(mine)}"
        )
    return parts


def _mixed(entries: Sequence[Entry]) -> str:
    """Foreign networks differ in input by nature; other differences within a column are said."""
    columns: dict[str, set[str]] = {}
    for entry in entries:
        version, _, fingerprint, _, settings = json.loads(entry.comparable)
        columns.setdefault(entry.task, set()).add(json.dumps([version, fingerprint, settings]))
    mixed = sorted(task for task, kinds in columns.items() if len(kinds) > 1)
    if not mixed:
        return ""
    return f" **Not comparable down the column** (other images, settings or protocol versions): {', '.join(mixed)}."
