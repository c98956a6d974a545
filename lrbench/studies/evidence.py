"""Results of a study's suites, arranged by unit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrbench.config import load_task
from lrbench.config.files import SyntheticFiles
from lrbench.core.errors import InputError
from lrbench.data.synthetic.ps10 import KINDS, PS10, complexity_bits, evaluation_sets
from lrbench.leaderboard.evidence import Evidence, Row, row_name
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.stats.images import image_variance, shrink_shares
from lrbench.stats.intervals import Estimate, Floats, variance_of_mean
from lrbench.studies.definition import Study

CHANCE = 0.1
"""Accuracy of guessing one of the ten classes."""

Correct = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class UnitValues:
    """A value for each unit, with its variance over samples of the unit's own test images. Shape `(U,)` each."""

    values: Floats
    variances: Floats

    def __sub__(self, other: "UnitValues") -> "UnitValues":
        """Return the difference of values of independent images."""
        return UnitValues(values=self.values - other.values, variances=self.variances + other.variances)

    def estimate(self) -> Estimate:
        """Return the mean over units with Student's interval.

        Units share no images, so the noise of images is part of the variance between units; the variance over images bounds it
        from below, because few units are sometimes alike by chance.
        """
        count = len(self.values)
        return Estimate(
            mean=float(self.values.mean()),
            seeds=count,
            seed_variance=variance_of_mean(self.values),
            residual_variance=float(self.variances.mean()) / count,
        )


def slope(doses: Sequence[float], values: Sequence[UnitValues]) -> UnitValues:
    """Return the slope of the least-squares line through each unit's values at doses."""
    centred = np.asarray(doses) - np.mean(doses)
    weights = centred / (centred**2).sum()
    return UnitValues(
        values=weights @ np.array([value.values for value in values]),
        variances=weights**2 @ np.array([value.variances for value in values]),
    )


