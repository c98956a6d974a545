"""Merging of a collection into a workspace. Results of the workspace's own are never replaced."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrbench.config.paths import MAX_NAME_BYTES
from lrbench.config.protocols import RESERVED
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes, write_bytes
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard.gathering import read_suite
from lrbench.leaderboard.registration import Registration, adopt, classify, read_registration, suite_changes
from lrbench.sharing.collection import Collection
from lrbench.store.index import load_index
from lrbench.store.results import Result, StoredResult, read_result, result_path, write_encoded_result
from lrbench.store.snapshots import identity, snapshot_files, snapshot_path
from lrbench.store.suites import effective_path, read_effective, recipe, write_suite_with_results

_NOT_IN_RECORD = {"schema_version", "predictions_sha256", "record_sha256"}
_RECEIVED = "that the collection received from others"


@dataclass
class Merge:
    """Outcome of merging a collection.

    Attributes:
        added: Number of new results, by suite.
        same: Number of results that the workspace has.
        updated: Number of results that replace earlier ones of the same collection.
        left_out: Number of results that were left out, by reason (the end of a sentence).
        notes: Sentences on how the pages treat the added results.
    """

    added: Counter[str] = field(default_factory=Counter)
    same: int = 0
    updated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def merge_apart(collection: Collection, workspace: Workspace, name: str, control: Control) -> Merge:
    """Keep a collection's results apart from the workspace's own, as results of unknown origin in the folder `foreign`.

    A result that was received before, also under another name or from another collection, is not added again.

    Args:
        collection: The checked collection.
        workspace: The workspace.
        name: Name of the collection, which marks the results.
        control: Receives progress.
    """
    merge = Merge()
    received = _received(workspace)
    for number, stored in enumerate(collection.results, 1):
        result = stored.result
        if result.record_sha256 in received or _is_stored(workspace, result):
            merge.same += 1
        elif result.protocol in RESERVED:
            merge.left_out["on the source of a suite, shown on the page of that suite only"] += 1
        elif result.origin is not None:
            merge.left_out[_RECEIVED] += 1
        else:
            _put_apart(stored, workspace, name, merge)
        control.progress(number, len(collection.results), "results")
    _copy_splits(collection, workspace)
    return merge


def _received(workspace: Workspace) -> set[str]:
    """Return the hashes of the originals of all whole results that the workspace has received."""
    entries = load_index(workspace.results, FOREIGN, workspace.cache).entries
    records = [read_result(result_path(workspace.results, FOREIGN, entry.cell)) for entry in entries if entry.origin]
    return {record.origin.record_sha256 for record in records if record.origin is not None}


def _existing(path: Path) -> Result | None:
    """Return the readable record at a path, or None."""
    try:
        return read_result(path)
    except InputError:
        return None


def _is_stored(workspace: Workspace, result: Result) -> bool:
    existing = _existing(result_path(workspace.results, result.suite, result.cell))
    return existing is not None and existing.record_sha256 == result.record_sha256


def _put_apart(stored: StoredResult, workspace: Workspace, name: str, merge: Merge) -> None:
    result = stored.result
    snapshot = {
        **result.snapshot.model_dump(mode="json"),
        "reference": f"{result.snapshot.reference} (from {name})",
        # A snapshot of no suite: the same name may stand for other weights in this workspace.
        "arm": None,
        "stage": None,
        "pretraining_seed": None,
    }
    origin = {
        "name": name,
        "suite": result.suite,
        "reference": result.snapshot.reference,
        "record_sha256": result.record_sha256,
    }
    record = {
        **result.model_dump(mode="json", exclude=_NOT_IN_RECORD),
        "suite": FOREIGN,
        "snapshot": snapshot,
        "origin": origin,
    }
    apart = result.model_copy(
        update={"suite": FOREIGN, "snapshot": result.snapshot.model_validate(snapshot, strict=True)}
    )
    path = result_path(workspace.results, FOREIGN, apart.cell)
    if len(os.fsencode(path.with_suffix(".parquet").name)) > MAX_NAME_BYTES:
        merge.left_out["whose file names would be too long (--name gives a shorter name)"] += 1
        return
    existing = _existing(path)
    if existing is not None and existing.origin is None:
        merge.left_out["whose place a result of your own has"] += 1
        return
    write_encoded_result(workspace.results, record, read_bytes(stored.path.with_suffix(".parquet")))
    if existing is None:
        merge.added[FOREIGN] += 1
    else:
        merge.updated += 1


def merge_trusted(collection: Collection, workspace: Workspace, control: Control) -> Merge:
    """Add a collection's results to the suites that they belong to, unless the workspace has other weights or results there.

    A pretraining seed's results are added only if all snapshots that both sides have are the same: results of two runs of one
    seed are never mixed. A result that is exploratory in the collection is not added to a registration that would cover it.

    Args:
        collection: The checked collection.
        workspace: The workspace.
        control: Receives progress.
    """
    merge = Merge()
    done = 0
    for suite in sorted({stored.result.suite for stored in collection.results}):
        of_suite = [stored for stored in collection.results if stored.result.suite == suite]
        fit = _fit_results(of_suite, collection, workspace, suite, merge)
        whole = {entry.cell for entry in load_index(workspace.results, suite, workspace.cache).entries}
        if fit and suite != FOREIGN:
            _adopt_suite(collection, workspace, suite, merge)
            merge.notes += _unlisted_seeds(fit, workspace, suite)
        for stored in fit:
            result = stored.result
            path = result_path(workspace.results, suite, result.cell)
            is_same = _is_stored(workspace, result)
            if is_same and result.cell in whole:
                merge.same += 1
            elif path.exists() and not is_same:
                merge.left_out[f"of {suite} whose place another result has in this workspace"] += 1
            else:
                # A record whose predictions are damaged gets them back.
                _copy(stored, path)
                merge.added[suite] += 1
            done += 1
            control.progress(done, len(collection.results), "results")
    _copy_splits(collection, workspace)
    return merge


def _fit_results(
    stored: Sequence[StoredResult], collection: Collection, workspace: Workspace, suite: str, merge: Merge
) -> list[StoredResult]:
    """Return the results of a suite that may join the workspace's own; count the others in `merge.left_out`."""
    own = [item for item in stored if item.result.origin is None]
    if len(own) < len(stored):
        merge.left_out[_RECEIVED] += len(stored) - len(own)
    if suite == FOREIGN:
        return own
    if not _has_same_recipe(collection, workspace, suite):
        merge.left_out[f"of {suite}, whose pretraining settings differ in this workspace"] += len(own)
        return []
    clashing = _clashing_seeds(own, workspace, suite)
    promoted = _promoted_cells(collection, workspace, suite)
    fit = []
    for item in own:
        seed = item.result.snapshot.pretraining_seed
        if seed in clashing:
            merge.left_out[
                f"of {suite}, seed {seed}, of which this workspace has a different run or no snapshot in common"
            ] += 1
        elif item.result.cell in promoted:
            reason = f"of {suite}, exploratory in the collection but covered by the registration of this workspace"
            merge.left_out[reason] += 1
        else:
            fit.append(item)
    return fit


