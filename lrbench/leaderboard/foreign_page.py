"""Page of snapshots that belong to no suite: models of timm and the Hub, and files."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from lrbench.config.protocols import gives_evidence
from lrbench.config.task import METRIC_NAMES
from lrbench.core.escaping import for_markdown
from lrbench.core.workspace import FOREIGN
from lrbench.leaderboard import tables
from lrbench.leaderboard.markup import NOTHING, Marked, bracketed, bullets, rounded, table
from lrbench.stats.images import Labels, compute_headlines, image_variance, interval_over_images
from lrbench.stats.intervals import Floats, half_width_over_images
from lrbench.stats.resampling import paired_interval
from lrbench.store.index import Entry, Index, load_index


@dataclass(frozen=True, kw_only=True)
class ForeignTable:
    """Table of the snapshots that belong to no suite, under one protocol.

    Attributes:
        protocol: The transfer protocol.
        rows: One row for each snapshot: its name, the start of its weights' hash, and a column for each target.
        scores: The same with LogME scores; empty for other protocols.
        targets: Headline metric and number of test images of each target, as plain text.
        warning: A sentence of plain text that names columns that are not comparable; empty if all are.
        averaged: Whether some accuracies are means of several transfer seeds.
        partial: Whether the results are on partial data.
        received: Whether the results are of unknown origin: received from others, and not computed in this workspace.
    """

    protocol: str
    rows: Sequence[dict[str, str]]
    scores: Sequence[dict[str, str]]
    targets: str
    warning: str
    averaged: bool
    partial: bool
    received: bool

    @property
    def remark(self) -> str:
        """Mark of a table that is not ranked with the others, as the end of its title; empty for the workspace's full data."""
        marks = ["received from others"] * self.received + ["partial data"] * self.partial
        return f" ({', '.join(marks)})" if marks else ""


LEAD = (
    "Accuracies of snapshots from outside lrbench's suites, with their own BatchNorm statistics. Each is one pretraining run, "
    "so intervals are over test images only: they describe these weights, not another run."
)
"""First paragraph of the page."""


def render_foreign(results: Path, cache: Path | None = None) -> str:
    """Return the page: for each protocol a table with a row for each snapshot and a column for each target."""
    index = load_index(results, FOREIGN, cache)
    parts = ["# Other snapshots", LEAD]
    foreign = foreign_tables(index)
    own = [shown for shown in foreign if not shown.received]
    parts += [_section(shown) for shown in own if not shown.partial]
    if partial := [_section(shown) for shown in own if shown.partial]:
        parts += [
            "## Partial data\n\nThese results were computed on incomplete data. They are compared with one another only.",
            *partial,
        ]
    if received := [_section(shown) for shown in foreign if shown.received]:
        parts += [
            "## Results received from others\n\nlrbench cannot check who computed these results, or from which weights. They "
            "are compared with one another only.",
            *received,
        ]
    targets = sorted({entry.task for entry in index.entries})
    if notes := [f"{name}: {' '.join(texts)}" for name in targets if (texts := tables.task_notes(name))]:
        parts.append("## Targets\n\n" + bullets(notes))
    if index.problems:
        parts.append("## Unreadable results\n\n" + bullets(index.problems))
    return "\n\n".join(parts) + "\n"


def _section(shown: ForeignTable) -> str:
    return (
        f"## {for_markdown(shown.protocol)}{shown.remark}\n\n{table(shown.rows)}\n\n{for_markdown(legend(shown))}"
        + (f"\n\n{table(shown.scores)}\n\n{tables.LOGME}" if shown.scores else "")
    )


