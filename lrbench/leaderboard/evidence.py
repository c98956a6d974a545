"""A suite's results as they are compared: accuracies, paired differences and T by row and column, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lrbench.config import Suite
from lrbench.config.arms import SnapshotKey, owner, segment
from lrbench.stats.intervals import (
    Estimate,
    Floats,
    Ratio,
    estimate,
    fieller,
    headlines_of,
    image_variance,
    kept_inside,
    log_odds,
)
from lrbench.store.index import Entry

Row = tuple[str, int]
"""An arm and a stage that it owns."""


def row_name(row: Row) -> str:
    """Return the name of a row, such as `step/stage2`."""
    return f"{row[0]}/stage{row[1]}"


@dataclass(frozen=True, order=True, kw_only=True)
class Column:
    """A target under a protocol."""

    protocol: str
    task: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Several rows under one column, over the seeds that all of them have.

    Attributes:
        correct: How often each test image was predicted right. Shape `(rows, n, M)`.
        seeds: The n pretraining seeds.
        labels: Of the test images. Shape `(M,)`.
        metric: The task's headline.
    """

    correct: Floats
    seeds: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    metric: str

    def headlines(self, values: Floats) -> Floats:
        """The headline of values per seed and image. Shape `(n,)`."""
        return headlines_of(values, self.labels, self.metric)

    def estimate(self, values: Floats) -> Estimate:
        """The mean over seeds of the headline of such values, with its interval."""
        return estimate(self.headlines(values), image_variance(values.mean(axis=0), self.labels, self.metric))


