"""Tables of a suite's results: accuracies, paired differences, T, LogME scores and the source's report."""

import json
from collections.abc import Sequence

import numpy as np

from lrbench.config import find_tasks
from lrbench.config.arms import ARMS
from lrbench.config.books import split_book
from lrbench.config.protocols import gives_evidence
from lrbench.config.task import METRIC_NAMES
from lrbench.leaderboard.evidence import Column, Evidence, Row, row_name
from lrbench.leaderboard.markup import NOTHING, Marked, number, points, ratio, table
from lrbench.leaderboard.row_pages import row_link
from lrbench.stats.intervals import estimate_over_seeds
from lrbench.store.index import Entry

REPORT = {
    "simple": "simple evidence",
    "complex": "complex evidence",
    "both": "both kinds of evidence",
    "conflict_simple": "conflict decided by simple evidence",
    "conflict_complex": "conflict decided by complex evidence",
    "train_simple": "training images with simple evidence",
    "train_complex": "training images with complex evidence",
    "memorised": "wrong training labels memorised",
}
"""Measures of a source's report, with their headings."""

LOGME = (
    "LogME is the logarithm of the evidence per image for a linear model of the target's training labels. A larger score "
    "predicts better transfer. Compare scores within one column only."
)
"""Explanation of LogME scores, shown below their table."""


def accuracy_table(
    evidence: Evidence,
    protocol: str,
    *,
    rows: Sequence[Row] | None = None,
    form: str = "github",
    linked: bool = False,
) -> str:
    """Return the accuracy on each target (columns) of each snapshot (rows), with intervals over seeds.

    Args:
        evidence: The results.
        protocol: The transfer protocol.
        rows: Rows to show; None for all. Bold type considers all rows.
        form: A table format of tabulate.
        linked: Whether names of rows that have results link to the rows' pages.
    """
    columns = of_protocol(evidence, protocol)
    shown = [
        row
        for row in (evidence.rows if rows is None else rows)
        if evidence.suite.uses(protocol, row[0]) or any(evidence.accuracy(row, column) for column in columns)
    ]
    return _accuracies(evidence, shown, columns, form, linked=linked)


def other_protocols(evidence: Evidence) -> list[str]:
    """Return the protocols of transfers that the suite does not name."""
    return sorted({column.protocol for column in evidence.other_columns})


def other_transfers(
    evidence: Evidence, protocol: str, *, rows: Sequence[Row] | None = None, form: str = "github"
) -> str:
    """Return the accuracy table of transfers that the suite does not name, without rows that have none."""
    columns = [column for column in evidence.other_columns if column.protocol == protocol]
    shown = [
        row
        for row in (evidence.rows if rows is None else rows)
        if any(evidence.accuracy(row, column) for column in columns)
    ]
    return _accuracies(evidence, shown, columns, form)


def _accuracies(
    evidence: Evidence, rows: Sequence[Row], columns: Sequence[Column], form: str, *, linked: bool = False
) -> str:
    seeds = len(evidence.seeds)
    leaders = {column: leader(evidence, column) for column in columns}
    with_results = {(entry.arm, entry.stage) for entry in evidence.entries} if linked else set()
    lines = []
    for row in rows:
        name = row_link(evidence.name, row) if row in with_results else row_name(row)
        line: dict[str, str] = {"snapshot": name, "source": points(evidence.source_accuracy(row), seeds)}
        for column in columns:
            line[column.task] = points(evidence.accuracy(row, column), seeds, bold=leaders[column] == row)
        lines.append(line)
    return table(lines, form)


def accuracy_legend(evidence: Evidence, protocol: str) -> str:
    """Return the explanation of an accuracy table's numbers, as plain text."""
    columns = [column for column in (*evidence.columns, *evidence.other_columns) if column.protocol == protocol]
    metrics = {
        column.task: METRIC_NAMES[evidence.values[column].metric] for column in columns if column in evidence.values
    }
    kinds = set(metrics.values())
    headline = (
        f"{kinds.pop()} accuracy" if len(kinds) == 1 else ", ".join(f"{task} {kind}" for task, kind in metrics.items())
    )
    seeds = len(evidence.seeds)
    if seeds == 1:
        return f"Percent, from one pretraining seed, so without intervals. Headline metric: {headline}. {NOTHING}: no result."
    lacks_seeds = any(
        accuracy is not None and accuracy.seeds < seeds
        for column in columns
        for accuracy in (evidence.accuracy(row, column) for row in evidence.rows)
    )
    return (
        f"Percent, mean ± half the 95 % interval over {seeds} pretraining seeds and their "
        "test images. An interval that reaches 0 or 100 is given by its ends, and omitted if it covers everything. "
        f"Headline metric: {headline}. Bold: significantly better than every other row of its column (paired difference, 95 %)"
        f"{'; never in a column that lacks seeds' if lacks_seeds else ''}. {NOTHING}: no result."
    )


def differences(evidence: Evidence, protocol: str) -> str:
    """Return the paired difference of each snapshot and the previous stage."""
    pairs = [
        (row, before)
        for row in evidence.rows
        if not ARMS[row[0]].intermediate and (before := evidence.previous(row)) is not None
    ]
    return _paired_differences(evidence, protocol, pairs)


