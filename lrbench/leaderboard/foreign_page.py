"""The page of snapshots that belong to no suite: timm models, the Hub's, and files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrbench.config.task import METRIC_NAMES
from lrbench.core.escaping import for_markdown
from lrbench.core.workspace import FOREIGN
from lrbench.leaderboard import tables
from lrbench.leaderboard.markup import NOTHING, Marked, bracketed, bullets, rounded, table
from lrbench.stats.intervals import (
    Floats,
    half_width_over_images,
    headlines_of,
    image_variance,
    interval_over_images,
)
from lrbench.stats.resampling import Labels, paired_interval
from lrbench.store.index import Entry, Index, load_index


@dataclass(frozen=True, kw_only=True)
class ForeignTable:
    """One protocol's table of snapshots that belong to no suite.

    Attributes:
        protocol: Its name.
        rows: A row a snapshot, with its name, the start of its weights' hash, and a column a target.
        scores: The same with LogME's scores; empty for another protocol.
        targets: Each target's headline and number of test images, as plain text.
        warning: Which of its columns do not compare, in a sentence of plain text; empty where all do.
        averaged: Whether some of it is the mean of several transfer seeds.
        partial: Whether the data was not whole.
    """

    protocol: str
    rows: Sequence[dict[str, str]]
    scores: Sequence[dict[str, str]]
    targets: str
    warning: str
    averaged: bool
    partial: bool


LEAD = (
    "Snapshots from outside lrbench's suites, with the BatchNorm statistics that they came with. Each is one pretraining run, "
    "so intervals are over test images alone: they say how well these weights do, and nothing about another run."
)
"""What the page of foreign snapshots is about."""


def render_foreign(results: Path, cache: Path | None = None) -> str:
    """A table a protocol: a row a snapshot, a column a target."""
    index = load_index(results, FOREIGN, cache)
    parts = ["# Other snapshots", LEAD]
    made = foreign_tables(index)
    parts += [_section(shown) for shown in made if not shown.partial]
    if partial := [_section(shown) for shown in made if shown.partial]:
        parts += ["## Partial data\n\nMade with data that was not whole; compared among themselves only.", *partial]
    targets = sorted({entry.task for entry in index.entries})
    if notes := [f"{name}: {' '.join(texts)}" for name in targets if (texts := tables.task_notes(name))]:
        parts.append("## Targets\n\n" + bullets(notes))
    if index.problems:
        parts.append("## Left out\n\n" + bullets(index.problems))
    return "\n\n".join(parts) + "\n"


def _section(shown: ForeignTable) -> str:
    word = " (partial data)" if shown.partial else ""
    return f"## {for_markdown(shown.protocol)}{word}\n\n{table(shown.rows)}\n\n{for_markdown(legend(shown))}" + (
        f"\n\n{table(shown.scores)}\n\n{tables.LOGME}" if shown.scores else ""
    )


def legend(shown: ForeignTable) -> str:
    """What the numbers of a table are, as plain text."""
    sentences = [
        "Percent, with the 95 % interval over test images (Wilson's).",
        f"Headline metric and test images: {shown.targets}.",
        _bold(shown),
        "Transfer seeds are averaged." if shown.averaged else "",
        shown.warning,
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _bold(shown: ForeignTable) -> str:
    """What bold says, or that no row leads; nothing where there is only one row."""
    if any(cell.startswith("**") for row in shown.rows for cell in row.values() if isinstance(cell, Marked)):
        return (
            "Bold: best of its column, and its lead over every other row (except rows that are right on exactly the same "
            "images) is beyond the interval of their paired difference."
        )
    return "No row leads its column by more than the interval of a paired difference." if len(shown.rows) > 1 else ""


def foreign_tables(index: Index) -> list[ForeignTable]:
    """The tables of foreign results, those of whole data first."""
    made = []
    for partial in (False, True):
        for protocol in sorted({entry.protocol for entry in index.entries if entry.partial == partial}):
            mine = [entry for entry in index.entries if entry.partial == partial and entry.protocol == protocol]
            columns = {task: _Column.of(mine, task, index) for task in sorted({entry.task for entry in mine})}
            mixed = [task for task, column in columns.items() if column.mixed]
            warning = (
                f"Not comparable down the column (different images, settings or protocol versions): {', '.join(mixed)}."
            )
            made.append(
                ForeignTable(
                    protocol=protocol,
                    rows=_rows(mine, columns),
                    scores=_scores(mine, list(columns)) if protocol == "logme" else (),
                    targets="; ".join(column.words for column in columns.values()),
                    warning=warning if mixed else "",
                    averaged=len({(*_row_of(entry), entry.task) for entry in mine}) < len(mine),
                    partial=partial,
                )
            )
    return made


_Row = tuple[str, str]
"""A snapshot's name and its weights' hash."""


def _row_of(entry: Entry) -> _Row:
    return f"{entry.reference}{' (random weights)' if entry.random else ''}", entry.sha256


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One target under one protocol.

    Attributes:
        task: The target.
        metric: Its headline.
        test_counts: Numbers of test images; several where results are of different images.
        mixed: Whether its results do not compare.
        labels: Of the test images of each row. Each of shape `(M,)`.
        correct: How often each row had each test image right, over the transfer seeds. Each of shape `(M,)`.
    """

    task: str
    metric: str
    test_counts: tuple[int, ...]
    mixed: bool
    labels: dict[_Row, Labels]
    correct: dict[_Row, Floats]

    @classmethod
    def of(cls, entries: Sequence[Entry], task: str, index: Index) -> "_Column":
        mine = [entry for entry in entries if entry.task == task]
        hits: dict[_Row, list[Entry]] = {}
        for entry in mine:
            hits.setdefault(_row_of(entry), []).append(entry)
        # Transfer seeds that were tested on other images than the last one are not averaged with it.
        alike = {row: [each for each in found if each.labels == found[-1].labels] for row, found in hits.items()}
        return cls(
            task=task,
            metric=mine[-1].metric,
            test_counts=tuple(sorted({entry.test_count for entry in mine})),
            mixed=_mixed(mine),
            labels={row: index.labels[found[0].labels] for row, found in alike.items()},
            correct={row: np.mean([each.hits for each in found], axis=0) for row, found in alike.items()},
        )

    @property
    def words(self) -> str:
        """The target with its headline and its test images."""
        counts = " or ".join(f"{count:,}" for count in self.test_counts)
        return f"{self.task} {METRIC_NAMES.get(self.metric, self.metric)}, {counts}"

    @property
    def leaders(self) -> set[_Row]:
        """The best row, if its lead over every other is beyond the interval of their difference, and those that equal it."""
        if self.mixed:
            return set()
        best = max(self.correct, key=lambda row: self._mean(self.correct[row], row))
        same = {row for row, correct in self.correct.items() if np.array_equal(correct, self.correct[best])}
        others = self.correct.keys() - same
        return same if others and all(self._leads(best, row) for row in others) else set()

    def _leads(self, best: _Row, row: _Row) -> bool:
        ahead, behind = self.correct[best], self.correct[row]
        if self.metric == "top1" and all(np.isin(each, (0, 1)).all() for each in (ahead, behind)):
            # As `lrbench recommend` says it.
            return paired_interval(ahead > 0, behind > 0)[1] > 0
        lead = ahead - behind
        return self._mean(lead, best) > half_width_over_images(image_variance(lead, self.labels[best], self.metric))

    def level(self, row: _Row, leaders: set[_Row]) -> Marked:
        """A row's headline with its interval; bold for a leader."""
        if row not in self.correct:
            return Marked(NOTHING)
        ends = interval_over_images(self.correct[row], self.labels[row], self.metric)
        text = f"{100 * self._mean(self.correct[row], row):.1f} {bracketed(*ends)}"
        return Marked(f"**{text}**" if row in leaders else text)

    def _mean(self, values: Floats, row: _Row) -> float:
        return float(headlines_of(values[None], self.labels[row], self.metric)[0])


