"""Which of these snapshots should I transfer to my data? LogME for all, the probe for the best, and how sure that is."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from lrbench.cells import Cell, TransferSettings, standing_of_file
from lrbench.control import Control
from lrbench.errors import InputError, InterruptedWork, LrbenchError, reported
from lrbench.files import user_path
from lrbench.leaderboard.resampling import mcnemar, paired_interval
from lrbench.references import Reference, parse_reference, references_in
from lrbench.results import StoredResult, read_result
from lrbench.snapshots import read_metadata
from lrbench.transfer.cell import Transfer
from lrbench.workspace import Place, Workspace


@dataclass(kw_only=True)
class Candidate:
    """One snapshot under comparison.

    Attributes:
        reference: The snapshot.
        logme: LogME of the target's training images.
        probe: The probe's result; None where LogME ruled the snapshot out.
        seconds: Spent on it, now or when its results were made.
        problem: Why it could not be compared.
    """

    reference: Reference
    logme: float | None = None
    probe: StoredResult | None = None
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
        if self.reference.path is None:
            return None
        with suppress(LrbenchError):
            metadata = read_metadata(self.reference.path)
            if metadata.tensors_sha256 is not None:
                made = f"{metadata.architecture} {metadata.arguments} {metadata.input}"
                return f"{metadata.tensors_sha256} {metadata.batchnorm_sha256} {made}"
        return None

    @property
    def validation(self) -> float | None:
        """The probe's headline on validation, by which snapshots are ranked; test images decide nothing."""
        if self.probe is None:
            return None
        return max(float(each["score"]) for each in self.probe.result.selection["candidates"])

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
        ranked: All snapshots: probed ones by their headline on validation, then the others by LogME, then failed ones.
        lead: Of the first over the second; None where there is no second.
    """

    ranked: list[Candidate] = field(default_factory=list)
    lead: Lead | None = None

    @property
    def best(self) -> Candidate | None:
        """The snapshot to transfer; None where none could be probed."""
        return self.ranked[0] if self.ranked and self.ranked[0].probe is not None else None

    @property
    def second(self) -> Candidate | None:
        """The next one that was probed and is not the best under another name."""
        others = (each for each in self.ranked[1:] if each.probe is not None and each.weights != self.ranked[0].weights)
        return next(others, None) if self.best is not None else None


def expand(texts: Sequence[str], workspace: Workspace, suite: str | None) -> list[Reference]:
    """References, and folders of `.safetensors` files, as snapshots; nothing is loaded.

    Args:
        texts: References or folders.
        workspace: Where the suites' snapshots lie.
        suite: Suite of references that name none; None for the one pretrained last.

    Raises:
        InputError: Not a reference, or a folder without snapshots.
    """
    found: dict[str, Reference] = {}
    for text in texts:
        folder = user_path(text)
        named = references_in(folder, workspace) if folder.is_dir() else [parse_reference(text, workspace, suite=suite)]
        found.update({each.text: each for each in named})
    return list(found.values())


def on_equal_terms(references: Sequence[Reference]) -> tuple[list[Reference], TransferSettings, int]:
    """Snapshots with the settings and the transfer seed that all of them get.

    Those of one suite get that suite's, so that its results serve and are left as they are. Others are compared under the
    defaults, and a suite's snapshots among them count as foreign: their results lie apart from the suite's.
    """
    suites = [each.suite for each in references]
    first = suites[0] if suites else None
    if first is not None and all(each == first for each in suites):
        return list(references), TransferSettings.of(first), first.transfer_seeds[0]
    return [replace(each, suite=None, key=None) for each in references], TransferSettings(), 0


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
        probed: How many of the best by LogME are probed; where a probe fails, LogME's next is.
        seed: Transfer seed.
        again: Compute also what is there; else results that were computed otherwise are left as they are.

    Raises:
        InputError: The target's data is missing or half-copied.
        InterruptedWork: Asked to stop; results so far are kept.
    """
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
        _compare(candidate, task, both, seed, settings, place, control, again)
    by_evidence = sorted(candidates, key=_evidence, reverse=True)
    for candidate in [each for each in by_evidence if each.problem is None]:
        # One whose probe fails takes no other one's place.
        if sum(each.probe is not None for each in candidates) >= probed:
            break
        if candidate.probe is None:
            control.say(f"probe of {candidate.reference.text}")
            _compare(candidate, task, ("probe",), seed, settings, place, control, again)
    for twin in every:
        # Nothing is computed twice.
        if twin.network is not None and (original := first[twin.network]) is not twin:
            twin.logme, twin.probe, twin.problem = original.logme, original.probe, original.problem
    ranked = sorted(
        every,
        key=lambda each: (each.problem is None, each.validation is not None, each.validation or 0.0, _evidence(each)),
        reverse=True,
    )
    found = Recommendation(ranked=ranked)
    if found.best is not None and found.second is not None:
        found.lead = _lead(found.best, found.second)
    return found


def _evidence(candidate: Candidate) -> float:
    return -np.inf if candidate.logme is None else candidate.logme


def _scope(count: int, names: int, probed: int) -> str:
    copies = f" ({names} names)" if count < names else ""
    if count == 1:
        return f"1 snapshot{copies}, which is probed"
    return f"{count} snapshots{copies}, of which the {min(probed, count)} best by LogME are probed"


def _compare(
    candidate: Candidate,
    task: str,
    protocols: Sequence[str],
    seed: int,
    settings: TransferSettings,
    place: Place,
    control: Control,
    again: bool,
) -> None:
    """Find a snapshot's results of some protocols or make them, from one extraction of its features."""
    transfer: Transfer | None = None
    try:
        for protocol in protocols:
            cell = Cell(task=task, protocol=protocol, seed=seed)
            found = None if again else standing_of_file(place, candidate.reference, cell, settings)
            if found is not None and found.done:
                path = found.path
            else:
                transfer = transfer or Transfer(candidate.reference, settings, place, control)
                if transfer.record.random:
                    raise InputError("its weights are random: timm: and an architecture without a tag name no weights")
                found = transfer.standing(cell)
                path = found.path if found.done and not again else transfer.run(cell, replace=again)
            result = read_result(path)
            # Features that serve both protocols are counted once.
            shared = () if protocol == protocols[0] else ("features", "diagnostics")
            candidate.seconds += sum(spent for name, spent in result.timings.items() if name not in shared)
            if protocol == "logme":
                candidate.logme = float(result.chosen["logme"])
            elif any(each["score"] is None for each in result.selection["candidates"]):
                raise InputError(
                    f"its result of the probe on {task} has no score on validation images, by which snapshots are ranked: "
                    "there were none when it was made. Give the task's classes more training images, then add --again"
                )
            else:
                candidate.probe = StoredResult(result=result, path=path)
    except InterruptedWork:
        raise
    except Exception as error:
        # One network of a strange kind must not end the comparison of the others.
        candidate.problem = str(reported(error))


def _lead(best: Candidate, other: Candidate) -> Lead:
    probed = [each.probe.predictions for each in (best, other) if each.probe is not None]
    first, second = (each.label == each.prediction for each in probed)
    difference, low, high = paired_interval(first, second)
    p = float(mcnemar(first[None, :], second[None, :])[0])
    return Lead(difference=difference, interval=(low, high), p=p, images=len(first))
