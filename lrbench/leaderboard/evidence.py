"""A suite's results arranged for comparison: which can stand in one table, and what is missing."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from lrbench.arms import SnapshotKey, owner, segment, snapshot_keys
from lrbench.errors import InputError
from lrbench.leaderboard.statistics import (
    Estimate,
    Floats,
    Ratio,
    estimate,
    fieller,
    headline_of,
    image_variance,
    kept_inside,
    log_odds,
)
from lrbench.registry import Suite
from lrbench.results import Result, StoredResult, load_results

Row = tuple[str, int]
"""An arm and a stage that it owns."""


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
        return np.array([headline_of(each, self.labels, self.metric) for each in values])

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
    correct: dict[tuple[Row, int], Floats] = field(default_factory=dict)


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
        stored: Every readable result that stands in a table.
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
    stored: list[StoredResult]
    apart: list[tuple[StoredResult, str]]
    problems: list[str]
    partial: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """The pretraining seeds that a complete row has."""
        return self.suite.seeds

    @property
    def expected(self) -> int:
        """Number of cells when everything is there."""
        return len(self.rows) * len(self.columns) * len(self.seeds) * len(self.suite.transfer_seeds)

    @property
    def there(self) -> int:
        """Number of the suite's cells that are there."""
        counts = [len(self.values[column].correct) for column in self.columns if column in self.values]
        return sum(counts) * len(self.suite.transfer_seeds)

    def missing(self, row: Row, column: Column) -> list[int]:
        """Seeds whose result is not there."""
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
        source_odds = [log_odds(kept_inside(each, count)) for each in source]
        return fieller(
            odds[0] - odds[1],
            source_odds[0] - source_odds[1],
            image_variance(per_image, data.labels, data.metric),
        )

    def before(self, row: Row) -> Row | None:
        """The snapshot that a stage started from: the stage before it."""
        arm, stage = row
        if stage == 0:
            return None
        stretch = segment(self.suite.schedule, SnapshotKey(arm=arm, seed=self.seeds[0], stage=stage))
        if stretch.averaged:
            # An average stands in its trunk's place, so its stage before is its trunk's.
            assert stretch.parent is not None
            stretch = segment(self.suite.schedule, stretch.parent)
        assert stretch.parent is not None
        return stretch.parent.arm, stretch.parent.stage

    def controls(self) -> list[tuple[Row, Row]]:
        """`step` beside each control at the same stage."""
        pairs = []
        for stage in range(2, self.suite.schedule.stages + 1):
            for arm in self.suite.arms:
                row = (owner(arm, stage), stage)
                if arm != "step" and (("step", stage), row) not in pairs and row in self.rows:
                    pairs.append((("step", stage), row))
        return pairs

    def _both(self, row: Row, before: Row) -> list[int]:
        return [seed for seed in self.seeds if (row, seed) in self.source and (before, seed) in self.source]

    @staticmethod
    def _of(values: list[float]) -> Estimate | None:
        return estimate(np.array(values)) if values else None


def without_decay(suite: Suite, row: Row) -> bool:
    """Whether a trained snapshot has seen one learning rate only: what the saturation null is fitted to."""
    key: SnapshotKey | None = SnapshotKey(arm=row[0], seed=suite.seeds[0], stage=row[1])
    rates = set()
    while key is not None and key.stage > 0:
        stretch = segment(suite.schedule, key)
        rates.add(stretch.rate)
        key = stretch.parent
    return len(rates) == 1


def gather(results: Path, suite: Suite) -> list[Evidence]:
    """Arrange a suite's results: full ones first, then, apart, those of partial data.

    Args:
        results: The workspace's results folder.
        suite: The suite, which says what is to be there.

    Returns:
        One or two bodies of evidence; the second only where there are results of partial data.
    """
    stored, problems = load_results(results, suite.name)
    readable: list[StoredResult] = []
    for each in stored:
        try:
            _ = each.predictions
            readable.append(each)
        except InputError as error:
            problems.append(str(error))
    full = [each for each in readable if not each.result.partial]
    partial = [each for each in readable if each.result.partial]
    bodies = [_arrange(suite, full, problems, partial=False)] if full or not partial else []
    if partial:
        bodies.append(_arrange(suite, partial, [] if bodies else problems, partial=True))
    return bodies


