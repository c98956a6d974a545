"""Recommendation of a snapshot for a task: LogME ranks all snapshots, another protocol the best of them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrbench.config.loading import validate
from lrbench.config.protocols import find_protocol
from lrbench.config.suite import MARGIN
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork, as_user_error
from lrbench.core.files import read_json, sha256_json, write_json
from lrbench.core.workspace import Place
from lrbench.models.network_cost import skeleton_cost
from lrbench.stats.resampling import DIGITS
from lrbench.store.cells import Cell, Overwrite, TransferSettings, status_before_loading
from lrbench.store.references import Reference, SuiteSnapshot
from lrbench.store.results import Result, StoredResult, read_result
from lrbench.transfer.cell import Transfer
from lrbench.transfer.lead import compare
from lrbench.transfer.protocols.crossval import FOLDS, CrossValidation
from lrbench.transfer.recommendation import BY, Basis, Candidate, Recommendation
from lrbench.transfer.recommendation_text import scope_text


def on_equal_terms(references: Sequence[Reference]) -> tuple[list[Reference], TransferSettings, int]:
    """Return snapshots with the settings and the transfer seed that all of them get.

    Snapshots of one suite get its settings, so that its results are reused. All others get the defaults, and a suite's
    snapshots among them count as foreign, so that its results are not replaced.
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
    by: str = BY[0],
    top: int,
    margin: float = MARGIN,
    seed: int = 0,
    overwrite: Overwrite = Overwrite.NEVER,
) -> Recommendation:
    """Compare snapshots on a task.

    Args:
        references: The snapshots. One that cannot be used has a `failure` and does not stop the others.
        task: The target.
        settings: Settings of the protocols.
        place: Folders of data, results and caches. Results are stored like those of `lrbench transfer`, and reused.
        control: Receives progress.
        by: Protocol that ranks, one of `BY`. `logme` ranks all snapshots alone.
        top: Number of snapshots that another protocol compares, the best by LogME. If one fails, the next by LogME follows.
        margin: Margin of equivalence in points.
        seed: Transfer seed.
        overwrite: Policy for existing results.

    Raises:
        InputError: The target's data is missing or incomplete, or `top` or `margin` is out of range.
        InterruptedWork: A stop was requested; finished results are saved.
    """
    if top < 1:
        raise InputError(f"the number of snapshots to compare (top) must be at least 1, not {top}.")
    if not 0 < margin <= 100:
        raise InputError(f"the margin must be greater than 0 and at most 100 points, not {margin:g}.")
    work = _Work(
        task=task,
        settings=settings,
        place=place,
        control=control,
        seed=seed,
        overwrite=overwrite,
        basis=Basis.of(task, by, settings, place, seed),
    )
    named = [Candidate(reference=reference) for reference in references]
    # Only the first name of each network is compared.
    originals: dict[str, Candidate] = {}
    for candidate in named:
        originals.setdefault(candidate.network_id or candidate.reference.text, candidate)
    candidates = list(originals.values())
    control.say(scope_text(len(candidates), len(references), by, top))
    # If LogME excludes none, each snapshot is compared while its features are in memory.
    protocols = tuple(dict.fromkeys(("logme", by))) if len(candidates) <= top else ("logme",)
    for number, candidate in enumerate(candidates, start=1):
        if len(candidates) > 1:
            control.part(number, len(candidates), candidate.reference.text)
        _compare(candidate, protocols, work)
    if by != "logme":
        _compare_best(candidates, by, top, work)
    for copy in named:
        if copy.network_id is not None and (original := originals[copy.network_id]) is not copy:
            vars(copy).update({name: value for name, value in vars(original).items() if name != "reference"})
    ranked = sorted(named, key=_rank, reverse=True)
    outcome = Recommendation(basis=work.basis, ranked=ranked)
    pair = [
        (candidate.reference, candidate.result) for candidate in outcome.compared[:2] if candidate.result is not None
    ]
    if len(pair) == 2:
        outcome.lead = compare(pair[0], pair[1], place.workspace, margin)
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Arguments of `recommend` that all candidates share, and the basis of the ranking."""

    task: str
    settings: TransferSettings
    place: Place
    control: Control
    seed: int
    overwrite: Overwrite
    basis: Basis


def _evidence(candidate: Candidate) -> float:
    return -np.inf if candidate.logme is None else candidate.logme


def _rank(candidate: Candidate) -> tuple[bool, bool, float, float]:
    return candidate.failure is None, candidate.score is not None, candidate.score or 0.0, _evidence(candidate)


def _compare_best(candidates: Sequence[Candidate], by: str, top: int, work: _Work) -> None:
    """Compare the best snapshots by LogME, until enough have a result."""
    for candidate in sorted(candidates, key=_evidence, reverse=True):
        # A failed one does not count, so that the next snapshot is compared instead.
        done = sum(other.result is not None for other in candidates)
        if done >= top:
            break
        if candidate.result is None and candidate.failure is None:
            work.control.part(done + 1, min(top, len(candidates)), f"{by} of {candidate.reference.text}")
            _compare(candidate, (by,), work)


def _compare(candidate: Candidate, protocols: Sequence[str], work: _Work) -> None:
    """Find or compute results of some protocols for a snapshot, whose features are extracted once."""
    transfer: Transfer | None = None
    task = work.task
    try:
        for protocol in protocols:
            cell = Cell(task=task, protocol=protocol, seed=work.seed)
            status = status_before_loading(work.place, candidate.reference, cell, work.settings)
            stored = None if status is None else status.existing_result(work.overwrite)
            is_new = False
            if stored is None:
                transfer = transfer or Transfer(candidate.reference, work.settings, work.place, work.control)
                if transfer.record.random:
                    raise InputError("its weights are random; add a tag to its name, as in timm:resnet50.a1_in1k")
                if status is None:
                    stored = transfer.status(cell).existing_result(work.overwrite)
                if stored is None:
                    path = transfer.run(cell)
                    stored, is_new = StoredResult(result=read_result(path), path=path), True
            result = stored.result
            # Features that serve both protocols are counted once.
            shared = () if protocol == protocols[0] else ("features", "diagnostics")
            candidate.seconds += sum(spent for name, spent in result.timings.items() if name not in shared)
            candidate.records.append(result)
            if protocol == "logme":
                candidate.logme = float(result.chosen["logme"])
                candidate.speed, candidate.is_measured = images_per_second(result), is_new
                candidate.cost = skeleton_cost(candidate.reference) or (None if transfer is None else transfer.cost())
                continue
            if work.basis.folds is None:
                candidate.score = Candidate(reference=candidate.reference, result=stored).validation
            else:
                cross = (
                    None
                    if work.overwrite is Overwrite.ALWAYS
                    else _stored_cross_validation(_cross_path(work.place, result))
                )
                if cross is None:
                    transfer = transfer or Transfer(candidate.reference, work.settings, work.place, work.control)
                    cross = transfer.cross_validate(cell)
                    content = cross.model_dump()
                    write_json(_cross_path(work.place, result), {"sha256": sha256_json(content), **content})
                candidate.seconds += cross.seconds
                candidate.score = cross.score
            if candidate.score is None:
                raise InputError(
                    f"its {protocol} result on {task} has no validation score, by which snapshots are ranked. Add training "
                    "images to the task, then --again to the command"
                )
            candidate.score = round(candidate.score, DIGITS)
            candidate.result = stored
    except InterruptedWork:
        raise
    except Exception as error:
        # A network that cannot be used must not end the comparison of the others.
        candidate.failure = as_user_error(error)


def images_per_second(result: Result) -> float | None:
    """Return the speed at which a network extracted the features of a result's images; None if the result does not tell it."""
    seconds = result.timings.get("features")
    # `train_count` is of drawn images alone, or the time is of two networks.
    if not seconds or "images_sha256" in result.diagnostics or find_protocol(result.protocol).features == "partner":
        return None
    return (result.train_count + result.test_count) / seconds


def _cross_path(place: Place, result: Result) -> Path:
    """Return the path of a cross-validation, whose name is a hash of all that its score depends on."""
    inputs = {
        **({} if result.protocol == "probe" else {"protocol": result.protocol}),
        "folds": FOLDS,
        "protocol_version": result.protocol_version,
        "snapshot": [result.snapshot.sha256, result.snapshot.batchnorm],
        "task": [result.task.fingerprint, result.task.content_sha256, result.task.metric],
        "settings": result.settings,
        "preprocessing": result.preprocessing,
        "seed": result.seed,
    }
    return place.workspace.cache / "recommend" / f"{result.task.name}-{sha256_json(inputs)[:16]}.json"


def _stored_cross_validation(path: Path) -> CrossValidation | None:
    """Return a stored cross-validation; None if it is missing or damaged."""
    with suppress(FileNotFoundError, InputError):
        content = read_json(path, "It is computed again.")
        if isinstance(content, dict) and content.pop("sha256", None) == sha256_json(content):
            return validate(CrossValidation, content, path)
    return None
