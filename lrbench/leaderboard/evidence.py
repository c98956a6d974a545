"""A suite's results arranged for comparison: accuracies, paired differences and T by row and column, over seeds."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import SnapshotKey, find_segment, owner, previous_stage
from lrbench.leaderboard.registration import Registration
from lrbench.stats.effects import Effect, mean_effect
from lrbench.stats.images import ImageValues, Labels, compute_headlines, log_odds, shrink_shares
from lrbench.stats.intervals import Estimate, Floats, estimate_over_seeds
from lrbench.stats.ratios import Ratio, fieller
from lrbench.store.cells import source_protocols
from lrbench.store.index import Entry

SOURCE = "source"
"""Name of the source's test images among the sets of images of an effect."""

MEAN_OF_TARGETS = "mean of targets"
"""Heading of the mean over a suite's targets; no task's name has a space."""

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
        images: Name of the set of images: the task, or `SOURCE`.
    """

    correct: Floats
    seeds: tuple[int, ...]
    labels: Labels
    metric: str
    images: str

    def effect(self, values: Floats, unit: float = 1.0) -> Effect:
        """Return the effect to which each image contributes a value of each seed.

        Args:
            values: Shape `(S, I)`.
            unit: Change of an image's value when its prediction changes from wrong to right.
        """
        part = ImageValues(values=values, labels=self.labels, metric=self.metric, unit=unit)
        return Effect(seeds=self.seeds, values=part.headlines, images={self.images: part})


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
        source_labels: Labels of the source's test images, shape `(J,)`; None if no predictions on them are stored, or if each
            seed has its own images.
        source_correct: By row and seed, whether each of them is predicted correctly. Shape `(J,)`.
        hit_labels: Labels of the images of `HIT_BLOCKS` by block; empty if no predictions on them are stored.
        hits: By block, row and seed, whether each of its images is predicted as labelled. Shape `(J,)`.
        fit: Measures of the fit to training images of the source by name (`store.measures.FIT`), row and seed.
        report: Measures of the source's report by name, row and seed.
        stage_rules: Epoch at which each rule would have ended a snapshot's stage by row and seed, or None for a rule that would
            not.
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
    source_labels: Labels | None = None
    source_correct: dict[tuple[Row, int], npt.NDArray[np.float32]] = field(default_factory=dict)
    hit_labels: dict[str, Labels] = field(default_factory=dict)
    hits: dict[str, dict[tuple[Row, int], npt.NDArray[np.float32]]] = field(default_factory=dict)
    fit: dict[str, dict[tuple[Row, int], float]] = field(default_factory=dict)
    report: dict[str, dict[tuple[Row, int], float]] = field(default_factory=dict)
    stage_rules: dict[tuple[Row, int], dict[str, int | None]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    excluded: list[tuple[Entry, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    partial: bool = False
    registration: Registration | None = None
    _estimates: dict[tuple[Row, Row | None, Column | None], Estimate | None] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Pretraining seeds of a complete row."""
        return self.suite.seeds

    @property
    def expected(self) -> int:
        """Number of cells of the complete suite; of predictions of the source if it has no targets."""
        if not self.suite.targets:
            return len(self.rows) * len(self.seeds) * len(source_protocols(self.suite))
        cells = sum(self.suite.uses(column.protocol, row[0]) for row in self.rows for column in self.columns)
        return cells * len(self.seeds) * len(self.suite.transfer_seeds)

    @property
    def completed(self) -> int:
        """Number of these cells that have results."""
        if not self.suite.targets:
            with_hits = {key for block in self.hits.values() for key in block}
            return len(self.source_correct) + len(with_hits) + len(self.fit.get("loss", {}))
        count = 0
        for column in self.columns:
            if column in self.values:
                by_arm = Counter(arm for (arm, _), _ in self.values[column].correct)
                count += sum(number for arm, number in by_arm.items() if self.suite.uses(column.protocol, arm))
        return count * len(self.suite.transfer_seeds)

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
            with_source: Whether a seed must have the predictions on the source's test images too.
        """
        values = self.values.get(column)
        if values is None:
            return None
        source = self.source_correct
        seeds = tuple(
            seed
            for seed in self.seeds
            if all((row, seed) in values.correct and (not with_source or (row, seed) in source) for row in rows)
        )
        if not seeds:
            return None
        correct = np.array([[values.correct[row, seed] for seed in seeds] for row in rows], dtype=np.float64)
        return Selection(correct=correct, seeds=seeds, labels=values.labels, metric=values.metric, images=column.task)

    def select_source(self, rows: Sequence[Row], seeds: Sequence[int] | None = None) -> Selection | None:
        """Return the predictions of rows on the source's test images.

        Args:
            rows: Arms and stages.
            seeds: Pretraining seeds, which all of them have; None for those that all of them have.

        Returns:
            The predictions, by `top1`; None if there is no such seed, or if each seed has its own images.
        """
        source = {} if self.suite.books else self.source_correct
        if seeds is None:
            seeds = [seed for seed in self.seeds if all((row, seed) in source for row in rows)]
        if not seeds or self.source_labels is None:
            return None
        correct = np.array([[source[row, seed] for seed in seeds] for row in rows], dtype=np.float64)
        return Selection(correct=correct, seeds=tuple(seeds), labels=self.source_labels, metric="top1", images=SOURCE)

    def select_hits(self, block: str, rows: Sequence[Row]) -> Selection | None:
        """Return whether images of a block are predicted as labelled, over the seeds that all rows have.

        The mean over block `wrong` is the share of wrong labels that are memorised; over `right`, the fit of clean labels.

        Args:
            block: One of `HIT_BLOCKS`.
            rows: Arms and stages.

        Returns:
            None if there is no such seed, if the source has no such images, or if each seed has its own.
        """
        hits = {} if self.suite.books else self.hits.get(block, {})
        seeds = tuple(seed for seed in self.seeds if all((row, seed) in hits for row in rows))
        if not seeds:
            return None
        correct = np.array([[hits[row, seed] for seed in seeds] for row in rows], dtype=np.float64)
        images = f"{SOURCE}, {block}"
        return Selection(correct=correct, seeds=seeds, labels=self.hit_labels[block], metric="top1", images=images)

    def accuracy(self, row: Row, column: Column) -> Estimate | None:
        """Return the headline metric of a row over its seeds; None if it has none."""

        def compute() -> Estimate | None:
            data = self.select(column, [row])
            return None if data is None else data.effect(data.correct[0]).estimate()

        return self._remember((row, None, column), compute)

    def difference(self, row: Row, other: Row, column: Column) -> Estimate | None:
        """Return the paired difference of two rows over the seeds that both have; None if there are none."""

        def compute() -> Estimate | None:
            effect = self.difference_effect(row, other, column)
            return None if effect is None else effect.estimate()

        return self._remember((row, other, column), compute)

    def _remember(
        self, key: tuple[Row, Row | None, Column | None], compute: Callable[[], Estimate | None]
    ) -> Estimate | None:
        """Return an estimate that several tables and figures show, computed once."""
        if key not in self._estimates:
            self._estimates[key] = compute()
        return self._estimates[key]

    def difference_effect(self, row: Row, other: Row, column: Column) -> Effect | None:
        """Return the paired difference of two rows as an effect; None if they have no seed in common."""
        data = self.select(column, [row, other])
        return None if data is None else data.effect(data.correct[0] - data.correct[1])

    def mean_difference(self, row: Row, other: Row, protocol: str) -> Estimate | None:
        """Return the paired difference of two rows, averaged over the suite's targets; None if a target has none."""
        effects = [self.difference_effect(row, other, column) for column in self.columns if column.protocol == protocol]
        complete = [effect for effect in effects if effect is not None]
        mean = mean_effect(complete) if len(complete) == len(effects) else None
        return None if mean is None else mean.estimate()

    def source_accuracy(self, row: Row) -> Estimate | None:
        """Return the source accuracy of a row over its seeds, without an interval if its predictions are not stored."""
        return self._remember((row, None, None), lambda: self._source_estimate([row], lambda values: values[0]))

    def source_difference(self, row: Row, other: Row) -> Estimate | None:
        """Return the paired difference of two rows' source accuracies over the seeds that both have."""
        return self._remember(
            (row, other, None), lambda: self._source_estimate([row, other], lambda values: values[0] - values[1])
        )

    def _source_estimate(self, rows: Sequence[Row], combine: Callable[[Floats], Floats]) -> Estimate | None:
        seeds = [seed for seed in self.seeds if all((row, seed) in self.source for row in rows)]
        if not seeds:
            return None
        data = self.select_source(rows)
        if data is not None and list(data.seeds) == seeds:
            return data.effect(combine(data.correct)).estimate()
        values = combine(np.array([[self.source[row, seed] for seed in seeds] for row in rows]))
        if self.suite.books:
            return estimate_over_seeds(values)
        # An interval over seeds alone would be too narrow: the source's test images are a sample, too.
        return Estimate(mean=float(values.mean()), seeds=len(seeds), seed_variance=None)

    def reported(self, name: str, row: Row) -> Estimate | None:
        """Return a measure of the source's report for a row over its seeds, with an interval over seeds only."""
        values = self.report[name]
        seeds = [seed for seed in self.seeds if (row, seed) in values]
        return estimate_over_seeds([values[row, seed] for seed in seeds]) if seeds else None

    def gains(self, row: Row, before: Row, column: Column, *, scale: str = "raw") -> tuple[Effect, Effect] | None:
        """Return the gains on the target and on the source from one row to another.

        Args:
            row: The later stage.
            before: The earlier stage.
            column: Target and protocol.
            scale: `raw`, or `logit` for gains of log-odds, which have no ceiling (Kornblith et al. 2019).

        Returns:
            Both over the seeds that have all predictions; None if there is no such seed.
        """
        target = self.select(column, [row, before], with_source=True)
        source = None if target is None else self.select_source([row, before], target.seeds)
        if target is None or source is None:
            return None
        gain = _log_odds_gain if scale == "logit" else _gain
        return gain(target), gain(source)

    def transferability(self, row: Row, before: Row, column: Column, *, scale: str = "raw") -> Ratio | None:
        """Return T of a stage, the gain on the target divided by the gain on the source, with Fieller's interval.

        Args:
            row: The stage.
            before: The stage that it started from.
            column: Target and protocol.
            scale: `raw` or `logit`; see `gains`.
        """
        gains = self.gains(row, before, column, scale=scale)
        return None if gains is None else fieller(*gains)

    def previous(self, row: Row) -> Row | None:
        """Return the row of the previous stage, from which a row was trained; None for stage 0."""
        key = previous_stage(self.suite.schedule, SnapshotKey(arm=row[0], seed=self.seeds[0], stage=row[1]))
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
                record = ARMS[arm]
                if record.intermediate or record.has_own_pace or record.ends(schedule)[stage] != schedule.ends[stage]:
                    continue
                row = (owner(arm, stage, schedule), stage)
                if (("step", stage), row) not in pairs and row[0] != "step" and row in self.rows:
                    pairs.append((("step", stage), row))
        return pairs


