"""Merging of a collection into a workspace. Results of the workspace's own are never replaced."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lrbench.config.protocols import RESERVED
from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes, write_bytes
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard.gathering import read_suite
from lrbench.leaderboard.registration import read_registration
from lrbench.sharing.collection import Collection
from lrbench.store.index import load_index
from lrbench.store.results import Result, StoredResult, read_result, result_path, write_encoded_result
from lrbench.store.suites import recipe, write_suite_with_results

_NOT_IN_RECORD = {"schema_version", "predictions_sha256", "record_sha256"}


@dataclass
class Merge:
    """Outcome of merging a collection.

    Attributes:
        added: Number of new results, by suite.
        same: Number of results that the workspace has.
        updated: Number of results that replace earlier ones of the same collection.
        left_out: Number of results that were left out, by reason (the end of a sentence).
    """

    added: Counter[str] = field(default_factory=Counter)
    same: int = 0
    updated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def merge_apart(collection: Collection, workspace: Workspace, name: str) -> Merge:
    """Keep a collection's results apart from the workspace's own, as results of unknown origin in the folder `foreign`.

    Args:
        collection: The checked collection.
        workspace: The workspace.
        name: Name of the collection, which marks the results.
    """
    merge = Merge()
    for stored in collection.results:
        result = stored.result
        if result.protocol in RESERVED:
            merge.left_out["predictions of their source, which are shown on the page of their suite only"] += 1
        elif result.origin is not None:
            merge.left_out["results that the collection itself received from others"] += 1
        elif _is_same(_existing(result_path(workspace.results, result.suite, result.cell)), result):
            merge.same += 1
        else:
            _put_apart(stored, workspace, name, merge)
    _copy_splits(collection, workspace)
    return merge


def _existing(path: Path) -> Result | None:
    """Return the readable record at a path, or None."""
    try:
        return read_result(path)
    except InputError:
        return None


def _is_same(existing: Result | None, result: Result) -> bool:
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
    existing = _existing(path)
    if existing is not None and existing.origin is None:
        merge.left_out["results whose place a result of your own has"] += 1
        return
    if existing is not None and existing.origin is not None and existing.origin.record_sha256 == result.record_sha256:
        merge.same += 1
        return
    write_encoded_result(workspace.results, record, read_bytes(stored.path.with_suffix(".parquet")))
    if existing is None:
        merge.added[FOREIGN] += 1
    else:
        merge.updated += 1


def merge_trusted(collection: Collection, workspace: Workspace) -> Merge:
    """Add a collection's results to the suites that they belong to, unless the workspace has other weights or results there.

    A pretraining seed's results are added only if all snapshots that both sides have are the same: results of two runs of one
    seed are never mixed.
    """
    merge = Merge()
    for suite in sorted({stored.result.suite for stored in collection.results}):
        of_suite = [stored for stored in collection.results if stored.result.suite == suite]
        if suite != FOREIGN and not _accept_suite(collection, workspace, suite):
            merge.left_out[f"results of {suite}, whose pretraining settings differ in this workspace"] += len(of_suite)
            continue
        clashing = _clashing_seeds(of_suite, workspace, suite)
        for stored in of_suite:
            result = stored.result
            seed = result.snapshot.pretraining_seed
            if seed in clashing:
                merge.left_out[f"results of {suite}, seed {seed}, of which this workspace has a different run"] += 1
                continue
            path = result_path(workspace.results, suite, result.cell)
            if _is_same(_existing(path), result):
                merge.same += 1
            elif path.exists():
                merge.left_out[f"results of {suite} that this workspace has computed itself"] += 1
            else:
                _copy(stored, workspace)
                merge.added[suite] += 1
    _copy_splits(collection, workspace)
    return merge


def _accept_suite(collection: Collection, workspace: Workspace, name: str) -> bool:
    """Store the suite and its registration if the workspace has neither; return whether the pretraining settings agree."""
    theirs = collection.suites[name]
    path = workspace.results / name / "suite.json"
    if path.is_file():
        return recipe(read_suite(workspace.results, name)) == recipe(theirs)
    if name in collection.registrations and read_registration(workspace.leaderboard, name) is None:
        file = f"registrations/{name}.json"
        write_bytes(workspace.leaderboard / file, read_bytes(collection.folder / file))
    write_suite_with_results(workspace, theirs)
    return True


def _clashing_seeds(stored: list[StoredResult], workspace: Workspace, suite: str) -> set[int | None]:
    """Return the pretraining seeds of which the workspace has results of other weights, or none in common."""
    own: dict[int, dict[tuple[str | None, int | None], str]] = {}
    for entry in load_index(workspace.results, suite, workspace.cache).entries:
        if entry.pretraining_seed is not None:
            own.setdefault(entry.pretraining_seed, {})[entry.arm, entry.stage] = entry.sha256
    clashing: set[int | None] = set()
    for seed, hashes in own.items():
        theirs = {
            (result.snapshot.arm, result.snapshot.stage): result.snapshot.sha256
            for result in (item.result for item in stored)
            if result.snapshot.pretraining_seed == seed
        }
        shared = hashes.keys() & theirs.keys()
        if theirs and (not shared or any(hashes[key] != theirs[key] for key in shared)):
            clashing.add(seed)
    return clashing


def _copy(stored: StoredResult, workspace: Workspace) -> None:
    path = result_path(workspace.results, stored.result.suite, stored.result.cell)
    write_bytes(path.with_suffix(".parquet"), read_bytes(stored.path.with_suffix(".parquet")))
    # Last: a record marks a whole result.
    write_bytes(path, read_bytes(stored.path))


def _copy_splits(collection: Collection, workspace: Workspace) -> None:
    for path in collection.splits:
        target = workspace.drawn_splits / path.name
        if not target.exists():
            write_bytes(target, read_bytes(path))
