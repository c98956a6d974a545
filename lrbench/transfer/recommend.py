"""Which of these snapshots should I transfer to my data? LogME for all, the probe for the best, and how sure that is."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lrbench.config import load_task
from lrbench.config.loading import validate
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork, LrbenchError, as_user_error
from lrbench.core.files import read_json, sha256_json, write_json
from lrbench.core.workspace import Place, Workspace
from lrbench.data.loading import load_task_data
from lrbench.stats.resampling import mcnemar, paired_interval
from lrbench.store.cells import Cell, Overwrite, TransferSettings, status_before_loading
from lrbench.store.references import (
    PretrainedWeights,
    Reference,
    SuiteSnapshot,
    references_in,
    resolve_reference,
    snapshot_folder,
)
from lrbench.store.results import Result, StoredResult, read_result
from lrbench.store.snapshots import read_metadata
from lrbench.transfer.cell import Transfer
from lrbench.transfer.protocols.crossval import FOLDS, CrossValidation, assign_folds
from lrbench.transfer.selection import validation_split

LEAST_VALIDATION = 200
"""With fewer validation images than this, snapshots are ranked by cross-validation."""
# Scores that differ by rounding alone are equal.
_SAME = 1e-9


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What snapshots are ranked by.

    Attributes:
        images: Number of images that the scores are of.
        validation: Number of images in the validation split.
        folds: Of the cross-validation; None where the validation split decides.
    """

    images: int
    validation: int
    folds: int | None = None

    @classmethod
    def of(cls, task: str, settings: TransferSettings, place: Place, seed: int) -> "Basis":
        """Cross-validation where the validation split is small; only labels are read.

        Raises:
            InputError: The task's data is missing or half-copied.
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
        probe: The probe's result; None where LogME ruled the snapshot out.
        score: The probe's headline that it is ranked by: on validation, or cross-validated. Test images decide nothing.
        seconds: Spent on it, now or when its results were made.
        problem: Why it could not be compared.
    """

    reference: Reference
    logme: float | None = None
    probe: StoredResult | None = None
    score: float | None = None
    seconds: float = 0.0
    problem: str | None = None

    @property
    def weights(self) -> str | None:
        """What tells its weights from others: those of one hash are one snapshot under several names. None if unknown."""
        if self.network is not None or self.probe is None:
            return self.network
        return self.probe.result.snapshot.sha256

    @cached_property
    def network(self) -> str | None:
        """The network in its file, tensors and inputs, whatever the header says of where they came from. None if unknown."""
        if isinstance(self.reference, PretrainedWeights):
            return None
        with suppress(LrbenchError):
            metadata = read_metadata(self.reference.path)
            if metadata.tensors_sha256 is not None:
                made = f"{metadata.architecture} {metadata.arguments} {metadata.input}"
                return f"{metadata.tensors_sha256} {metadata.batchnorm_sha256} {made}"
        return None

    @property
    def validation(self) -> float | None:
        """The probe's headline on the validation split; None where there is none."""
        if self.probe is None:
            return None
        scores = [point["score"] for point in self.probe.result.selection["candidates"]]
        return None if None in scores or not scores else max(float(score) for score in scores)

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of top-1 on the test images (they alone: another pretraining run is not in it)."""
        if self.probe is None:
            return None
        from statsmodels.stats.proportion import proportion_confint

        count = self.probe.result.test_count
        low, high = proportion_confint(round(self.probe.result.metrics["top1"] * count), count, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Lead:
    """How the snapshot ranked first does against the second on the test images, which had no part in the ranking.

    Attributes:
        difference: Of their top-1; negative where the second does better.
        interval: Its 95 % interval, over images alone.
        p: McNemar's exact two-sided p.
        images: How many images there are.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    images: int


@dataclass(kw_only=True)
class Recommendation:
    """What came out.

    Attributes:
        basis: What probed snapshots are ranked by.
        ranked: All snapshots: probed ones by their score and then LogME, then the others by LogME, then failed ones.
        lead: Of the first over the second; None where there is no second.
    """

    basis: Basis
    ranked: list[Candidate] = field(default_factory=list)
    lead: Lead | None = None

    @property
    def best(self) -> Candidate | None:
        """The snapshot to transfer; None where none could be probed."""
        return self.ranked[0] if self.ranked and self.ranked[0].probe is not None else None

    @property
    def probed(self) -> list[Candidate]:
        """Those that were probed, each set of weights once."""
        first: dict[str | None, Candidate] = {}
        for candidate in self.ranked:
            if candidate.probe is not None:
                first.setdefault(candidate.weights, candidate)
        return list(first.values())

    @property
    def second(self) -> Candidate | None:
        """The next one that was probed and is not the best under another name."""
        return self.probed[1] if len(self.probed) > 1 else None

    @property
    def tied(self) -> list[Candidate]:
        """Those with the best score; at least the best itself where there is one."""
        return [
            candidate
            for candidate in self.probed
            if math.isclose(candidate.score or 0.0, self.probed[0].score or 0.0, abs_tol=_SAME)
        ]


