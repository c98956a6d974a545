"""The page of snapshots that belong to no suite: timm models, the Hub's, and files."""

from collections import Counter
from pathlib import Path

from lrbench.leaderboard import tables
from lrbench.leaderboard.evidence import comparable
from lrbench.references import FOREIGN
from lrbench.results import StoredResult, load_results


def render_foreign(results: Path) -> str:
    """A table a protocol: a row a snapshot, a column a target; one cell each, so without intervals."""
    stored, problems = load_results(results, FOREIGN)
    parts = [
        "# Other snapshots",
        "Snapshots from outside lrbench's suites, with the BatchNorm statistics that they came with. One transfer each, "
        "so there are no intervals over pretraining seeds.",
    ]
    full = [each for each in stored if not each.result.partial]
    partial = [each for each in stored if each.result.partial]
    parts += _tables(full, "")
    if partial:
        parts.append("## Partial data\n\nMade with data that was not whole; compared among themselves only.")
        parts += _tables(partial, " (partial data)")
    if problems:
        parts.append("## Left out\n\n" + "\n".join(f"- {problem}" for problem in problems))
    return "\n\n".join(parts) + "\n"


def _tables(stored: list[StoredResult], word: str) -> list[str]:
    parts = []
    for protocol in sorted({each.result.protocol for each in stored}):
        mine = [each for each in stored if each.result.protocol == protocol]
        targets = sorted({each.result.task.name for each in mine})
        rows: dict[str, dict[str, str]] = {}
        for each in mine:
            snapshot = each.result.snapshot
            name = f"{snapshot.reference}{' (random weights)' if snapshot.random else ''}"
            row = rows.setdefault(f"{name} {snapshot.sha256[:8]}", {"snapshot": f"{name} `{snapshot.sha256[:8]}`"})
            text = f"{100 * each.result.headline:.1f}"
            # Several transfer seeds stand side by side, in the order of their files.
            task = each.result.task.name
            row[task] = f"{row[task]}, {text}" if task in row else text
        shown = [
            {"snapshot": row["snapshot"], **{task: row.get(task, tables.NOTHING) for task in targets}}
            for row in rows.values()
        ]
        parts.append(
            f"## {protocol}{word}\n\n{tables.markdown(shown)}\n\nHeadline metric of each task, percent.{_mixed(mine)}"
        )
    return parts


def _mixed(stored: list[StoredResult]) -> str:
    """Foreign networks differ in input by nature; other differences within a column are said."""
    columns: dict[str, set[object]] = {}
    for each in stored:
        version, _, fingerprint, _, settings = comparable(each.result)
        columns.setdefault(each.result.task.name, set()).add((version, fingerprint, settings))
    mixed = [
        task for task, count in Counter({task: len(kinds) for task, kinds in columns.items()}).items() if count > 1
    ]
    if not mixed:
        return ""
    return f" **Not comparable down the column** (other images, settings or protocol versions): {', '.join(sorted(mixed))}."
