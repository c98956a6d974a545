"""Arrange a suite's results for comparison: which results are comparable, which are missing, and which are excluded."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from lrbench.config import Suite
from lrbench.config.explain import explain
from lrbench.config.protocols import HIT_BLOCKS, RESERVED, SOURCE, SOURCE_FIT, SOURCE_HITS
from lrbench.config.schedule import snapshot_keys
from lrbench.config.toml_files import differences as changed_values
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_json
from lrbench.leaderboard.evidence import Column, Evidence, Row, Values
from lrbench.leaderboard.registration import read_registration
from lrbench.store.index import Entry, Index, load_index

_LARGEST_SUITE = 1 << 20

EXCLUSIONS = (
    "Results whose arm, stage, pretraining seed or transfer seed is not in the suite are left out.",
    "Results on partial data are compared with one another only.",
    "If the results of a snapshot are of several weights, those of other weights than most of them are left out.",
    "Of a target and protocol, only results of the newest protocol version count, and of these the largest group with equal "
    "preprocessing, images, labels, settings and kind of BatchNorm statistics.",
    "A snapshot without results of every transfer seed has no accuracy.",
    "Predictions of the source's test images follow the same rules and are of the weights in the tables.",
    "Files that are damaged or cannot be read are left out and named.",
)
"""The rules by which this module leaves results out. A registration holds them."""


def gather(results: Path, suite: Suite, cache: Path | None = None) -> list[Evidence]:
    """Arrange a suite's results, apart from those on partial data.

    Args:
        results: The workspace's results folder.
        suite: The suite, which names the expected results.
        cache: The workspace's cache with the index of results; None to read every file.

    Returns:
        The full results, followed by those on partial data if there are any; the latter alone if there are no full results.

    Raises:
        InputError: The suite's registration is damaged.
    """
    index = load_index(results, suite.name, cache)
    full = [entry for entry in index.entries if not entry.partial]
    partial = [entry for entry in index.entries if entry.partial]
    problems = list(index.problems)
    groups = [_arrange(suite, full, index, problems, partial=False)] if full or not partial else []
    if partial:
        groups.append(_arrange(suite, partial, index, [] if groups else problems, partial=True))
    registration = read_registration(results.parent, suite.name)
    for evidence in groups:
        evidence.registration = registration
    return groups


def read_suite(results: Path, name: str) -> Suite:
    """Return the suite that is stored next to its results.

    Raises:
        InputError: The file is missing, damaged or describes another suite.
    """
    path = results / name / "suite.json"
    remedy = "Run the suite again to write the file, or copy it from the source of the results."
    try:
        content = read_json(path, remedy, limit=_LARGEST_SUITE)
        suite = Suite.model_validate_json(json.dumps(content), strict=True)
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; it describes the suite of the results next to it. Run the suite again, or copy the file from "
            "the source of the results."
        ) from None
    except ValidationError as error:
        raise DamagedFile(path, explain(Suite, error), remedy) from error
    if suite.name != name:
        raise DamagedFile(path, f"it describes a suite {suite.name!r}", remedy)
    return suite


_DIFFERENCES = {
    "protocol_version": "a different protocol version",
    "preprocessing": "different preprocessing",
    "images": "different images or labels of the target",
    "source_fingerprint": "different images of the source",
    "settings": "different settings",
    "batchnorm": "a different kind of BatchNorm statistics",
}


def differences(entry: Entry, other: Entry) -> list[str]:
    """Return how the conditions of two results of one column differ, which makes them not comparable."""
    conditions, reference = entry.conditions, other.conditions
    reasons = {
        name: text for name, text in _DIFFERENCES.items() if getattr(conditions, name) != getattr(reference, name)
    }
    if "settings" in reasons:
        changes = changed_values(json.loads(reference.settings), json.loads(conditions.settings))
        reasons["settings"] += f" ({'; '.join(changes).replace(' and is now ', ' and here ')})"
    return list(reasons.values())


def _arrange(suite: Suite, entries: Sequence[Entry], index: Index, problems: list[str], *, partial: bool) -> Evidence:
    rows = list(dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(suite, seed=suite.seeds[0])))
    columns = [Column(protocol=protocol, task=task) for protocol in suite.protocols for task in suite.targets]
    evidence = Evidence(
        name=suite.name,
        suite=suite,
        rows=sorted(rows, key=lambda row: (suite.arms.index(row[0]), row[1])),
        columns=columns,
        problems=problems,
        partial=partial,
    )
    members: dict[Column, list[Entry]] = {}
    source: dict[str, list[Entry]] = {name: [] for name in RESERVED}
    for entry in entries:
        if entry.arm is None or (entry.arm, entry.stage) not in rows:
            evidence.excluded.append((entry, "its arm or stage is not in the suite"))
        elif entry.pretraining_seed not in suite.seeds:
            evidence.excluded.append((entry, "its seed is not in the suite"))
        elif entry.protocol in RESERVED:
            source[entry.protocol].append(entry)
        elif entry.seed not in suite.transfer_seeds:
            evidence.excluded.append((entry, "its seed is not in the suite"))
        else:
            members.setdefault(Column(protocol=entry.protocol, task=entry.task), []).append(entry)
    evidence.other_columns = sorted(members.keys() - set(columns))
    # Other transfers may have older or newer weights than the suite's own cells. The latter come last, so that their source
    # accuracies are the ones that stay.
    for together in [
        *([column] for column in evidence.other_columns),
        [column for column in columns if column in members],
    ]:
        own = _with_common_weights([entry for column in together for entry in members[column]], evidence)
        for column in together:
            if column_entries := [entry for entry in members[column] if entry.cell in own]:
                _add_column(evidence, column, column_entries, index)
    if not suite.targets:
        own = _with_common_weights([entry for name in RESERVED for entry in source[name]], evidence)
        source = {name: [entry for entry in source[name] if entry.cell in own] for name in RESERVED}
    _add_source(evidence, source[SOURCE.name], index)
    _add_hits(evidence, source[SOURCE_HITS.name], index)
    _add_fit(evidence, source[SOURCE_FIT.name])
    return evidence


def _add_source(evidence: Evidence, entries: Sequence[Entry], index: Index) -> None:
    """Add the predictions of the source's test images."""
    comparable = _comparable_on_source(evidence, entries)
    if comparable and not evidence.suite.books:
        evidence.source_labels = index.labels[comparable[0].labels]
    for entry in comparable:
        evidence.source_correct[_row_and_seed(entry)] = entry.hits.astype(np.float32)
        if not evidence.suite.targets:
            evidence.entries.append(entry)
            if entry.source_accuracy is not None:
                evidence.source[_row_and_seed(entry)] = entry.source_accuracy
            for name, value in json.loads(entry.report).items():
                evidence.report.setdefault(name, {})[_row_and_seed(entry)] = value
            rules = {
                name.removeprefix("rule_"): int(epoch) or None
                for name, epoch in json.loads(entry.measures).items()
                if name.startswith("rule_")
            }
            if rules:
                evidence.stage_rules[_row_and_seed(entry)] = rules


