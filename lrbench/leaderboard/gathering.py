"""From result files to evidence: which results can stand in one table, and what is missing or must stand apart."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from lrbench.config import Suite
from lrbench.config.arms import snapshot_keys
from lrbench.config.explain import explain
from lrbench.config.loading import differences as changed_values
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_json
from lrbench.leaderboard.evidence import Column, Evidence, Row, Values
from lrbench.store.index import Entry, Index, load_index

_LARGEST_SUITE = 1 << 20


def gather(results: Path, suite: Suite, cache: Path | None = None) -> list[Evidence]:
    """Arrange a suite's results: full ones first, then, apart, those of partial data.

    Args:
        results: The workspace's results folder.
        suite: The suite, which says what is to be there.
        cache: The workspace's cache, where the index of results lies; None to read every file.

    Returns:
        One or two bodies of evidence; the second only where there are results of partial data.
    """
    index = load_index(results, suite.name, cache)
    full = [entry for entry in index.entries if not entry.partial]
    partial = [entry for entry in index.entries if entry.partial]
    problems = list(index.problems)
    bodies = [_arrange(suite, full, index, problems, partial=False)] if full or not partial else []
    if partial:
        bodies.append(_arrange(suite, partial, index, [] if bodies else problems, partial=True))
    return bodies


def read_suite(results: Path, name: str) -> Suite:
    """The suite beside its results.

    Raises:
        InputError: It is missing, damaged or of another suite.
    """
    path = results / name / "suite.json"
    remedy = "Run the suite again, which writes the file, or copy it from where the results come from."
    try:
        content = read_json(path, remedy, limit=_LARGEST_SUITE)
        suite = Suite.model_validate_json(json.dumps(content), strict=True)
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing, which says what the results beside it belong to. Run the suite again, or copy the file "
            "from where the results come from."
        ) from None
    except ValidationError as error:
        raise DamagedFile(path, explain(Suite, error), remedy) from error
    if suite.name != name:
        raise DamagedFile(path, f"it describes a suite {suite.name!r}", remedy)
    return suite


_DIFFERENCES = {
    "protocol_version": "another protocol version",
    "preprocessing": "another preprocessing",
    "images": "other images or labels of the target",
    "source_fingerprint": "other images of the source",
    "settings": "other settings",
    "batchnorm": "another kind of BatchNorm statistics",
}


def differences(entry: Entry, other: Entry) -> list[str]:
    """In what two results of one column differ, so that they cannot stand in one table."""
    mine, theirs = entry.conditions, other.conditions
    reasons = {name: text for name, text in _DIFFERENCES.items() if getattr(mine, name) != getattr(theirs, name)}
    if "settings" in reasons:
        changes = changed_values(json.loads(theirs.settings), json.loads(mine.settings))
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
        extra=[],
        values={},
        source={},
        report={},
        stored=[],
        apart=[],
        problems=problems,
        partial=partial,
    )
    members: list[Entry] = []
    known_rows, seeds, transfer_seeds = set(rows), set(suite.seeds), set(suite.transfer_seeds)
    for entry in entries:
        if entry.arm is None or (entry.arm, entry.stage) not in known_rows:
            evidence.apart.append((entry, "its arm or stage is not in the suite"))
        elif entry.pretraining_seed not in seeds or entry.seed not in transfer_seeds:
            evidence.apart.append((entry, "its seed is not in the suite"))
        else:
            members.append(entry)
    by_column: dict[Column, list[Entry]] = {}
    for entry in members:
        by_column.setdefault(Column(protocol=entry.protocol, task=entry.task), []).append(entry)
    evidence.extra = sorted(by_column.keys() - set(columns))
    # What was transferred on the side may be of weights from before or after those of the suite's own cells, whose source
    # accuracies, read last, are those that stand.
    for together in [*([column] for column in evidence.extra), [column for column in columns if column in by_column]]:
        kept = _of_one_snapshot([entry for column in together for entry in by_column[column]], evidence)
        for column in together:
            if entries_of := [entry for entry in by_column[column] if entry.cell in kept]:
                _add_column(evidence, column, entries_of, index)
    return evidence


def _of_one_snapshot(entries: Sequence[Entry], evidence: Evidence) -> set[str]:
    """The cells of the results of one set of weights for each snapshot: of that which has most of them. Others are put apart.

    A snapshot that was made anew has other weights under the same name until all of its cells are transferred again. Of two
    that have as many, the one with the earlier results counts, so that the same columns are whole for all snapshots.

    Args:
        entries: In the order of the suite's columns.
        evidence: Takes what stands apart.
    """
    found: dict[tuple[str | None, int | None, int | None], list[str]] = {}
    for entry in entries:
        found.setdefault((entry.arm, entry.pretraining_seed, entry.stage), []).append(entry.sha256)
    # Of several that are as common, the one that was met first.
    most = {name: Counter(each).most_common(1)[0][0] for name, each in found.items()}
    kept = set()
    for entry in entries:
        other = most[entry.arm, entry.pretraining_seed, entry.stage]
        if entry.sha256 == other:
            kept.add(entry.cell)
        else:
            reason = f"of other weights of that snapshot ({entry.sha256[:8]}) than most of its results ({other[:8]})"
            evidence.apart.append((entry, reason))
    return kept


def _add_column(evidence: Evidence, column: Column, entries: Sequence[Entry], index: Index) -> None:
    counts = Counter((entry.conditions, entry.labels) for entry in entries)
    # The newest protocol's largest group makes the table.
    best = max(counts, key=lambda key: (key[0].protocol_version, counts[key], key[0].to_json(), key[1]))
    example = next(entry for entry in entries if (entry.conditions, entry.labels) == best)
    cells: dict[tuple[Row, int], list[Entry]] = {}
    for entry in entries:
        if (entry.conditions, entry.labels) != best:
            reasons = differences(entry, example) or ["other test images, by the labels beside its predictions"]
            evidence.apart.append((entry, ", ".join(reasons)))
            continue
        assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
        cells.setdefault(((entry.arm, entry.stage), entry.pretraining_seed), []).append(entry)
    values = Values(metric=example.metric, labels=index.labels[example.labels])
    reports: dict[str, dict[str, float]] = {}
    for (row, seed), members in cells.items():
        evidence.stored.extend(members)
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
    evidence.values[column] = values
