"""Records of a recommendation: the basis of the ranking, and the candidates in their order."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lrbench.config import load_task
from lrbench.config.protocols import PROTOCOLS
from lrbench.core.errors import LrbenchError
from lrbench.core.workspace import Place
from lrbench.data.loading import load_task_data
from lrbench.models.network_cost import NetworkCost
from lrbench.stats.intervals import wilson_interval
from lrbench.store.cells import TransferSettings
from lrbench.store.references import Reference, SuiteSnapshot, WeightsFile
from lrbench.store.results import Result, SnapshotRecord, StoredResult
from lrbench.store.snapshots import read_metadata
from lrbench.transfer.lead import Lead
from lrbench.transfer.protocols.crossval import assign_folds
from lrbench.transfer.selection import number_groups, validation_split

BY = ("probe", "logme", "knn", "finetune")
"""Protocols that may rank snapshots; the first is the default."""

LEAST_VALIDATION = 200
"""Least number of validation images by which snapshots are ranked; with fewer, by cross-validation."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Basis of the ranking.

    Attributes:
        protocol: Protocol whose score ranks snapshots, one of `BY`.
        images: Number of images that are scored; for LogME, of images whose evidence it is.
        validation: Number of images in the validation split.
        folds: Number of folds of the cross-validation; None if the validation split ranks snapshots.
    """

    protocol: str = BY[0]
    images: int
    validation: int
    folds: int | None = None

    @classmethod
    def of(cls, task: str, protocol: str, settings: TransferSettings, place: Place, seed: int) -> "Basis":
        """Return the basis for a task: cross-validation on frozen features if the validation split is small.

        Only labels are read.

        Raises:
            InputError: The task's data is missing or incomplete.
        """
        load_task(task).require_training_images()
        splits = load_task_data(load_task(task), place.roots, partial=place.partial).splits
        labels = splits["train"].labels
        groups = number_groups([split.groups for name, split in splits.items() if name in ("train", "val")])
        if "val" in splits:
            validation = len(splits["val"].labels)
            labels = np.concatenate([labels, splits["val"].labels])
        else:
            validation = len(validation_split(labels, settings.validation, seed, groups)[1])
        if not PROTOCOLS[protocol].selects:
            return cls(protocol=protocol, images=len(labels), validation=validation)
        # Training a network on each fold would take several times as long.
        if validation >= LEAST_VALIDATION or PROTOCOLS[protocol].trains:
            return cls(protocol=protocol, images=validation, validation=validation)
        folds = assign_folds(labels, seed, groups=groups)
        count = len(np.unique(folds[folds >= 0]))
        # A few large groups of images may not fill two folds.
        if count < 2:
            return cls(protocol=protocol, images=validation, validation=validation)
        return cls(protocol=protocol, images=int((folds >= 0).sum()), validation=validation, folds=count)


@dataclass(kw_only=True)
class Candidate:
    """One snapshot under comparison.

    Attributes:
        reference: The snapshot.
        logme: LogME of the target's training images.
        result: Result of the protocol that ranks; None if LogME excluded the snapshot, or ranks alone.
        score: Headline metric of that protocol on validation, or cross-validated, without rounding errors, so that ties are
            equal. Test images are not used.
        seconds: Time of its results, now or when they were computed.
        records: Its results.
        cost: Cost of its network.
        speed: Images per second while features were extracted.
        is_measured: Whether the speed was measured by this comparison; else it comes from a stored result.
        failure: Error because of which it could not be compared.
    """

    reference: Reference
    logme: float | None = None
    result: StoredResult | None = None
    score: float | None = None
    seconds: float = 0.0
    records: list[Result] = field(default_factory=list)
    cost: NetworkCost | None = None
    speed: float | None = None
    is_measured: bool = False
    failure: LrbenchError | None = None

    @property
    def snapshot(self) -> SnapshotRecord | None:
        """The `snapshot` entry of its results; None without any."""
        return self.records[-1].snapshot if self.records else None

    @property
    def problem(self) -> str | None:
        """Reason why it could not be compared."""
        return None if self.failure is None else str(self.failure)

    @property
    def weights_id(self) -> str | None:
        """Hash that several names of the same weights share; None if it is unknown."""
        record = self.snapshot if self.result is None else self.result.result.snapshot
        if self.network_id is not None or record is None:
            return self.network_id
        return record.sha256

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
        """Headline metric of the ranking protocol on validation, at the chosen point of its grid; None without one."""
        if self.result is None:
            return None
        chosen = self.result.result.chosen
        # Other points of fine-tuning's grid may have diverged, or have been stopped early.
        scores = [
            point["score"]
            for point in self.result.result.selection["candidates"]
            if all(point.get(name, value) == value for name, value in chosen.items())
        ]
        return None if None in scores or not scores else max(float(score) for score in scores)

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of top-1 over test images; it does not cover the variance of pretraining."""
        if self.result is None:
            return None
        count = self.result.result.test_count
        return wilson_interval(round(self.result.result.metrics["top1"] * count) / count, count)


@dataclass(kw_only=True)
class Recommendation:
    """Outcome of a comparison.

    Attributes:
        basis: Basis of the ranking.
        ranked: All snapshots: those with a score by it and then LogME, then the others by LogME, then those that failed.
        lead: Lead of the first over the second; None without a second.
    """

    basis: Basis
    ranked: list[Candidate] = field(default_factory=list)
    lead: Lead | None = None

    @property
    def best(self) -> Candidate | None:
        """The snapshot ranked first; None if none could be compared."""
        if not self.ranked or self.ranked[0].failure is not None:
            return None
        return self.ranked[0] if self.ranked[0].result is not None or self.basis.protocol == "logme" else None

    @property
    def failed(self) -> list[Candidate]:
        """Snapshots that could not be compared."""
        return [candidate for candidate in self.ranked if candidate.failure is not None]

    @property
    def compared(self) -> list[Candidate]:
        """Snapshots with results of the protocol that ranks, without those that have the weights of a better one."""
        first: dict[str | None, Candidate] = {}
        for candidate in self.ranked:
            if candidate.result is not None:
                first.setdefault(candidate.weights_id, candidate)
        return list(first.values())

    @property
    def second(self) -> Candidate | None:
        """The compared snapshot ranked second; the same weights under a different name do not count."""
        return self.compared[1] if len(self.compared) > 1 else None

    @property
    def tied(self) -> list[Candidate]:
        """Compared snapshots with the best score."""
        return [candidate for candidate in self.compared if candidate.score == self.compared[0].score]