def _add_hits(evidence: Evidence, entries: Sequence[Entry], index: Index) -> None:
    """Add the predictions of the source's images with wrong labels or conflicting evidence, by block."""
    for entry in _comparable_on_source(evidence, entries):
        if not evidence.suite.targets:
            evidence.entries.append(entry)
        measures = json.loads(entry.measures)
        hits, labels = entry.hits.astype(np.float32), index.labels[entry.labels]
        start = 0
        for block in HIT_BLOCKS:
            count = int(measures.get(f"hits_{block}", 0))
            if count:
                evidence.hit_labels[block] = labels[start : start + count]
                evidence.hits.setdefault(block, {})[_row_and_seed(entry)] = hits[start : start + count]
            start += count


def _add_fit(evidence: Evidence, entries: Sequence[Entry]) -> None:
    """Add the measures of the fit to training images of the source."""
    for entry in _comparable_on_source(evidence, entries):
        if not evidence.suite.targets:
            evidence.entries.append(entry)
        for name, value in json.loads(entry.measures).items():
            if name.startswith("fit_"):
                evidence.fit.setdefault(name.removeprefix("fit_"), {})[_row_and_seed(entry)] = value


def _row_and_seed(entry: Entry) -> tuple[Row, int]:
    assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
    return (entry.arm, entry.stage), entry.pretraining_seed