def _gain(data: Selection) -> Effect:
    """Return the difference of a selection's two rows."""
    return data.effect(data.correct[0] - data.correct[1])


def _log_odds_gain(data: Selection) -> Effect:
    """Return the difference of the log-odds of a selection's two rows.

    By the delta method, an image changes the log-odds by the slope 1 / (p (1 − p)) at a row's mean accuracy p.
    """
    count = len(data.labels)
    accuracies = shrink_shares(
        np.array([compute_headlines(rows, data.labels, data.metric) for rows in data.correct]), count
    )
    slopes = [1 / (mean * (1 - mean)) for mean in accuracies.mean(axis=1)]
    contributions = data.effect(data.correct[0] * slopes[0] - data.correct[1] * slopes[1], max(slopes))
    odds = log_odds(accuracies)
    return replace(contributions, values=odds[0] - odds[1])


def fits_null(suite: Suite, row: Row) -> bool:
    """Return whether the saturation null is fitted to a snapshot: trained at one rate and batch, and not averaged.

    Averages gain far more on the source than on targets, and would bend the curve. Intermediate weights from which training
    continues do not count either: `trail` samples the same run, and no state may count twice.
    """
    key: SnapshotKey | None = SnapshotKey(arm=row[0], seed=suite.seeds[0], stage=row[1])
    rates = set()
    while key is not None and key.stage > 0:
        part = find_segment(suite.schedule, key)
        if part.averaged:
            return False
        varies = part.cosine or part.branches or part.growth > 1 or part.paced_by is not None
        rates.add(None if varies else part.rate)
        key = part.parent
    return len(rates) == 1 and None not in rates
