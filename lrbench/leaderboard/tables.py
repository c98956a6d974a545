"""The tables of a body of evidence."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from lrbench.config import find_tasks
from lrbench.leaderboard.evidence import Column, Evidence, Row
from lrbench.leaderboard.markup import NOTHING, Marked, points, ratio, table, with_interval
from lrbench.stats.intervals import estimate
from lrbench.store.index import Entry

REPORT = {
    "simple": "simple evidence",
    "complex": "complex evidence",
    "memorised": "wrong training labels memorised",
}
"""What a source's report says, and what it is called."""


def row_name(row: Row) -> str:
    """`step/stage2`."""
    return f"{row[0]}/stage{row[1]}"


def headline(
    evidence: Evidence,
    protocol: str,
    *,
    rows: Sequence[Row] | None = None,
    form: str = "github",
    name: Callable[[Row], str] | None = None,
) -> str:
    """A row for each snapshot, a column for each target: mean and interval over seeds.

    Args:
        evidence: The results.
        protocol: Which protocol.
        rows: Only these rows; bold stays a matter of all of them.
        form: A table format of tabulate's.
        name: What a row is called; None for its plain name.
    """
    columns = of_protocol(evidence, protocol)
    chosen = [
        row
        for row in (evidence.rows if rows is None else rows)
        if evidence.suite.uses(protocol, row[0]) or any(evidence.level(row, column) for column in columns)
    ]
    return table(_levels(evidence, chosen, columns, name or row_name), form)


def others(evidence: Evidence) -> list[str]:
    """Protocols of transfers that the suite does not name."""
    return sorted({column.protocol for column in evidence.extra})


def other_transfers(
    evidence: Evidence, protocol: str, *, rows: Sequence[Row] | None = None, form: str = "github"
) -> str:
    """The same for targets and protocols that the suite does not name; snapshots without any are left out."""
    columns = [column for column in evidence.extra if column.protocol == protocol]
    wanted = evidence.rows if rows is None else rows
    shown = [row for row in wanted if any(evidence.level(row, column) for column in columns)]
    return table(_levels(evidence, shown, columns, row_name), form)


LOGME = (
    "LogME: the logarithm of the evidence for a linear model of the target's training labels, by image; the larger, the better "
    "it expects the snapshot to transfer. Scores compare within a column alone."
)
"""What a table of LogME's scores is of."""


def logme_score(entry: Entry) -> float | None:
    """The score of a result of the protocol `logme`; None for another's."""
    score = json.loads(entry.chosen).get("logme")
    return None if score is None else float(score)


def logme_scores(evidence: Evidence, targets: Sequence[str]) -> str:
    """LogME by snapshot and target, mean and interval over seeds; what ranks snapshots without a look at test images."""
    scores: dict[tuple[Row, str], dict[int, list[float]]] = {}
    for entry in evidence.stored:
        score = logme_score(entry) if entry.protocol == "logme" else None
        if (
            score is not None
            and entry.arm is not None
            and entry.stage is not None
            and entry.pretraining_seed is not None
        ):
            seeds = scores.setdefault(((entry.arm, entry.stage), entry.task), {})
            seeds.setdefault(entry.pretraining_seed, []).append(score)
    rows = []
    for row in evidence.rows:
        if any((row, target) in scores for target in targets):
            shown = {"snapshot": row_name(row)}
            for target in targets:
                by_seed = scores.get((row, target))
                shown[target] = _score(by_seed, len(evidence.seeds)) if by_seed else NOTHING
            rows.append(shown)
    return table(rows)


def _score(by_seed: dict[int, list[float]], expected: int) -> Marked:
    value = estimate(np.array([np.mean(each) for each in by_seed.values()]))
    some = f" ({value.seeds} of {expected} seeds)" if value.seeds < expected else ""
    return Marked(f"{with_interval(value, None, scale=1, digits=3)}{some}")


def differences(evidence: Evidence, protocol: str) -> str:
    """The paired difference of each snapshot to the stage before it."""
    pairs = [
        (row, before) for row in evidence.rows if row[0] != "trail" and (before := evidence.before(row)) is not None
    ]
    return _pairs(evidence, protocol, pairs, lambda row, before: f"{row_name(row)} − {row_name(before)}")


def controls(evidence: Evidence, protocol: str, *, falling: bool = False) -> str:
    """`step` less each control at the same stage; empty where the suite has none.

    Args:
        evidence: The results.
        protocol: Of which protocol.
        falling: Whether those are meant whose rate falls as well, at other epochs.
    """
    pairs = [pair for pair in evidence.controls() if (pair[1][0] in FALLING) == falling]
    return _pairs(evidence, protocol, pairs, lambda row, other: f"{row_name(row)} − {row_name(other)}") if pairs else ""