def _comparable_on_source(evidence: Evidence, entries: Sequence[Entry]) -> list[Entry]:
    """Return the predictions of the weights in the tables, of the largest comparable group; exclude the others."""
    # The suite's own columns come last in the entries.
    weights = {(entry.arm, entry.stage, entry.pretraining_seed): entry.sha256 for entry in evidence.entries}
    current = []
    for entry in entries:
        sha256 = weights.get((entry.arm, entry.stage, entry.pretraining_seed), entry.sha256)
        if entry.sha256 == sha256:
            current.append(entry)
        else:
            reason = f"different weights of this snapshot ({entry.sha256[:8]}) than most of its results ({sha256[:8]})"
            evidence.excluded.append((entry, reason))
    # With `books`, each seed has its own source.
    tasks = dict.fromkeys(entry.task for entry in current)
    return [
        entry
        for task in tasks
        for entry in _comparable([entry for entry in current if entry.task == task], evidence)[0]
    ]


def _comparable(entries: Sequence[Entry], evidence: Evidence) -> tuple[list[Entry], Entry]:
    """Return the largest comparable group of the newest protocol version, and one of it; exclude the other results."""
    counts = Counter((entry.conditions, entry.labels) for entry in entries)
    chosen = max(counts, key=lambda key: (key[0].protocol_version, counts[key], key[0].to_json(), key[1]))
    comparable = [entry for entry in entries if (entry.conditions, entry.labels) == chosen]
    for entry in entries:
        if (entry.conditions, entry.labels) != chosen:
            reasons = differences(entry, comparable[0]) or ["different test images, by the labels in its predictions"]
            evidence.excluded.append((entry, ", ".join(reasons)))
    return comparable, comparable[0]


def _with_common_weights(entries: Sequence[Entry], evidence: Evidence) -> set[str]:
    """Return the cells whose results have, for each snapshot, the weights that most of its results have; exclude the others.

    A snapshot that was pretrained again has different weights under the same name until all its cells are transferred again.
    In a tie the weights of the earlier results win, so that the same columns are complete for all snapshots.

    Args:
        entries: Results in the order of the suite's columns.
        evidence: The evidence that lists excluded results.
    """
    weights: dict[tuple[str | None, int | None, int | None], list[str]] = {}
    for entry in entries:
        weights.setdefault((entry.arm, entry.pretraining_seed, entry.stage), []).append(entry.sha256)
    # `most_common` keeps the order of first occurrence among equals.
    common = {snapshot: Counter(hashes).most_common(1)[0][0] for snapshot, hashes in weights.items()}
    cells = set()
    for entry in entries:
        sha256 = common[entry.arm, entry.pretraining_seed, entry.stage]
        if entry.sha256 == sha256:
            cells.add(entry.cell)
        else:
            reason = f"different weights of this snapshot ({entry.sha256[:8]}) than most of its results ({sha256[:8]})"
            evidence.excluded.append((entry, reason))
    return cells


def _add_column(evidence: Evidence, column: Column, entries: Sequence[Entry], index: Index) -> None:
    """Add the comparable results of a column."""
    comparable, example = _comparable(entries, evidence)
    cells: dict[tuple[Row, int], list[Entry]] = {}
    for entry in comparable:
        assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
        cells.setdefault(((entry.arm, entry.stage), entry.pretraining_seed), []).append(entry)
    values = evidence.values[column] = Values(metric=example.metric, labels=index.labels[example.labels])
    reports: dict[str, dict[str, float]] = {}
    for (row, seed), members in cells.items():
        evidence.entries.extend(members)
        first = members[0]
        if first.source_accuracy is not None:
            evidence.source[row, seed] = first.source_accuracy
        if first.report not in reports:
            reports[first.report] = json.loads(first.report)
        for name, value in reports[first.report].items():
            evidence.report.setdefault(name, {})[row, seed] = value
        if len(members) == len(evidence.suite.transfer_seeds):
            total = np.zeros(first.test_count, dtype=np.float32)
            for member in members:
                total += member.hits
            values.correct[row, seed] = total / np.float32(len(members))
