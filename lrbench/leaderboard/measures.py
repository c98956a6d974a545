"""Measures beside accuracy of a suite's snapshots, by row, target and seed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lrbench.config.protocols import PROTOCOLS
from lrbench.config.relatives import RELATIVES
from lrbench.config.schedule import last_stage, owner
from lrbench.leaderboard.evidence import Column, Evidence, Row, Selection
from lrbench.stats.effects import Effect
from lrbench.stats.intervals import LEVEL, Estimate, estimate_over_seeds
from lrbench.store.index import Entry
from lrbench.store.measures import FEATURES

SeedValues = Mapping[int, float]
"""Values by pretraining seed, averaged over transfer seeds."""

MIN_CORRELATED = 5
"""Smallest number of seeds over which correlations are computed."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Measures of the snapshots of one suite.

    Attributes:
        values: By name of `lrbench.store.measures.measures_of`, row and target.
    """

    values: Mapping[str, Mapping[tuple[Row, str], SeedValues]]

    def has(self, name: str) -> bool:
        """Return whether any snapshot has a measure."""
        return name in self.values

    def numbers(self, prefix: str) -> list[int]:
        """Return the numbers of a curve's points, rising: `shots_` or `depth_`."""
        return sorted(int(name.removeprefix(prefix)) for name in self.values if name.startswith(prefix))

    def estimate(self, name: str, row: Row, targets: Iterable[str]) -> Estimate | None:
        """Return the mean over targets of a measure of a row, with its interval over the seeds that have every target."""
        by_seed = self.over_targets(name, row, targets)
        return estimate_over_seeds(by_seed.values()) if by_seed else None

    def over_targets(self, name: str, row: Row, targets: Iterable[str]) -> dict[int, float]:
        """Return the mean over targets of a measure of a row, by the seeds that have every target."""
        parts = [self.values.get(name, {}).get((row, target), {}) for target in targets]
        seeds = sorted(set.intersection(*(set(part) for part in parts))) if parts else []
        return {seed: float(np.mean([part[seed] for part in parts])) for seed in seeds}


def collect_measures(evidence: Evidence) -> Measures:
    """Return the measures in a suite's results.

    Measures of features are read from protocols on the frozen features of the penultimate layer, which describe the snapshot.
    """
    lists: dict[str, dict[tuple[Row, str], dict[int, list[float]]]] = {}
    for entry in evidence.entries:
        assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
        for name, value in json.loads(entry.measures).items():
            if name not in FEATURES or _describes_snapshot(entry):
                by_cell = lists.setdefault(name, {}).setdefault(((entry.arm, entry.stage), entry.task), {})
                by_cell.setdefault(entry.pretraining_seed, []).append(value)
    return Measures(
        values={
            name: {
                cell: {seed: float(np.mean(values)) for seed, values in by_seed.items()}
                for cell, by_seed in by_cell.items()
            }
            for name, by_cell in lists.items()
        }
    )


def _describes_snapshot(entry: Entry) -> bool:
    protocol = PROTOCOLS.get(entry.protocol)
    return protocol is not None and protocol.features == "penultimate" and not protocol.trains


def run_without_decay(evidence: Evidence) -> list[Row]:
    """Return the snapshots along the run of `constant`, without the initialisation; empty if the suite has no such run."""
    suite = evidence.suite
    if "constant" not in suite.arms:
        return []
    stages = range(1, last_stage("constant", suite.schedule) + 1)
    run = {(owner("constant", stage, suite.schedule), stage) for stage in stages}
    return [row for row in evidence.rows if row in run or row[0] == "trail"]


def matched_difference(evidence: Evidence, row: Row, column: Column) -> Effect | None:
    """Return the target accuracy of a row minus that of the run without decay at the same source accuracy.

    The run is interpolated linearly between the two snapshots of the same seed that are nearest in source accuracy, one on each
    side: with w = (a − a₁) / (a₂ − a₁), an image contributes correct − ((1 − w) · correct₁ + w · correct₂).

    Returns:
        The difference over the seeds whose source accuracy is within the run's; None if there is none.
    """
    values, source = evidence.values.get(column), evidence.source
    if values is None:
        return None
    run = run_without_decay(evidence)
    seeds, contributions = [], []
    for seed in evidence.seeds:
        if (row, seed) not in values.correct or (row, seed) not in source:
            continue
        accuracy = source[row, seed]
        known = sorted(
            (source[other, seed], other) for other in run if (other, seed) in source and (other, seed) in values.correct
        )
        below = [point for point in known if point[0] <= accuracy]
        above = [point for point in known if point[0] >= accuracy]
        if below and above:
            (low, first), (high, second) = below[-1], above[0]
            weight = (accuracy - low) / (high - low) if high > low else 0.0
            earlier, later = (values.correct[other, seed].astype(np.float64) for other in (first, second))
            seeds.append(seed)
            contributions.append(values.correct[row, seed] - ((1 - weight) * earlier + weight * later))
    if not seeds:
        return None
    correct = np.array(contributions)
    return Selection(
        correct=correct[None], seeds=tuple(seeds), labels=values.labels, metric=values.metric, images=column.task
    ).effect(correct)


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's correlation over seeds.

    Attributes:
        value: The correlation r.
        low, high: Ends of its 95 % interval, by Fisher's transformation.
        seeds: Number of seeds.
    """

    value: float
    low: float
    high: float
    seeds: int


CORRELATED = (*FEATURES, *(f"source_{name}" for name in FEATURES), f"cka_{RELATIVES[0]}")
"""Measures that are compared with target accuracy."""


def correlate(
    evidence: Evidence, measures: Measures, name: str, protocol: str, row: Row, control: Row
) -> Correlation | None:
    """Correlate the difference of two rows in a measure with their difference in target accuracy, over seeds.

    Both are averaged over the suite's targets first, because the targets of one seed share a network.

    Returns:
        The correlation; None with fewer than `MIN_CORRELATED` seeds that have every target, or if one of the two is constant.
    """
    targets = evidence.suite.targets
    first, second = (measures.over_targets(name, compared, targets) for compared in (row, control))
    accuracies: dict[int, list[float]] = {}
    for target in targets:
        effect = evidence.difference_effect(row, control, Column(protocol=protocol, task=target))
        if effect is not None:
            for seed, value in zip(effect.seeds, effect.values, strict=True):
                accuracies.setdefault(seed, []).append(float(value))
    seeds = [
        seed
        for seed in evidence.seeds
        if seed in first and seed in second and len(accuracies.get(seed, ())) == len(targets)
    ]
    if len(seeds) < MIN_CORRELATED:
        return None
    changes = np.array([first[seed] - second[seed] for seed in seeds])
    gains = np.array([np.mean(accuracies[seed]) for seed in seeds])
    if not np.ptp(changes) or not np.ptp(gains):
        return None
    from scipy import stats

    outcome = stats.pearsonr(changes, gains)
    interval = outcome.confidence_interval(LEVEL)
    return Correlation(
        value=float(outcome.statistic), low=float(interval.low), high=float(interval.high), seeds=len(seeds)
    )