def transferability(evidence: Evidence, protocol: str, *, scale: str = "raw") -> str:
    """T of each stage of the arm `step`, on the `raw` or the `logit` scale."""
    rows = []
    for row in evidence.rows:
        before = evidence.before(row)
        if row[0] == "step" and before is not None:
            shown = {"stage": row_name(row)}
            for column in of_protocol(evidence, protocol):
                shown[column.task] = ratio(evidence.transferability(row, before, column, scale=scale))
            rows.append(shown)
    return table(rows)


def source_report(evidence: Evidence) -> str:
    """What each snapshot knows of the source: simple and complex evidence, wrong labels memorised."""
    names = [name for name in REPORT if name in evidence.report]
    expected = len(evidence.seeds)
    rows = []
    for row in evidence.rows:
        shown = {"snapshot": row_name(row), "all test images": points(evidence.source_level(row), expected)}
        shown |= {REPORT[name]: points(evidence.reported(name, row), expected) for name in names}
        rows.append(shown)
    return table(rows) if names else ""


def missing_cells(evidence: Evidence) -> list[str]:
    """One line for each snapshot and protocol that lacks cells: which targets, which seeds."""
    lines = []
    for row in evidence.rows:
        for protocol in evidence.suite.protocols:
            columns = of_protocol(evidence, protocol)
            lacking = {column.task: seeds for column in columns if (seeds := evidence.missing(row, column))}
            if not lacking:
                continue
            if len(lacking) == len(columns) and all(len(seeds) == len(evidence.seeds) for seeds in lacking.values()):
                listed = "everything"
            else:
                listed = "; ".join(f"{task} ({_seeds(seeds)})" for task, seeds in lacking.items())
            lines.append(f"{row_name(row)}, {protocol}: {listed}")
    return lines


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


FALLING = ("early", "late", "cosine")
"""Arms beside `step` whose rate falls."""


def leader(evidence: Evidence, column: Column) -> Row | None:
    """The best row of a column, if its lead over every other row is beyond the interval of their difference."""
    levels = {row: level for row in evidence.rows if (level := evidence.level(row, column)) is not None}
    if len(levels) < 2 or any(level.seeds < len(evidence.seeds) for level in levels.values()):
        return None
    best = max(levels, key=lambda row: levels[row].mean)
    return best if all(leads(evidence, best, row, column) for row in levels if row != best) else None


def leads(evidence: Evidence, row: Row, other: Row, column: Column) -> bool:
    """Whether a row is ahead of another beyond the interval of their paired difference."""
    lead = evidence.difference(row, other, column)
    return lead is not None and lead.mean > 0 and lead.excludes_zero


def of_protocol(evidence: Evidence, protocol: str) -> list[Column]:
    """The columns of one protocol."""
    return [column for column in evidence.columns if column.protocol == protocol]


def target_title(name: str) -> str:
    """A task's title, or its name where it is not registered here."""
    from lrbench.config import load_task

    return load_task(name).display_title if name in find_tasks() else name


def target_notes(name: str) -> tuple[str, ...]:
    """What a reader of a task's results should know; empty where the task is not registered here."""
    from lrbench.config import load_task

    return load_task(name).about.notes if name in find_tasks() else ()


def _levels(
    evidence: Evidence, rows: Sequence[Row], columns: Sequence[Column], name: Callable[[Row], str]
) -> list[dict[str, str]]:
    expected = len(evidence.seeds)
    leaders = {column: leader(evidence, column) for column in columns}
    lines = []
    for row in rows:
        shown: dict[str, str] = {"snapshot": name(row), "source": points(evidence.source_level(row), expected)}
        for column in columns:
            bold = leaders[column] == row
            shown[column.task] = points(evidence.level(row, column), expected, bold=bold)
        lines.append(shown)
    return lines


def _pairs(
    evidence: Evidence, protocol: str, pairs: Sequence[tuple[Row, Row]], title: Callable[[Row, Row], str]
) -> str:
    expected = len(evidence.seeds)
    rows = []
    for row, other in pairs:
        shown = {
            "difference": title(row, other),
            "source": points(evidence.source_difference(row, other), expected, signed=True),
        }
        for column in of_protocol(evidence, protocol):
            shown[column.task] = points(evidence.difference(row, other, column), expected, signed=True)
        rows.append(shown)
    return table(rows)