def read_suite(results: Path, name: str) -> Suite:
    """The suite beside its results.

    Raises:
        InputError: It is not there or damaged.
    """
    path = results / name / "suite.json"
    try:
        return Suite.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing, which says what the results beside it belong to. Run the suite again, or copy the file "
            "from where the results come from."
        ) from None
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}). Run the suite again: it writes the file anew.") from error


def comparable(result: Result) -> tuple[object, ...]:
    """What two results of one column must share to stand in one table."""
    return (
        result.protocol_version,
        json.dumps(result.preprocessing, sort_keys=True),
        result.task.fingerprint,
        result.snapshot.source_fingerprint,
        json.dumps(result.settings, sort_keys=True),
    )


_DIFFERENCES = (
    "protocol version",
    "preprocessing",
    "images or labels of the target",
    "images of the source",
    "settings",
)


def _arrange(suite: Suite, stored: list[StoredResult], problems: list[str], *, partial: bool) -> Evidence:
    rows = list(dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(suite, seed=suite.seeds[0])))
    columns = [Column(protocol=protocol, task=task) for protocol in suite.protocols for task in suite.targets]
    evidence = Evidence(
        name=suite.name,
        suite=suite,
        rows=sorted(rows, key=lambda row: (suite.arms.index(row[0]), row[1])),
        columns=columns,
        extra=[],
        values={},
        source={},
        report={},
        stored=[],
        apart=[],
        problems=problems,
        partial=partial,
    )
    by_column: dict[Column, list[StoredResult]] = {}
    for each in stored:
        result = each.result
        column = Column(protocol=result.protocol, task=result.task.name)
        if result.snapshot.arm is None or (result.snapshot.arm, result.snapshot.stage) not in rows:
            evidence.apart.append((each, "its arm or stage is not in the suite"))
        elif result.snapshot.pretraining_seed not in suite.seeds or result.seed not in suite.transfer_seeds:
            evidence.apart.append((each, "its seed is not in the suite"))
        else:
            by_column.setdefault(column, []).append(each)
    evidence.extra = sorted(by_column.keys() - set(columns))
    for column, results in by_column.items():
        _add_column(evidence, column, results)
    return evidence


def _add_column(evidence: Evidence, column: Column, stored: list[StoredResult]) -> None:
    counts = Counter(comparable(each.result) for each in stored)
    # The newest protocol's largest group makes the table.
    best = max(counts, key=lambda key: (key[0], counts[key], key))
    cells: dict[tuple[Row, int], list[StoredResult]] = {}
    for each in stored:
        key = comparable(each.result)
        if key != best:
            differs = [name for name, mine, theirs in zip(_DIFFERENCES, key, best, strict=True) if mine != theirs]
            evidence.apart.append((each, f"another {', another '.join(differs)}"))
            continue
        snapshot = each.result.snapshot
        assert snapshot.arm is not None and snapshot.stage is not None and snapshot.pretraining_seed is not None
        cells.setdefault(((snapshot.arm, snapshot.stage), snapshot.pretraining_seed), []).append(each)
    first = next(iter(cells.values()))[0]
    values = Values(metric=first.result.task.metric, labels=first.predictions.label)
    for (row, seed), members in cells.items():
        evidence.stored.extend(members)
        snapshot = members[0].result.snapshot
        if snapshot.source_accuracy is not None:
            evidence.source[row, seed] = snapshot.source_accuracy
        for name, value in snapshot.source_report.items():
            evidence.report.setdefault(name, {})[row, seed] = value
        if len(members) == len(evidence.suite.transfer_seeds):
            hits = [each.predictions.prediction == each.predictions.label for each in members]
            values.correct[row, seed] = np.mean(np.array(hits, dtype=np.float64), axis=0)
    evidence.values[column] = values