def legend(shown: ForeignTable) -> str:
    """Return the explanation of a table's numbers, as plain text."""
    sentences = [
        "Percent, with Wilson's 95 % interval over test images.",
        f"Headline metric and test images: {shown.targets}.",
        _bold(shown),
        "Transfer seeds are averaged." if shown.averaged else "",
        shown.warning,
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _bold(shown: ForeignTable) -> str:
    """Return the meaning of bold type, or that no row leads; empty if there is only one row."""
    if any(cell.startswith("**") for row in shown.rows for cell in row.values() if isinstance(cell, Marked)):
        return (
            "Bold: significantly better than every other row of its column (paired difference, 95 %), except rows that are "
            "right on exactly the same images."
        )
    return "No row is significantly better than every other row of its column." if len(shown.rows) > 1 else ""


def foreign_tables(index: Index) -> list[ForeignTable]:
    """Return the tables of foreign results: the workspace's own first, and of these, those of full data."""
    shown = []
    for received, partial in product((False, True), repeat=2):
        kept = [entry for entry in index.entries if entry.partial == partial and (entry.origin is not None) == received]
        for protocol in sorted({entry.protocol for entry in kept}):
            entries = [entry for entry in kept if entry.protocol == protocol]
            columns = {task: _Column.of(entries, task, index) for task in sorted({entry.task for entry in entries})}
            mixed = [task for task, column in columns.items() if column.mixed]
            warning = f"Not comparable within the column (different images, settings or protocol versions): {', '.join(mixed)}."
            shown.append(
                ForeignTable(
                    protocol=protocol,
                    rows=_rows(entries, columns),
                    scores=_scores(entries, list(columns)) if gives_evidence(protocol) else (),
                    targets="; ".join(column.description for column in columns.values()),
                    warning=warning if mixed else "",
                    averaged=len({(*_row_of(entry), entry.task) for entry in entries}) < len(entries),
                    partial=partial,
                    received=received,
                )
            )
    return shown


_Row = tuple[str, str]
"""A snapshot's name and its weights' hash."""


def _row_of(entry: Entry) -> _Row:
    return f"{entry.reference}{' (random weights)' if entry.random else ''}", entry.sha256


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Results on one target under one protocol.

    Attributes:
        task: The target.
        metric: Its headline metric.
        test_counts: Numbers of test images; several if results are on different images.
        mixed: Whether its results are not comparable.
        labels: Labels of the test images, for each row. Shape `(I,)`.
        correct: Share of transfer seeds that predict each test image correctly, for each row. Shape `(I,)`.
    """

    task: str
    metric: str
    test_counts: tuple[int, ...]
    mixed: bool
    labels: dict[_Row, Labels]
    correct: dict[_Row, Floats]

    @classmethod
    def of(cls, entries: Sequence[Entry], task: str, index: Index) -> "_Column":
        of_task = [entry for entry in entries if entry.task == task]
        by_row: dict[_Row, list[Entry]] = {}
        for entry in of_task:
            by_row.setdefault(_row_of(entry), []).append(entry)
        # Transfer seeds are averaged only if they share the test images of the last one.
        for row, seeds in by_row.items():
            by_row[row] = [entry for entry in seeds if entry.labels == seeds[-1].labels]
        return cls(
            task=task,
            metric=of_task[-1].metric,
            test_counts=tuple(sorted({entry.test_count for entry in of_task})),
            mixed=_is_mixed(of_task),
            labels={row: index.labels[seeds[0].labels] for row, seeds in by_row.items()},
            correct={row: np.mean([entry.hits for entry in seeds], axis=0) for row, seeds in by_row.items()},
        )

    @property
    def description(self) -> str:
        """The target with its headline metric and number of test images."""
        counts = " or ".join(f"{count:,}" for count in self.test_counts)
        return f"{self.task} {METRIC_NAMES.get(self.metric, self.metric)}, {counts}"

    @property
    def leaders(self) -> set[_Row]:
        """The best row and those with the same predictions, if they are significantly better than all others."""
        if self.mixed:
            return set()
        best = max(self.correct, key=lambda row: self._mean(self.correct[row], row))
        same = {row for row, correct in self.correct.items() if np.array_equal(correct, self.correct[best])}
        others = self.correct.keys() - same
        return same if others and all(self._is_better(best, row) for row in others) else set()

    def _is_better(self, row: _Row, other: _Row) -> bool:
        correct, other_correct = self.correct[row], self.correct[other]
        if self.metric == "top1" and np.isin(correct, (0, 1)).all() and np.isin(other_correct, (0, 1)).all():
            # The same test as in `lrbench recommend`.
            return paired_interval(correct > 0, other_correct > 0)[1] > 0
        lead = correct - other_correct
        return self._mean(lead, row) > half_width_over_images(image_variance(lead, self.labels[row], self.metric))

    def cell(self, row: _Row, leaders: set[_Row]) -> Marked:
        """Return a row's accuracy with its interval; bold for a leader."""
        if row not in self.correct:
            return Marked(NOTHING)
        ends = interval_over_images(self.correct[row], self.labels[row], self.metric)
        text = f"{100 * self._mean(self.correct[row], row):.1f} {bracketed(*ends)}"
        return Marked(f"**{text}**" if row in leaders else text)

    def _mean(self, values: Floats, row: _Row) -> float:
        return float(compute_headlines(values[None], self.labels[row], self.metric)[0])


def _rows(entries: Sequence[Entry], columns: dict[str, _Column]) -> list[dict[str, str]]:
    leaders = {task: column.leaders for task, column in columns.items()}
    return [
        {
            "snapshot": row[0],
            "weights": row[1][:8],
            **{task: column.cell(row, leaders[task]) for task, column in columns.items()},
        }
        for row in dict.fromkeys(map(_row_of, entries))
    ]


def _scores(entries: Sequence[Entry], targets: Sequence[str]) -> list[dict[str, str]]:
    """Return the LogME score of each snapshot and target, the mean over transfer seeds."""
    scores: dict[_Row, dict[str, list[float]]] = {}
    for entry in entries:
        score = tables.logme_score(entry)
        if score is not None:
            scores.setdefault(_row_of(entry), {}).setdefault(entry.task, []).append(score)
    return [
        {
            "snapshot": row[0],
            "weights": row[1][:8],
            **{task: rounded(float(np.mean(by_task[task])), 3) if task in by_task else NOTHING for task in targets},
        }
        for row, by_task in scores.items()
    ]


def _is_mixed(entries: Sequence[Entry]) -> bool:
    """Return whether the results of a column differ in more than the preprocessing, which depends on the network."""
    kinds = set()
    for entry in entries:
        conditions = entry.conditions
        kinds.add((conditions.protocol_version, conditions.images, conditions.settings, entry.labels))
    return len(kinds) > 1