@dataclass(kw_only=True)
class Values:
    """Everything comparable under one column.

    Attributes:
        metric: The task's headline.
        labels: Of the test images. Shape `(M,)`.
        correct: By row and seed, how often each test image was predicted right over the transfer seeds. Shape `(M,)`.
    """

    metric: str
    labels: npt.NDArray[np.int64]
    correct: dict[tuple[Row, int], npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Evidence:
    """A suite's results.

    Attributes:
        name: The suite's name.
        suite: The suite, as it was run.
        rows: Arms and stages in the suite's order, each snapshot once.
        columns: Targets under protocols, in the suite's order.
        extra: Targets under protocols that the suite does not name, and that its snapshots were transferred to as well.
        values: What is comparable, by column.
        source: Source accuracy by row and seed.
        report: What the source's annotations say, by name, row and seed.
        stored: Every result that stands in a table.
        apart: Results that cannot stand with the others, each with the reason.
        problems: What is wrong with files that could not be read.
        partial: Whether these are results of partial data.
    """

    name: str
    suite: Suite
    rows: list[Row]
    columns: list[Column]
    extra: list[Column]
    values: dict[Column, Values]
    source: dict[tuple[Row, int], float]
    report: dict[str, dict[tuple[Row, int], float]]
    stored: list[Entry]
    apart: list[tuple[Entry, str]]
    problems: list[str]
    partial: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """The pretraining seeds that a complete row has."""
        return self.suite.seeds

    @property
    def expected(self) -> int:
        """Number of cells when everything is there."""
        cells = sum(self.suite.uses(column.protocol, row[0]) for row in self.rows for column in self.columns)
        return cells * len(self.seeds) * len(self.suite.transfer_seeds)

    @property
    def there(self) -> int:
        """Number of the suite's cells that are there."""
        counts = [
            sum(self.suite.uses(column.protocol, row[0]) for row, _ in self.values[column].correct)
            for column in self.columns
            if column in self.values
        ]
        return sum(counts) * len(self.suite.transfer_seeds)

    def missing(self, row: Row, column: Column) -> list[int]:
        """Seeds whose result the suite asks for and is not there."""
        if not self.suite.uses(column.protocol, row[0]):
            return []
        values = self.values.get(column)
        return [seed for seed in self.seeds if values is None or (row, seed) not in values.correct]

    def rows_of(self, column: Column, rows: Sequence[Row], *, with_source: bool = False) -> Rows | None:
        """Several rows over the seeds that all of them have; None where there is no such seed.

        Args:
            column: Target and protocol.
            rows: Arms and stages.
            with_source: Whether a seed must have the source accuracies as well.
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
        return Rows(correct=correct, seeds=seeds, labels=values.labels, metric=values.metric)

    def level(self, row: Row, column: Column) -> Estimate | None:
        """The headline of a row, over the seeds that are there; None where none is."""
        data = self.rows_of(column, [row])
        return None if data is None else data.estimate(data.correct[0])

    def difference(self, row: Row, before: Row, column: Column) -> Estimate | None:
        """The paired difference of two rows, over the seeds that both have."""
        data = self.rows_of(column, [row, before])
        return None if data is None else data.estimate(data.correct[0] - data.correct[1])

    def source_level(self, row: Row) -> Estimate | None:
        """The source accuracy of a row."""
        return self._of([self.source[row, seed] for seed in self.seeds if (row, seed) in self.source])

    def source_difference(self, row: Row, before: Row) -> Estimate | None:
        """The paired difference of two rows' source accuracies."""
        return self._of([self.source[row, seed] - self.source[before, seed] for seed in self._both(row, before)])

    def reported(self, name: str, row: Row) -> Estimate | None:
        """A value of the source's report."""
        values = self.report[name]
        return self._of([values[row, seed] for seed in self.seeds if (row, seed) in values])

    def transferability(self, row: Row, before: Row, column: Column, *, scale: str = "raw") -> Ratio | None:
        """T of a stage: the gain on the target over the gain on the source, with Fieller's interval over seeds.

        Args:
            row: The stage.
            before: The stage that it started from.
            column: Target and protocol.
            scale: `raw`, or `logit` for gains of log-odds (Kornblith et al. 2019), on which no accuracy is a ceiling.
        """
        data = self.rows_of(column, [row, before], with_source=True)
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
        count = len(data.labels)
        levels = np.array([data.headlines(each) for each in data.correct])
        # Images enter the log-odds to first order: by the slope at each row's mean level.
        slopes = [1 / (level * (1 - level)) for level in kept_inside(levels.mean(axis=1), count)]
        per_image = data.correct[0].mean(axis=0) * slopes[0] - data.correct[1].mean(axis=0) * slopes[1]
        odds = [log_odds(kept_inside(each, count)) for each in levels]
        # How many images the source was tested on is not in a result: its shares are moved only where they must be.
        inside = source if ((source > 0) & (source < 1)).all() else kept_inside(source, count)
        source_odds = [log_odds(each) for each in inside]
        return fieller(
            odds[0] - odds[1],
            source_odds[0] - source_odds[1],
            image_variance(per_image, data.labels, data.metric, max(slopes)),
        )

    def before(self, row: Row) -> Row | None:
        """The snapshot that a stage started from: the stage before it."""
        arm, stage = row
        if stage == 0:
            return None
        key: SnapshotKey | None = SnapshotKey(arm=arm, seed=self.seeds[0], stage=stage)
        # What comes out of a trunk's training has that trunk for a parent, which is no earlier stage.
        while key is not None and key.stage >= stage:
            key = segment(self.suite.schedule, key).parent
        return None if key is None else (key.arm, key.stage)

    def of_other_weights(self, columns: Sequence[Column]) -> list[tuple[Row, int]]:
        """Snapshots whose results in some columns are of other weights than their results in the suite's own columns."""
        own: dict[tuple[Row, int], str] = {}
        others: dict[tuple[Row, int], str] = {}
        for entry in self.stored:
            assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
            column = Column(protocol=entry.protocol, task=entry.task)
            if (into := own if column in self.columns else others if column in columns else None) is not None:
                into[(entry.arm, entry.stage), entry.pretraining_seed] = entry.sha256
        return sorted((row, seed) for (row, seed), sha256 in others.items() if own.get((row, seed), sha256) != sha256)

    def controls(self) -> list[tuple[Row, Row]]:
        """`step` beside each other arm's snapshot after as many epochs of training."""
        pairs: list[tuple[Row, Row]] = []
        schedule = self.suite.schedule
        for stage in range(2, schedule.stages + 1):
            for arm in self.suite.arms:
                if arm in ("step", "trail") or schedule.ends_of(arm)[stage] != schedule.ends[stage]:
                    continue
                row = (owner(arm, stage, schedule), stage)
                if (("step", stage), row) not in pairs and row[0] != "step" and row in self.rows:
                    pairs.append((("step", stage), row))
        return pairs

    def _both(self, row: Row, before: Row) -> list[int]:
        return [seed for seed in self.seeds if (row, seed) in self.source and (before, seed) in self.source]

    @staticmethod
    def _of(values: list[float]) -> Estimate | None:
        return estimate(np.array(values)) if values else None


def without_decay(suite: Suite, row: Row) -> bool:
    """Whether a trained snapshot has seen one learning rate only: what the saturation null is fitted to.

    The first stages of `early` and `late` are left out: they are states of the run at the first rate, which `trail` samples,
    and the same state must not count twice.
    """
    if row[0] in ("early", "late"):
        return False
    key: SnapshotKey | None = SnapshotKey(arm=row[0], seed=suite.seeds[0], stage=row[1])
    rates = set()
    while key is not None and key.stage > 0:
        stretch = segment(suite.schedule, key)
        rates.add(None if stretch.cosine else stretch.rate)
        key = stretch.parent
    return len(rates) == 1 and None not in rates