def _rows(entries: Sequence[Entry], columns: dict[str, _Column]) -> list[dict[str, str]]:
    leaders = {task: column.leaders for task, column in columns.items()}
    return [
        {
            "snapshot": row[0],
            "weights": row[1][:8],
            **{task: column.level(row, leaders[task]) for task, column in columns.items()},
        }
        for row in dict.fromkeys(map(_row_of, entries))
    ]


def _scores(entries: Sequence[Entry], targets: Sequence[str]) -> list[dict[str, str]]:
    """LogME of each snapshot and target, the mean over transfer seeds."""
    found: dict[_Row, dict[str, list[float]]] = {}
    for entry in entries:
        score = tables.logme_score(entry)
        if score is not None:
            found.setdefault(_row_of(entry), {}).setdefault(entry.task, []).append(score)
    return [
        {
            "snapshot": row[0],
            "weights": row[1][:8],
            **{task: rounded(float(np.mean(by[task])), 3) if task in by else NOTHING for task in targets},
        }
        for row, by in found.items()
    ]


def _mixed(entries: Sequence[Entry]) -> bool:
    """Whether results of a column differ in more than the network's input, in which foreign networks differ by nature."""
    kinds = set()
    for entry in entries:
        conditions = entry.conditions
        kinds.add((conditions.protocol_version, conditions.images, conditions.settings, entry.labels))
    return len(kinds) > 1
