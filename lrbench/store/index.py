"""Index of a suite's results: an Arrow file in the cache that mirrors the result files and is fast to read.

The result files are authoritative. An entry is used only while both of its files have the recorded size, modification time
and inode; other files are read again, and the index is rewritten. The index may be deleted at any time. Its checksum is
verified before Arrow parses it; a damaged index is rebuilt.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

from lrbench.core.errors import InputError, LrbenchError
from lrbench.core.escaping import for_terminal
from lrbench.core.files import canonical_json, read_bytes, sha256_bytes, write_bytes
from lrbench.store.measures import measures_of
from lrbench.store.results import Result, StoredResult, is_record, load_result

# Increases with every change of an entry's fields or their meaning.
_VERSION = 9
_DIGEST = hashlib.sha256().digest_size
# Reading small files is bound by the disk.
_READERS = 8


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions under which a result was computed. Results of one column are compared only if all of them are equal.

    Attributes:
        protocol_version: Version of the protocol's procedure.
        preprocessing: How images became inputs, as JSON.
        images: Fingerprint of the target's image names and labels and, if recorded, of its files' sizes.
        source_fingerprint: The same names and labels of the source; None if the weights have no known source.
        settings: The settings of the cell, as JSON.
        batchnorm: Which BatchNorm statistics the transfer started from.
    """

    protocol_version: int
    preprocessing: str
    images: str
    source_fingerprint: str | None
    settings: str
    batchnorm: str

    @classmethod
    def of(cls, result: Result) -> "Conditions":
        """The conditions of a result."""
        return cls(
            protocol_version=result.protocol_version,
            preprocessing=json.dumps(result.preprocessing, sort_keys=True),
            # Older results record no sizes of files, and neither do tasks whose images are not in files.
            images=" ".join(filter(None, (result.task.fingerprint, result.task.content_sha256))),
            source_fingerprint=result.snapshot.source_fingerprint,
            settings=json.dumps(_shared_settings(result.settings), sort_keys=True),
            batchnorm=result.snapshot.batchnorm,
        )

    @classmethod
    def from_json(cls, text: str) -> "Conditions":
        """The conditions that `to_json` wrote."""
        return cls(**dict(zip([field.name for field in fields(cls)], json.loads(text), strict=True)))

    def to_json(self) -> str:
        """The values in the order of the fields, as a JSON list."""
        return canonical_json([getattr(self, field.name) for field in fields(self)])