def expand(texts: Sequence[str], workspace: Workspace, suite: str | None) -> list[Reference]:
    """References, and folders of `.safetensors` files, as snapshots; nothing is loaded.

    Args:
        texts: References or folders; `foreign` for those taken in.
        workspace: Where the suites' snapshots lie.
        suite: Suite of references that name none; None for the one pretrained last.

    Raises:
        InputError: Not a reference, or a folder without snapshots.
    """
    references: dict[str, Reference] = {}
    for text in texts:
        folder = snapshot_folder(text, workspace)
        named = (
            [resolve_reference(text, workspace, suite=suite)] if folder is None else references_in(folder, workspace)
        )
        references.update({reference.text: reference for reference in named})
    return list(references.values())


def on_equal_terms(references: Sequence[Reference]) -> tuple[list[Reference], TransferSettings, int]:
    """Snapshots with the settings and the transfer seed that all of them get.

    Those of one suite get that suite's, so that its results serve and are left as they are. Others are compared under the
    defaults, and a suite's snapshots among them count as foreign: their results lie apart from the suite's.
    """
    snapshots = [reference for reference in references if isinstance(reference, SuiteSnapshot)]
    suite = snapshots[0].suite if snapshots else None
    if suite is not None and len(snapshots) == len(references) and all(other.suite == suite for other in snapshots):
        return list(references), TransferSettings.of(suite), suite.transfer_seeds[0]
    outside: list[Reference] = [
        reference.outside_suite() if isinstance(reference, SuiteSnapshot) else reference for reference in references
    ]
    return outside, TransferSettings(), 0


