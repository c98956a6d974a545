"""Recommendation of a snapshot for a task: LogME ranks all snapshots, the probe the best of them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrbench.config.loading import validate
from lrbench.config.suite import MARGIN
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork, as_user_error
from lrbench.core.files import read_json, sha256_json, write_json
from lrbench.core.workspace import Place, Workspace
from lrbench.store.cells import Cell, Overwrite, TransferSettings, status_before_loading
from lrbench.store.references import (
    Reference,
    SuiteSnapshot,
    references_in,
    resolve_reference,
    snapshot_folder,
)
from lrbench.store.results import Result, StoredResult, read_result
from lrbench.transfer.cell import Transfer
from lrbench.transfer.lead import compare
from lrbench.transfer.protocols.crossval import FOLDS, CrossValidation
from lrbench.transfer.recommendation import Basis, Candidate, Recommendation


def expand(texts: Sequence[str], workspace: Workspace, suite: str | None) -> list[Reference]:
    """Resolve references and folders of `.safetensors` files; nothing is loaded.

    Args:
        texts: References or folders; `foreign` for all imported snapshots.
        workspace: Workspace of the snapshots.
        suite: Suite of references that name none; None for the suite pretrained last.

    Raises:
        InputError: A text is not a reference, or a folder has no snapshots.
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
    probed: int,
    margin: float = MARGIN,
    seed: int = 0,
    overwrite: Overwrite = Overwrite.NEVER,
) -> Recommendation:
    """Compare snapshots on a task.

    Args:
        references: The snapshots. One that cannot be loaded has a `problem` and does not stop the others.
        task: The target.
        settings: Settings of the probe.
        place: Folders of data, results and caches. Results are stored like those of `lrbench transfer`, and reused.
        control: Receives progress.
        probed: Number of snapshots to probe, the best by LogME. If a probe fails, the next by LogME is probed.
        margin: Margin of equivalence in points.
        seed: Transfer seed.
        overwrite: Policy for existing results.

    Raises:
        InputError: The target's data is missing or incomplete.
        InterruptedWork: A stop was requested; finished results are saved.
    """
    work = _Work(
        task=task,
        settings=settings,
        place=place,
        control=control,
        seed=seed,
        overwrite=overwrite,
        basis=Basis.of(task, settings, place, seed),
    )
    named = [Candidate(reference=reference) for reference in references]
    # Only the first name of each network is compared.
    originals: dict[str, Candidate] = {}
    for candidate in named:
        originals.setdefault(candidate.network_id or candidate.reference.text, candidate)
    candidates = list(originals.values())
    control.say(_scope(len(candidates), len(references), probed))
    for number, candidate in enumerate(candidates, start=1):
        if len(candidates) > 1:
            control.say(f"[{number}/{len(candidates)}] {candidate.reference.text}")
        # If LogME excludes none, each snapshot is probed while its features are in memory.
        protocols = ("logme", "probe") if len(candidates) <= probed else ("logme",)
        _compare(candidate, protocols, work)
    for candidate in sorted(candidates, key=_evidence, reverse=True):
        # A failed probe does not count, so that the next snapshot is probed instead.
        if sum(other.probe is not None for other in candidates) >= probed:
            break
        if candidate.probe is None and candidate.problem is None:
            control.say(f"probe of {candidate.reference.text}")
            _compare(candidate, ("probe",), work)
    for copy in named:
        if copy.network_id is not None and (original := originals[copy.network_id]) is not copy:
            copy.logme, copy.probe, copy.score = original.logme, original.probe, original.score
            copy.problem = original.problem
    ranked = sorted(named, key=_rank, reverse=True)
    outcome = Recommendation(basis=work.basis, ranked=ranked)
    pair = [(candidate.reference, candidate.probe) for candidate in outcome.probed[:2] if candidate.probe is not None]
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
    return candidate.problem is None, candidate.score is not None, candidate.score or 0.0, _evidence(candidate)


def _scope(count: int, names: int, probed: int) -> str:
    copies = f" ({names} names)" if count < names else ""
    if count == 1:
        return f"1 snapshot{copies}, which is probed"
    return f"{count} snapshots{copies}, of which the {min(probed, count)} best by LogME are probed"


def _compare(candidate: Candidate, protocols: Sequence[str], work: _Work) -> None:
    """Find or compute results of some protocols for a snapshot, whose features are extracted once."""
    transfer: Transfer | None = None
    task = work.task
    try:
        for protocol in protocols:
            cell = Cell(task=task, protocol=protocol, seed=work.seed)
            status = status_before_loading(work.place, candidate.reference, cell, work.settings)
            stored = None if status is None else status.existing_result(work.overwrite)
            if stored is None:
                transfer = transfer or Transfer(candidate.reference, work.settings, work.place, work.control)
                if transfer.record.random:
                    raise InputError("its weights are random: timm: and an architecture without a tag name no weights")
                if status is None:
                    stored = transfer.status(cell).existing_result(work.overwrite)
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
                    f"the result of its probe on {task} has no validation score, by which snapshots are ranked. Add training "
                    "images to the task, then --again to the command"
                )
            candidate.probe = stored
    except InterruptedWork:
        raise
    except Exception as error:
        # A network that cannot be used must not end the comparison of the others.
        candidate.problem = str(as_user_error(error))


def _cross_path(place: Place, result: Result) -> Path:
    """Return the path of a cross-validation, whose name is a hash of all that its score depends on."""
    inputs = {
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