def _shared_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without the partner of `concat` if its name stands for other weights under each pretraining seed."""
    partner, concat = settings.get("partner"), settings.get("concat")
    if isinstance(partner, dict) and isinstance(concat, dict) and partner.get("reference") != concat.get("partner"):
        return {name: value for name, value in settings.items() if name != "partner"}
    return settings


class Entry(NamedTuple):
    """One result, as the leaderboard needs it. A tuple, because a suite may have very many.

    Attributes:
        stamp: Size, modification time and inode of both files when they were read.
        metrics, report, chosen, versions: As in the record, as JSON.
        measures: Measures beside accuracy (`measures_of`), as JSON.
        labels: Hash of the test labels, which many results share.
        correct: Correct predictions, one bit per image.
        computed: Time of computation; None in older records.
        checked: Whether the record has a hash.
        origin: Name of the collection that a result of unknown origin came from; None for the workspace's own.
    """

    cell: str
    stamp: str
    suite: str
    reference: str
    sha256: str
    random: bool
    arm: str | None
    stage: int | None
    pretraining_seed: int | None
    task: str
    protocol: str
    seed: int
    metric: str
    headline: float
    metrics: str
    partial: bool
    conditions: Conditions
    classes: int
    fingerprint: str
    source_fingerprint: str
    source_accuracy: float | None
    report: str
    epoch: int | None
    rate: float | None
    chosen: str
    measures: str
    edge: bool
    train_count: int
    test_count: int
    device: str
    versions: str
    seconds: float
    labels: str
    correct: bytes
    computed: str | None
    checked: bool
    origin: str | None

    @property
    def hits(self) -> npt.NDArray[np.uint8]:
        """Correct predictions as 0 and 1. Shape `(test_count,)`."""
        return np.unpackbits(np.frombuffer(self.correct, dtype=np.uint8), count=self.test_count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """A suite's results.

    Attributes:
        entries: Results that could be read, sorted by cell.
        labels: Test labels by hash. Each of shape `(M,)`.
        problems: Errors of files that could not be read.
    """

    entries: tuple[Entry, ...]
    labels: dict[str, npt.NDArray[np.int64]]
    problems: tuple[str, ...]

    @property
    def unchecked(self) -> int:
        """Number of records without a hash: those of schema 1."""
        return sum(not entry.checked for entry in self.entries)


def load_index(results: Path, suite: str, cache: Path | None) -> Index:
    """Load every result of a suite: from the index if it is up to date, else from the result files.

    A file that is deleted meanwhile is skipped.

    Args:
        results: The workspace's results folder.
        suite: Name of the suite, or `foreign`.
        cache: The workspace's cache; None to read every file.
    """
    stamps = _stamps(results / suite)
    path = None if cache is None else cache / "results" / f"{suite}.arrow"
    indexed, labels = ({}, {}) if path is None else _read(path)
    entries: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    missing = []
    for cell, stamp in stamps.items():
        entry = indexed.get(cell)
        if entry is not None and entry.stamp == stamp:
            entries[cell] = entry
        else:
            missing.append(cell)
    with ThreadPoolExecutor(_READERS) as pool:
        outcomes = pool.map(lambda cell: _load_entry(results / suite / f"{cell}.json", suite, stamps[cell]), missing)
        for cell, outcome in zip(missing, outcomes, strict=True):
            if isinstance(outcome, str):
                problems[cell] = outcome
            elif outcome is not None:
                entries[cell], test_labels = outcome
                labels[entries[cell].labels] = test_labels
    ordered = tuple(entries[cell] for cell in sorted(entries))
    # Damaged files are not indexed, so that each command reports their present error.
    if path is not None and (len(missing) > len(problems) or len(indexed) != len(entries)):
        _write(path, ordered, labels)
    return Index(entries=ordered, labels=labels, problems=tuple(problems[cell] for cell in sorted(problems)))


def _stamps(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    records: dict[str, str] = {}
    predictions: dict[str, str] = {}
    with os.scandir(folder) as listing:
        for item in listing:
            stamps = records if is_record(item.name) else predictions if item.name.endswith(".parquet") else None
            if stamps is not None:
                stamp = ""
                try:
                    status = item.stat()
                    stamp = f"{status.st_size}.{status.st_mtime_ns}.{status.st_ino}"
                except OSError:
                    # A broken link is reported; a file that was deleted meanwhile is not.
                    if not item.is_symlink():
                        continue
                stamps[item.name.rpartition(".")[0]] = stamp
    return {cell: f"{records[cell]}/{predictions.get(cell, '')}" for cell in sorted(records)}


def _load_entry(path: Path, suite: str, stamp: str) -> tuple[Entry, npt.NDArray[np.int64]] | str | None:
    """Return a result with its test labels, the error of a damaged one, or None if the file was deleted."""
    try:
        return _make_entry(load_result(path, suite), stamp)
    except InputError as error:
        if not os.path.lexists(path):
            return None
        return for_terminal(str(error).replace(str(path.parent), f"results/{suite}"))


def _make_entry(stored: StoredResult, stamp: str) -> tuple[Entry, npt.NDArray[np.int64]]:
    result, predictions = stored.result, stored.predictions
    snapshot = result.snapshot
    labels = predictions.label.astype(np.int64)
    entry = Entry(
        cell=result.cell,
        stamp=stamp,
        suite=result.suite,
        reference=snapshot.reference,
        sha256=snapshot.sha256,
        random=snapshot.random,
        arm=snapshot.arm,
        stage=snapshot.stage,
        pretraining_seed=snapshot.pretraining_seed,
        task=result.task.name,
        protocol=result.protocol,
        seed=result.seed,
        metric=result.task.metric,
        headline=result.headline,
        metrics=canonical_json(result.metrics),
        partial=result.partial,
        conditions=Conditions.of(result),
        classes=result.task.classes,
        fingerprint=result.task.fingerprint,
        source_fingerprint=snapshot.source_fingerprint or "",
        source_accuracy=snapshot.source_accuracy,
        report=canonical_json(snapshot.source_report),
        epoch=snapshot.epoch,
        rate=snapshot.rate,
        chosen=canonical_json(result.chosen),
        measures=canonical_json(measures_of(result)),
        edge=bool(result.selection.get("edge")),
        train_count=result.train_count,
        test_count=result.test_count,
        device=result.device,
        versions=canonical_json(result.versions),
        seconds=sum(result.timings.values(), 0.0),
        labels=sha256_bytes(labels.tobytes()),
        correct=np.packbits(predictions.prediction == labels).tobytes(),
        computed=result.computed,
        checked=result.checked,
        origin=None if result.origin is None else result.origin.name,
    )
    return entry, labels


# Columns with few different values are dictionary-encoded.
_SHARED = (
    "suite", "reference", "sha256", "arm", "task", "protocol", "metric", "conditions", "fingerprint", "source_fingerprint",
    "report", "chosen", "device", "versions", "labels", "origin",
)  # fmt: skip


def _write(path: Path, entries: Sequence[Entry], labels: dict[str, npt.NDArray[np.int64]]) -> None:
    import pyarrow as arrow

    kinds = {
        "str": arrow.string(),
        "int": arrow.int64(),
        "float": arrow.float64(),
        "bool": arrow.bool_(),
        "bytes": arrow.binary(),
        "Conditions": arrow.string(),
    }
    hints = get_type_hints(Entry)
    columns = {}
    for position, name in enumerate(Entry._fields):
        kind = str(getattr(hints[name], "__name__", hints[name])).split(" ")[0]
        values: list[Any] = [entry[position] for entry in entries]
        if name == "conditions":
            texts = {conditions: conditions.to_json() for conditions in set(values)}
            values = [texts[conditions] for conditions in values]
        column = arrow.array(values, type=kinds[kind])
        columns[name] = column.dictionary_encode() if name in _SHARED else column
    used = {entry.labels for entry in entries}
    test_labels = arrow.table(
        {
            "labels": [name for name in labels if name in used],
            "values": [labels[name].tobytes() for name in labels if name in used],
        }
    )
    metadata = {"version": str(_VERSION), "labels": _as_stream(test_labels)}
    content = _as_stream(arrow.table(columns).replace_schema_metadata(metadata))
    try:
        # Arrow stops reading at the stream's end.
        write_bytes(path, content + hashlib.sha256(content).digest())
    except LrbenchError:
        # The disk is full or read-only; the next command reads the files again.
        return


def _as_stream(table: Any) -> bytes:
    import pyarrow as arrow

    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _read(path: Path) -> tuple[dict[str, Entry], dict[str, npt.NDArray[np.int64]]]:
    import pyarrow as arrow

    try:
        content = read_bytes(path)
    except (FileNotFoundError, InputError):
        return {}, {}
    # Arrow may crash or hang on damaged bytes.
    stream, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(stream).digest() != digest:
        return {}, {}
    table = arrow.ipc.open_stream(arrow.py_buffer(stream)).read_all()
    if table.schema.metadata[b"version"] != str(_VERSION).encode():
        return {}, {}
    test_labels = arrow.ipc.open_stream(arrow.py_buffer(table.schema.metadata[b"labels"])).read_all().to_pylist()
    labels = {row["labels"]: np.frombuffer(row["values"], dtype=np.int64) for row in test_labels}
    columns = [
        _values(table.column(name), Conditions.from_json if name == "conditions" else None) for name in Entry._fields
    ]
    return {entry.cell: entry for entry in map(Entry._make, zip(*columns, strict=True))}, labels


def _values(column: Any, decode: Callable[[str], object] | None = None) -> list[Any]:
    import pyarrow as arrow

    joined = column.combine_chunks()
    if isinstance(joined, arrow.ChunkedArray):
        joined = arrow.concat_arrays(joined.chunks) if joined.num_chunks else joined.chunk(0)
    if arrow.types.is_dictionary(joined.type):
        shared = joined.dictionary.to_pylist()
        if decode is not None:
            shared = [decode(value) for value in shared]
        return [None if code is None else shared[code] for code in joined.indices.to_pylist()]
    values: list[Any] = joined.to_pylist()
    return values
