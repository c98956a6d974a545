"""A suite's results arranged for comparison: accuracies, paired differences and T by row and column, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import SnapshotKey, find_segment, owner
from lrbench.leaderboard.registration import Registration
from lrbench.stats.intervals import (
    Estimate,
    Floats,
    Ratio,
    compute_headlines,
    estimate,
    fieller,
    image_variance,
    log_odds,
    shrink_shares,
)
from lrbench.store.index import Entry

Row = tuple[str, int]
"""An arm and a stage that it owns."""


def row_name(row: Row) -> str:
    """Return the name of a row, such as `step/stage2`."""
    return f"{row[0]}/stage{row[1]}"


@dataclass(frozen=True, order=True, kw_only=True)
class Column:
    """A target task under a protocol."""

    protocol: str
    task: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Predictions of R rows under one column, over the S seeds that all of them have.

    Attributes:
        correct: Share of transfer seeds that predict each of the I test images correctly. Shape `(R, S, I)`.
        seeds: The S pretraining seeds.
        labels: Labels of the test images. Shape `(I,)`.
        metric: Headline metric of the task.
    """

    correct: Floats
    seeds: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    metric: str

    def headlines(self, values: Floats) -> Floats:
        """Return the headline metric of values of shape `(S, I)`. Shape `(S,)`."""
        return compute_headlines(values, self.labels, self.metric)

    def estimate(self, values: Floats) -> Estimate:
        """Return the mean over seeds of the headline metric of values of shape `(S, I)`, with its interval."""
        return estimate(self.headlines(values), image_variance(values.mean(axis=0), self.labels, self.metric))


