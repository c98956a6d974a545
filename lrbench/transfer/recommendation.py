"""Records of a recommendation: the basis of the ranking, and the candidates in their order."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lrbench.config import load_task
from lrbench.core.errors import LrbenchError
from lrbench.core.workspace import Place
from lrbench.data.loading import load_task_data
from lrbench.stats.intervals import wilson_interval
from lrbench.store.cells import TransferSettings
from lrbench.store.references import Reference, SuiteSnapshot, WeightsFile
from lrbench.store.results import StoredResult
from lrbench.store.snapshots import read_metadata
from lrbench.transfer.lead import Lead
from lrbench.transfer.protocols.crossval import FOLDS, assign_folds
from lrbench.transfer.selection import validation_split

LEAST_VALIDATION = 200
"""Least number of validation images by which snapshots are ranked; with fewer, by cross-validation."""
# Scores that differ by less are equal up to rounding.
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Basis of the ranking.

    Attributes:
        images: Number of images that are scored.
        validation: Number of images in the validation split.
        folds: Number of folds of the cross-validation; None if the validation split ranks snapshots.
    """

    images: int
    validation: int
    folds: int | None = None

    @classmethod
    def of(cls, task: str, settings: TransferSettings, place: Place, seed: int) -> "Basis":
        """Return the basis for a task: cross-validation if the validation split is small. Only labels are read.

        Raises:
            InputError: The task's data is missing or incomplete.
        """
        splits = load_task_data(load_task(task), place.roots, partial=place.partial).splits
        labels = splits["train"].labels
        if "val" in splits:
            validation = len(splits["val"].labels)
            labels = np.concatenate([labels, splits["val"].labels])
        else:
            validation = len(validation_split(labels, settings.validation, seed)[1])
        if validation >= LEAST_VALIDATION:
            return cls(images=validation, validation=validation)
        return cls(images=int((assign_folds(labels, seed) >= 0).sum()), validation=validation, folds=FOLDS)


@dataclass(kw_only=True)
class Candidate:
    """One snapshot under comparison.

    Attributes:
        reference: The snapshot.
        logme: LogME of the target's training images.
        probe: Result of the probe; None if LogME excluded the snapshot.
        score: Headline metric of the probe on validation, or cross-validated. Test images are not used.
        seconds: Time of its results, now or when they were computed.
        problem: Reason why it could not be compared.
    """

    reference: Reference
    logme: float | None = None
    probe: StoredResult | None = None
    score: float | None = None
    seconds: float = 0.0
    problem: str | None = None

    @property
    def weights_id(self) -> str | None:
        """Hash that several names of the same weights share; None if it is unknown."""
        if self.network_id is not None or self.probe is None:
            return self.network_id
        return self.probe.result.snapshot.sha256

    @cached_property
    def network_id(self) -> str | None:
        """Identity of the network in a file: tensors, architecture and input, whatever their origin. None if it is unknown."""
        if not isinstance(self.reference, SuiteSnapshot | WeightsFile):
            return None
        with suppress(LrbenchError):
            metadata = read_metadata(self.reference.path)
            if metadata.tensors_sha256 is not None:
                architecture = f"{metadata.architecture} {metadata.arguments} {metadata.input}"
                return f"{metadata.tensors_sha256} {metadata.batchnorm_sha256} {architecture}"
        return None

    @property
    def validation(self) -> float | None:
        """Headline metric of the probe on the validation split; None without one."""
        if self.probe is None:
            return None
        scores = [point["score"] for point in self.probe.result.selection["candidates"]]
        return None if None in scores or not scores else max(float(score) for score in scores)

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of top-1 over test images; it does not cover the variance of pretraining."""
        if self.probe is None:
            return None
        count = self.probe.result.test_count
        return wilson_interval(round(self.probe.result.metrics["top1"] * count) / count, count)


@dataclass(kw_only=True)
class Recommendation:
    """Outcome of a comparison.

    Attributes:
        basis: Basis of the ranking of probed snapshots.
        ranked: All snapshots: probed ones by score and then LogME, then the others by LogME, then those with a problem.
        lead: Lead of the first over the second; None without a second.
    """

    basis: Basis
    ranked: list[Candidate] = field(default_factory=list)
    lead: Lead | None = None

    @property
    def best(self) -> Candidate | None:
        """The snapshot ranked first; None if none could be probed."""
        return self.ranked[0] if self.ranked and self.ranked[0].probe is not None else None

    @property
    def probed(self) -> list[Candidate]:
        """Probed snapshots, without those that have the weights of a better one."""
        first: dict[str | None, Candidate] = {}
        for candidate in self.ranked:
            if candidate.probe is not None:
                first.setdefault(candidate.weights_id, candidate)
        return list(first.values())

    @property
    def second(self) -> Candidate | None:
        """The probed snapshot ranked second; the same weights under a different name do not count."""
        return self.probed[1] if len(self.probed) > 1 else None

    @property
    def tied(self) -> list[Candidate]:
        """Probed snapshots with the best score."""
        return [
            candidate
            for candidate in self.probed
            if math.isclose(candidate.score or 0.0, self.probed[0].score or 0.0, abs_tol=_TOLERANCE)
        ]