def control_differences(evidence: Evidence, protocol: str, *, falling: bool) -> str:
    """Return the paired difference of `step` and each control at the same stage; empty if the suite has none.

    Args:
        evidence: The results.
        protocol: The transfer protocol.
        falling: Whether to show the arms whose rate falls at other epochs, or those whose rate does not fall.
    """
    pairs = [pair for pair in evidence.control_pairs() if ARMS[pair[1][0]].falls == falling]
    return _paired_differences(evidence, protocol, pairs)


def _paired_differences(evidence: Evidence, protocol: str, pairs: Sequence[tuple[Row, Row]]) -> str:
    seeds = len(evidence.seeds)
    lines = []
    for row, other in pairs:
        line: dict[str, str] = {
            "difference": f"{row_name(row)} − {row_name(other)}",
            "source": points(evidence.source_difference(row, other), seeds, signed=True),
        }
        for column in of_protocol(evidence, protocol):
            line[column.task] = points(evidence.difference(row, other, column), seeds, signed=True)
        lines.append(line)
    return table(lines)


def transferability(evidence: Evidence, protocol: str, *, scale: str = "raw") -> str:
    """Return T of each stage of `step`, on the `raw` or the `logit` scale."""
    lines = []
    for row in evidence.rows:
        before = evidence.previous(row)
        if row[0] == "step" and before is not None:
            line = {"stage": row_name(row)}
            for column in of_protocol(evidence, protocol):
                line[column.task] = ratio(evidence.transferability(row, before, column, scale=scale))
            lines.append(line)
    return table(lines)


def source_report(evidence: Evidence) -> str:
    """Return the source accuracy of each snapshot by kind of evidence, with the wrong labels memorised."""
    measures = [name for name in REPORT if name in evidence.report]
    seeds = len(evidence.seeds)
    lines = []
    for row in evidence.rows:
        line = {"snapshot": row_name(row), "all test images": points(evidence.source_accuracy(row), seeds)}
        line |= {REPORT[name]: points(evidence.reported(name, row), seeds) for name in measures}
        lines.append(line)
    return table(lines) if measures else ""


def logme_score(entry: Entry) -> float | None:
    """Return the LogME score of a result; None for other protocols."""
    score = json.loads(entry.chosen).get("logme")
    return None if score is None else float(score)


def logme_scores(evidence: Evidence, targets: Sequence[str]) -> str:
    """Return LogME scores by snapshot and target, with intervals over seeds."""
    scores: dict[tuple[Row, str], dict[int, list[float]]] = {}
    for entry in evidence.entries:
        score = logme_score(entry) if gives_evidence(entry.protocol) else None
        if score is not None:
            assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
            by_seed = scores.setdefault(((entry.arm, entry.stage), entry.task), {})
            by_seed.setdefault(entry.pretraining_seed, []).append(score)
    lines = []
    for row in evidence.rows:
        if any((row, target) in scores for target in targets):
            line = {"snapshot": row_name(row)}
            for target in targets:
                line[target] = _mean_score(scores.get((row, target), {}), len(evidence.seeds))
            lines.append(line)
    return table(lines)


def _mean_score(by_seed: dict[int, list[float]], seeds: int) -> Marked:
    value = estimate_over_seeds(float(np.mean(scores)) for scores in by_seed.values()) if by_seed else None
    return number(value, seeds, 3)


def missing_cells(evidence: Evidence) -> list[str]:
    """Return one line for each snapshot and protocol that lacks results: its targets and seeds."""
    lines = []
    for row in evidence.rows:
        for protocol in evidence.suite.protocols:
            columns = of_protocol(evidence, protocol)
            missing = {column.task: seeds for column in columns if (seeds := evidence.missing(row, column))}
            if not missing:
                continue
            if len(missing) == len(columns) and all(len(seeds) == len(evidence.seeds) for seeds in missing.values()):
                listed = "everything"
            else:
                listed = "; ".join(
                    f"{task} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
                    for task, seeds in missing.items()
                )
            lines.append(f"{row_name(row)}, {protocol}: {listed}")
    return lines


def leader(evidence: Evidence, column: Column) -> Row | None:
    """Return the best row of a column if it is significantly better than every other row, else None."""
    accuracies = {row: accuracy for row in evidence.rows if (accuracy := evidence.accuracy(row, column)) is not None}
    if len(accuracies) < 2 or any(accuracy.seeds < len(evidence.seeds) for accuracy in accuracies.values()):
        return None
    best = max(accuracies, key=lambda row: accuracies[row].mean)
    return best if all(is_better(evidence, best, row, column) for row in accuracies if row != best) else None


def is_better(evidence: Evidence, row: Row, other: Row, column: Column) -> bool:
    """Return whether a row is significantly better than another: the interval of their paired difference is above 0."""
    difference = evidence.difference(row, other, column)
    return difference is not None and difference.mean > 0 and difference.excludes_zero


def of_protocol(evidence: Evidence, protocol: str) -> list[Column]:
    """Return the suite's columns of one protocol."""
    return [column for column in evidence.columns if column.protocol == protocol]


def task_title(name: str) -> str:
    """Return a task's title, or its name if the task is not registered."""
    from lrbench.config import load_task

    return load_task(name).display_title if split_book(name)[0] in find_tasks() else name


def task_notes(name: str) -> tuple[str, ...]:
    """Return a task's notes for readers of its results; empty if the task is not registered."""
    from lrbench.config import load_task

    return load_task(name).about.notes if split_book(name)[0] in find_tasks() else ()