@dataclass(kw_only=True)
class Values:
    """Predictions under one column that are comparable with one another.

    Attributes:
        metric: Headline metric of the task.
        labels: Labels of the test images. Shape `(I,)`.
        correct: By row and seed, the share of transfer seeds that predict each test image correctly. Shape `(I,)`.
    """

    metric: str
    labels: npt.NDArray[np.int64]
    correct: dict[tuple[Row, int], npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Evidence:
    """A suite's results.

    Attributes:
        name: Name of the suite.
        suite: The suite, as it was run.
        rows: Arms and stages in the suite's order, each snapshot once.
        columns: Targets under protocols, in the suite's order.
        other_columns: Targets under protocols that the suite does not name, but has results of.
        values: Comparable predictions by column.
        source: Source accuracy by row and seed.
        report: Measures of the source's report by name, row and seed.
        entries: Results that are in a table.
        excluded: Results that are not comparable with those in the tables, each with the reason.
        problems: Errors of files that cannot be read.
        partial: Whether these are results on partial data.
        registration: The suite's registration, if it has one.
    """

    name: str
    suite: Suite
    rows: list[Row]
    columns: list[Column]
    other_columns: list[Column] = field(default_factory=list)
    values: dict[Column, Values] = field(default_factory=dict)
    source: dict[tuple[Row, int], float] = field(default_factory=dict)
    report: dict[str, dict[tuple[Row, int], float]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    excluded: list[tuple[Entry, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    partial: bool = False
    registration: Registration | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Pretraining seeds of a complete row."""
        return self.suite.seeds

    @property
    def expected(self) -> int:
        """Number of cells of the complete suite."""
        cells = sum(self.suite.uses(column.protocol, row[0]) for row in self.rows for column in self.columns)
        return cells * len(self.seeds) * len(self.suite.transfer_seeds)

    @property
    def completed(self) -> int:
        """Number of the suite's cells that have results."""
        counts = [
            sum(self.suite.uses(column.protocol, row[0]) for row, _ in self.values[column].correct)
            for column in self.columns
            if column in self.values
        ]
        return sum(counts) * len(self.suite.transfer_seeds)

    def missing(self, row: Row, column: Column) -> list[int]:
        """Return the seeds whose results the suite needs but lacks."""
        if not self.suite.uses(column.protocol, row[0]):
            return []
        values = self.values.get(column)
        return [seed for seed in self.seeds if values is None or (row, seed) not in values.correct]

    def select(self, column: Column, rows: Sequence[Row], *, with_source: bool = False) -> Selection | None:
        """Return the predictions of rows over the seeds that all of them have; None if there is no such seed.

        Args:
            column: Target and protocol.
            rows: Arms and stages.
            with_source: Whether a seed must have the source accuracies too.
        """
        values = self.values.get(column)
        if values is None:
            return None
        seeds = tuple(
            seed
            for seed in self.seeds
            if all((row, seed) in values.correct and (not with_source or (row, seed) in self.source) for row in rows)
        )
        if not seeds:
            return None
        correct = np.array([[values.correct[row, seed] for seed in seeds] for row in rows], dtype=np.float64)
        return Selection(correct=correct, seeds=seeds, labels=values.labels, metric=values.metric)

    def accuracy(self, row: Row, column: Column) -> Estimate | None:
        """Return the headline metric of a row over its seeds; None if it has none."""
        data = self.select(column, [row])
        return None if data is None else data.estimate(data.correct[0])

    def difference(self, row: Row, other: Row, column: Column) -> Estimate | None:
        """Return the paired difference of two rows over the seeds that both have; None if there are none."""
        data = self.select(column, [row, other])
        return None if data is None else data.estimate(data.correct[0] - data.correct[1])

    def source_accuracy(self, row: Row) -> Estimate | None:
        """Return the source accuracy of a row over its seeds."""
        return self._estimate([self.source[row, seed] for seed in self.seeds if (row, seed) in self.source])

    def source_difference(self, row: Row, other: Row) -> Estimate | None:
        """Return the paired difference of two rows' source accuracies over the seeds that both have."""
        source = self.source
        return self._estimate(
            [
                source[row, seed] - source[other, seed]
                for seed in self.seeds
                if (row, seed) in source and (other, seed) in source
            ]
        )

    def reported(self, name: str, row: Row) -> Estimate | None:
        """Return a measure of the source's report for a row over its seeds."""
        values = self.report[name]
        return self._estimate([values[row, seed] for seed in self.seeds if (row, seed) in values])

    def transferability(self, row: Row, before: Row, column: Column, *, scale: str = "raw") -> Ratio | None:
        """Return T of a stage, the gain on the target divided by the gain on the source, with Fieller's interval.

        Args:
            row: The stage.
            before: The stage that it started from.
            column: Target and protocol.
            scale: `raw`, or `logit` for gains of log-odds, which have no ceiling (Kornblith et al. 2019).
        """
        data = self.select(column, [row, before], with_source=True)
        if data is None:
            return None
        source = np.array([[self.source[each, seed] for seed in data.seeds] for each in (row, before)])
        if scale == "raw":
            gains = data.correct[0] - data.correct[1]
            return fieller(
                data.headlines(gains),
                source[0] - source[1],
                image_variance(gains.mean(axis=0), data.labels, data.metric),
            )
        # By the delta method, an image changes the log-odds by the slope 1 / (p (1 − p)) at a row's mean accuracy p.
        count = len(data.labels)
        accuracies = np.array([data.headlines(correct) for correct in data.correct])
        slopes = [1 / (mean * (1 - mean)) for mean in shrink_shares(accuracies.mean(axis=1), count)]
        per_image = data.correct[0].mean(axis=0) * slopes[0] - data.correct[1].mean(axis=0) * slopes[1]
        odds = log_odds(shrink_shares(accuracies, count))
        # Results do not record the number of source test images, so source accuracies are moved only if one is 0 or 1.
        inside = source if ((source > 0) & (source < 1)).all() else shrink_shares(source, count)
        source_odds = log_odds(inside)
        return fieller(
            odds[0] - odds[1],
            source_odds[0] - source_odds[1],
            image_variance(per_image, data.labels, data.metric, max(slopes)),
        )

    def previous(self, row: Row) -> Row | None:
        """Return the row of the previous stage, from which a row was trained; None for stage 0."""
        arm, stage = row
        if stage == 0:
            return None
        key: SnapshotKey | None = SnapshotKey(arm=arm, seed=self.seeds[0], stage=stage)
        # Snapshots taken while a trunk trains have that trunk as parent, which is no earlier stage.
        while key is not None and key.stage >= stage:
            key = find_segment(self.suite.schedule, key).parent
        return None if key is None else (key.arm, key.stage)

    def rows_of_other_weights(self, columns: Sequence[Column]) -> list[tuple[Row, int]]:
        """Return the rows and seeds whose weights in some columns differ from those in the suite's own columns."""
        own: dict[tuple[Row, int], str] = {}
        others: dict[tuple[Row, int], str] = {}
        for entry in self.entries:
            assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
            column = Column(protocol=entry.protocol, task=entry.task)
            weights = own if column in self.columns else others if column in columns else {}
            weights[(entry.arm, entry.stage), entry.pretraining_seed] = entry.sha256
        return sorted((row, seed) for (row, seed), sha256 in others.items() if own.get((row, seed), sha256) != sha256)

    def control_pairs(self) -> list[tuple[Row, Row]]:
        """Return each stage of `step` paired with the other arms' snapshots after the same number of epochs."""
        pairs: list[tuple[Row, Row]] = []
        schedule = self.suite.schedule
        for stage in range(2, schedule.stages + 1):
            for arm in self.suite.arms:
                if ARMS[arm].intermediate or ARMS[arm].ends(schedule)[stage] != schedule.ends[stage]:
                    continue
                row = (owner(arm, stage, schedule), stage)
                if (("step", stage), row) not in pairs and row[0] != "step" and row in self.rows:
                    pairs.append((("step", stage), row))
        return pairs

    @staticmethod
    def _estimate(values: list[float]) -> Estimate | None:
        return estimate(np.array(values)) if values else None


def is_without_decay(suite: Suite, row: Row) -> bool:
    """Return whether a snapshot was trained at one learning rate only; the saturation null is fitted to such snapshots.

    Intermediate weights from which training continues do not count: `trail` samples the same run, and no state may count
    twice.
    """
    key: SnapshotKey | None = SnapshotKey(arm=row[0], seed=suite.seeds[0], stage=row[1])
    rates = set()
    while key is not None and key.stage > 0:
        part = find_segment(suite.schedule, key)
        rates.add(None if part.cosine or part.branches else part.rate)
        key = part.parent
    return len(rates) == 1 and None not in rates