def recommend(
    references: Sequence[Reference],
    task: str,
    settings: TransferSettings,
    place: Place,
    control: Control,
    *,
    probed: int,
    seed: int = 0,
    again: bool = False,
) -> Recommendation:
    """Compare snapshots on a task.

    Args:
        references: The snapshots. One that cannot be loaded is reported and does not stop the others.
        task: The target.
        settings: Of the probe.
        place: Where to read and write; results are kept like those of `lrbench transfer`, and used again.
        control: Told how far the work is.
        probed: How many of the best by LogME are probed; where a probe fails, the next by LogME is.
        seed: Transfer seed.
        again: Compute also what is there; else results that were computed otherwise are left as they are.

    Raises:
        InputError: The target's data is missing or half-copied.
        InterruptedWork: Asked to stop; results so far are kept.
    """
    work = _Work(
        task=task,
        settings=settings,
        place=place,
        control=control,
        seed=seed,
        again=again,
        basis=Basis.of(task, settings, place, seed),
    )
    every = [Candidate(reference=reference) for reference in references]
    # Of each network the first of its names, by the files' headers.
    first: dict[str, Candidate] = {}
    for candidate in every:
        first.setdefault(candidate.network or candidate.reference.text, candidate)
    candidates = list(first.values())
    control.say(_scope(len(candidates), len(references), probed))
    for number, candidate in enumerate(candidates, start=1):
        if len(candidates) > 1:
            control.say(f"[{number}/{len(candidates)}] {candidate.reference.text}")
        # Where LogME will rule none out, each is probed while its features are there.
        both = ("logme", "probe") if len(candidates) <= probed else ("logme",)
        _compare(candidate, both, work)
    by_evidence = sorted(candidates, key=_evidence, reverse=True)
    for candidate in [each for each in by_evidence if each.problem is None]:
        # One whose probe fails takes no other one's place.
        if sum(each.probe is not None for each in candidates) >= probed:
            break
        if candidate.probe is None:
            control.say(f"probe of {candidate.reference.text}")
            _compare(candidate, ("probe",), work)
    for twin in every:
        # Nothing is computed twice.
        if twin.network is not None and (original := first[twin.network]) is not twin:
            twin.logme, twin.probe, twin.score = original.logme, original.probe, original.score
            twin.problem = original.problem
    ranked = sorted(
        every,
        key=lambda each: (each.problem is None, each.score is not None, each.score or 0.0, _evidence(each)),
        reverse=True,
    )
    outcome = Recommendation(basis=work.basis, ranked=ranked)
    if outcome.best is not None and outcome.second is not None:
        outcome.lead = _lead(outcome.best, outcome.second)
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all candidates share; the fields are the arguments of `recommend`."""

    task: str
    settings: TransferSettings
    place: Place
    control: Control
    seed: int
    again: bool
    basis: Basis


def _evidence(candidate: Candidate) -> float:
    return -np.inf if candidate.logme is None else candidate.logme


def _scope(count: int, names: int, probed: int) -> str:
    copies = f" ({names} names)" if count < names else ""
    if count == 1:
        return f"1 snapshot{copies}, which is probed"
    return f"{count} snapshots{copies}, of which the {min(probed, count)} best by LogME are probed"


def _compare(candidate: Candidate, protocols: Sequence[str], work: _Work) -> None:
    """Find or compute a snapshot's results of some protocols, from one extraction of its features."""
    transfer: Transfer | None = None
    task = work.task
    overwrite = Overwrite.ALWAYS if work.again else Overwrite.NEVER
    try:
        for protocol in protocols:
            cell = Cell(task=task, protocol=protocol, seed=work.seed)
            status = status_before_loading(work.place, candidate.reference, cell, work.settings)
            stored = None if status is None else status.existing_result(overwrite)
            if stored is None:
                transfer = transfer or Transfer(candidate.reference, work.settings, work.place, work.control)
                if transfer.record.random:
                    raise InputError("its weights are random: timm: and an architecture without a tag name no weights")
                if status is None:
                    stored = transfer.status(cell).existing_result(overwrite)
                if stored is None:
                    path = transfer.run(cell)
                    stored = StoredResult(result=read_result(path), path=path)
            result = stored.result
            # Features that serve both protocols are counted once.
            shared = () if protocol == protocols[0] else ("features", "diagnostics")
            candidate.seconds += sum(spent for name, spent in result.timings.items() if name not in shared)
            if protocol == "logme":
                candidate.logme = float(result.chosen["logme"])
                continue
            if work.basis.folds is None:
                candidate.score = Candidate(reference=candidate.reference, probe=stored).validation
            else:
                cross = None if work.again else _kept(_cross_path(work.place, result))
                if cross is None:
                    transfer = transfer or Transfer(candidate.reference, work.settings, work.place, work.control)
                    cross = transfer.cross_validate(cell)
                    content = cross.model_dump()
                    write_json(_cross_path(work.place, result), {"sha256": sha256_json(content), **content})
                candidate.seconds += cross.seconds
                candidate.score = cross.score
            if candidate.score is None:
                raise InputError(
                    f"its result of the probe on {task} has no score on validation images, by which snapshots are ranked: "
                    "there were none when it was made. Give the task's classes more training images, then add --again"
                )
            candidate.probe = stored
    except InterruptedWork:
        raise
    except Exception as error:
        # One network of a strange kind must not end the comparison of the others.
        candidate.problem = str(as_user_error(error))


def _cross_path(place: Place, result: Result) -> Path:
    """Where a cross-validation is kept: under all that decides its score, as the probe's result states it."""
    decides = {
        "folds": FOLDS,
        "protocol_version": result.protocol_version,
        "snapshot": [result.snapshot.sha256, result.snapshot.batchnorm],
        "task": [result.task.fingerprint, result.task.content_sha256, result.task.metric],
        "settings": result.settings,
        "preprocessing": result.preprocessing,
        "seed": result.seed,
    }
    return place.workspace.cache / "recommend" / f"{result.task.name}-{sha256_json(decides)[:16]}.json"


def _kept(path: Path) -> CrossValidation | None:
    """A cross-validation from before; None where there is none, or it is damaged."""
    with suppress(FileNotFoundError, InputError):
        content = read_json(path, "It is computed again.")
        if isinstance(content, dict) and content.pop("sha256", None) == sha256_json(content):
            return validate(CrossValidation, content, path)
    return None


def _lead(best: Candidate, other: Candidate) -> Lead:
    probed = [each.probe.predictions for each in (best, other) if each.probe is not None]
    first, second = (each.label == each.prediction for each in probed)
    difference, low, high = paired_interval(first, second)
    p = float(mcnemar(first[None, :], second[None, :])[0])
    return Lead(difference=difference, interval=(low, high), p=p, images=len(first))