@dataclass(kw_only=True)
class Dose:
    """Results of one suite on images of known patterns, over the units that have every snapshot.

    Attributes:
        suite: Name of the suite.
        templates: Templates of a class, K.
        bits: Entropy of the complex pattern of a known class.
        rare: Whether a simple pattern is as rare as a template.
        wrong: Share of wrong training labels.
        units: Pretraining seeds.
        expected: Number of units of the suite.
        correct: Whether test images are predicted correctly, by snapshot. Shape `(U, I)`.
        sets: Evaluation set of each image, an index of `KINDS`. Shape `(I,)`.
        report: Measures of the source's report by name and snapshot. Shape `(U,)`.
        memorised: Whether wrongly labelled training images are predicted as labelled, by snapshot: an array for each unit.
        fitted: The same for rightly labelled training images.
    """

    suite: str
    templates: int
    bits: float
    rare: bool = False
    wrong: float = 0.0
    units: tuple[int, ...]
    expected: int
    correct: dict[Row, Correct]
    sets: npt.NDArray[np.int64]
    report: dict[str, dict[Row, Floats]] = field(default_factory=dict)
    memorised: dict[Row, list[Correct]] = field(default_factory=dict)
    fitted: dict[Row, list[Correct]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The dose as pages name it."""
        label = f"K = {self.templates} ({self.bits:g} bits)"
        return f"{label}, equally rare" if self.rare else label

    @property
    def problem(self) -> str:
        """Reason why the dose cannot be tested; empty if it can."""
        if len(self.units) < self.expected:
            return f"incomplete: {len(self.units)} of {self.expected} units"
        return ""

    def shares(self, row: Row, kind: str) -> Floats:
        """Return the accuracy of a snapshot on images of a kind. Shape `(U,)`."""
        shares: Floats = self._of_kind(row, kind).mean(axis=1)
        return shares

    def accuracy(self, row: Row, kind: str) -> UnitValues:
        """Return the accuracy of a snapshot on images of a kind."""
        return _mean_values(self._of_kind(row, kind))

    def difference(self, row: Row, other: Row, kind: str) -> UnitValues:
        """Return the paired difference of two snapshots on images of a kind."""
        return _mean_values(self._of_kind(row, kind) - self._of_kind(other, kind))

    def log_odds_difference(self, row: Row, other: Row, kind: str) -> Floats:
        """Return the difference of the log-odds of two snapshots on images of a kind. Shape `(U,)`."""
        count = int((self.sets == KINDS.index(kind)).sum())
        odds = [
            np.log(share / (1 - share)) for share in (shrink_shares(self.shares(r, kind), count) for r in (row, other))
        ]
        difference: Floats = odds[0] - odds[1]
        return difference

    def _of_kind(self, row: Row, kind: str) -> Correct:
        return self.correct[row][:, self.sets == KINDS.index(kind)]


def _mean_values(values: Correct) -> UnitValues:
    labels = np.zeros(values.shape[1], dtype=np.int64)
    return UnitValues(
        values=values.mean(axis=1), variances=np.array([image_variance(unit, labels, "top1") for unit in values])
    )


@dataclass(kw_only=True)
class StudyEvidence:
    """Results of a study.

    Attributes:
        study: The study.
        suites: Results by suite, in the study's order.
    """

    study: Study
    suites: dict[str, Evidence]

    @cached_property
    def doses(self) -> list[Dose]:
        """Results of the suites on sources with evaluation sets, in the study's order."""
        return [dose for evidence in self.suites.values() if (dose := _dose(evidence)) is not None]

    def missing(self) -> list[str]:
        """Return the snapshots without predictions, a clause for each suite."""
        clauses = []
        for evidence in self.suites.values():
            rows = [
                f"{row_name(row)} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
                for row in evidence.rows
                if (seeds := [seed for seed in evidence.seeds if not _is_complete(evidence, row, seed)])
            ]
            if rows:
                clauses.append(f"{evidence.name}: {', '.join(rows)}")
        return clauses


def gather_study(results: Path, study: Study, cache: Path | None = None) -> StudyEvidence:
    """Read the results of a study's suites.

    Args:
        results: The workspace's results folder.
        study: The study; a suite with results counts as it was run.
        cache: The workspace's cache with the index of results; None to read every file.
    """
    suites = {}
    for suite in study.suites:
        if (results / suite.name / "suite.json").is_file():
            suite = read_suite(results, suite.name)
        suites[suite.name] = gather(results, suite, cache)[0]
    return StudyEvidence(study=study, suites=suites)


def source_options(source: str) -> dict[str, int | float] | None:
    """Return all options of a generated source with code books; None for other sources."""
    files = load_task(source).files
    if not isinstance(files, SyntheticFiles) or files.generator != "ps10":
        return None
    return PS10.complete(files.options, source)


def _is_complete(evidence: Evidence, row: Row, seed: int) -> bool:
    with_hits = any((row, seed) in block for block in evidence.hits.values()) or not evidence.suite.source_hits
    with_fit = (row, seed) in evidence.fit.get("loss", {}) or not evidence.suite.source_fit.images
    return (row, seed) in evidence.source_correct and with_hits and with_fit


def _dose(evidence: Evidence) -> Dose | None:
    options = source_options(evidence.suite.source)
    if options is None or not evidence.suite.books:
        return None
    units = tuple(seed for seed in evidence.seeds if all(_is_complete(evidence, row, seed) for row in evidence.rows))
    correct = {
        row: np.array([evidence.source_correct[row, seed] for seed in units], dtype=np.float64) for row in evidence.rows
    }
    count = len(evidence.source_correct[evidence.rows[0], units[0]]) if units else 0
    sets = evaluation_sets(options, count)
    if sets is None:
        return None
    measured = {
        name: {row: np.array([values[row, seed] for seed in units]) for row in evidence.rows}
        for name, values in evidence.report.items()
        if all((row, seed) in values for row in evidence.rows for seed in units)
    }
    hits = {
        block: {row: [values[row, seed].astype(np.float64) for seed in units] for row in evidence.rows if units}
        for block, values in evidence.hits.items()
    }
    templates = int(options["templates"])
    return Dose(
        suite=evidence.name,
        templates=templates,
        bits=complexity_bits(templates, options["skew"]),
        rare=options["complex_only"] > options["simple_only"],
        wrong=float(options["wrong"]),
        units=units,
        expected=len(evidence.seeds),
        correct=correct,
        sets=sets,
        report=measured,
        memorised=hits.get("wrong", {}),
        fitted=hits.get("right", {}),
    )


def refuse_missing_evidence(study: Study, claim: str, *, sets: bool, wrong: bool, where: str) -> None:
    """Refuse a claim whose annotations the source of a suite does not have.

    Raises:
        InputError: A source lacks them.
    """
    for suite in study.suites:
        options = source_options(suite.source) if sets or wrong else None
        if sets and (options is None or not options["sets"]):
            lacks = "no evaluation sets for simple and complex patterns"
        elif wrong and (options is None or not options["wrong"]):
            lacks = "no training images that are known to be labelled wrongly"
        elif wrong and not suite.source_hits:
            raise InputError(f"{where}: claim {claim} needs source_hits = true in suite {suite.name}. Add it.")
        else:
            continue
        raise InputError(
            f"{where}: claim {claim} cannot be decided, because the source {suite.source} of suite {suite.name} has {lacks}. "
            "Choose a source of generator ps10 that has them, or remove the claim."
        )