def _has_same_recipe(collection: Collection, workspace: Workspace, name: str) -> bool:
    """Return whether a suite's pretraining settings are those of the workspace's results and snapshots, if it has any."""
    own = []
    if (workspace.results / name / "suite.json").is_file():
        own.append(read_suite(workspace.results, name))
    if effective_path(workspace, name).is_file() and any(snapshot_files(workspace.checkpoints / name)):
        own.append(read_effective(effective_path(workspace, name)))
    return all(recipe(suite) == recipe(collection.suites[name]) for suite in own)


def _clashing_seeds(stored: Sequence[StoredResult], workspace: Workspace, suite: str) -> set[int]:
    """Return the pretraining seeds that the workspace has with other weights, or without a snapshot in common."""
    own: dict[int, dict[tuple[str, int], set[str]]] = {}
    theirs: dict[int, dict[tuple[str, int], set[str]]] = {}
    for entry in load_index(workspace.results, suite, workspace.cache).entries:
        _add_weights(own, entry.pretraining_seed, entry.arm, entry.stage, entry.sha256)
    for snapshot in (item.result.snapshot for item in stored):
        _add_weights(theirs, snapshot.pretraining_seed, snapshot.arm, snapshot.stage, snapshot.sha256)
    for seed, weights in theirs.items():
        for arm, stage in weights:
            path = snapshot_path(workspace.checkpoints, suite, SnapshotKey(arm=arm, seed=seed, stage=stage))
            if path.is_file():
                _add_weights(own, seed, arm, stage, identity(path))
    clashing = set()
    for seed in own.keys() & theirs.keys():
        shared = own[seed].keys() & theirs[seed].keys()
        if not shared or any(len(own[seed][key] | theirs[seed][key]) > 1 for key in shared):
            clashing.add(seed)
    return clashing


def _add_weights(
    weights: dict[int, dict[tuple[str, int], set[str]]],
    seed: int | None,
    arm: str | None,
    stage: int | None,
    sha256: str,
) -> None:
    if seed is not None and arm is not None and stage is not None:
        weights.setdefault(seed, {}).setdefault((arm, stage), set()).add(sha256)


def _promoted_cells(collection: Collection, workspace: Workspace, suite: str) -> set[str]:
    """Return the cells whose results are exploratory in the collection, and which the workspace's registration covers."""
    registration = read_registration(workspace.leaderboard, suite)
    if registration is None:
        return set()
    entries = load_index(collection.folder / "results", suite, None).entries
    covered = {cell for cell, reason in classify(entries, registration).items() if reason is None}
    theirs: Registration | None = collection.registrations.get(suite)
    if theirs is None or suite_changes(theirs, collection.suites[suite]):
        return covered
    return {cell for cell, reason in classify(entries, theirs).items() if reason is not None} & covered


def _adopt_suite(collection: Collection, workspace: Workspace, name: str, merge: Merge) -> None:
    """Store the suite and its registration if the workspace has no results of it."""
    index = load_index(workspace.results, name, workspace.cache)
    if name in collection.registrations and read_registration(workspace.leaderboard, name) is None:
        if index.entries or index.problems:
            merge.notes.append(
                f"The registration of {name} was not taken, because this workspace had results of it before. Its pages call "
                "all of them exploratory."
            )
        else:
            adopt(workspace, name, read_bytes(collection.folder / collection.registrations[name].file))
    if not (workspace.results / name / "suite.json").is_file():
        write_suite_with_results(workspace, collection.suites[name])


def _unlisted_seeds(stored: Sequence[StoredResult], workspace: Workspace, name: str) -> list[str]:
    """Return a sentence on pretraining seeds that the workspace's suite does not have, if there are any."""
    seeds = {seed for item in stored if (seed := item.result.snapshot.pretraining_seed) is not None}
    missing = sorted(seeds - set(read_suite(workspace.results, name).seeds))
    if not missing:
        return []
    return [
        f"The pages of {name} leave out its seeds {', '.join(map(str, missing))}. To show them, add them to `seeds` in "
        f"{workspace.results / name / 'suite.json'}."
    ]


def _copy(stored: StoredResult, path: Path) -> None:
    write_bytes(path.with_suffix(".parquet"), read_bytes(stored.path.with_suffix(".parquet")))
    # Last: a record marks a whole result.
    write_bytes(path, read_bytes(stored.path))


def _copy_splits(collection: Collection, workspace: Workspace) -> None:
    for path in collection.splits:
        target = workspace.drawn_splits / path.name
        if not target.exists():
            write_bytes(target, read_bytes(path))
