"""Every result of a suite in a form that is quick to read: an Arrow file that mirrors the result files.

The files decide: an entry counts only while both its files have the size, time and inode that it was made from. Other files
are read again, and the index is rewritten. It is in the cache and may be deleted at any time. A checksum at its end is
verified before Arrow parses it; a damaged index is rebuilt.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

from lrbench.core.errors import InputError, LrbenchError
from lrbench.core.escaping import for_terminal
from lrbench.core.files import canonical_json, read_bytes, sha256_bytes, write_bytes
from lrbench.store.results import Result, StoredResult, is_record, load_result

# Rises with every change of an entry's fields or meaning.
_VERSION = 3
_DIGEST = hashlib.sha256().digest_size
# Reading small files waits for the disk more than for the processor.
_READERS = 8


class Entry(NamedTuple):
    """One result, as the leaderboard needs it; a tuple, since there may be very many.

    Attributes:
        stamp: Size, time and inode of both files when they were read.
        comparable: What results of one column must share to stand in one table, as JSON.
        report, chosen, metrics, versions: As in the record, as JSON.
        labels: Hash of the test labels, which many results share.
        correct: Right predictions, one bit an image.
        checked: Whether the record has a hash of its own.
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
    comparable: str
    classes: int
    fingerprint: str
    source_fingerprint: str
    source_accuracy: float | None
    report: str
    epoch: int | None
    rate: float | None
    chosen: str
    edge: bool
    train_count: int
    test_count: int
    device: str
    versions: str
    seconds: float
    labels: str
    correct: bytes
    checked: bool

    @property
    def hits(self) -> npt.NDArray[np.uint8]:
        """Right predictions as 0 and 1. Shape `(test_count,)`."""
        return np.unpackbits(np.frombuffer(self.correct, dtype=np.uint8), count=self.test_count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """A suite's results.

    Attributes:
        entries: Whole ones, in the order of their cells.
        labels: Test labels by hash. Each of shape `(M,)`.
        problems: What is wrong with files that could not be read.
    """

    entries: tuple[Entry, ...]
    labels: dict[str, npt.NDArray[np.int64]]
    problems: tuple[str, ...]

    @property
    def unchecked(self) -> int:
        """How many records have no hash of their own: those of schema 1."""
        return sum(not entry.checked for entry in self.entries)


def load_index(results: Path, suite: str, cache: Path | None) -> Index:
    """Every result of a suite, read from the index where that mirrors the files, and from the files where not.

    Files that are written meanwhile are taken as they were found; a file that vanishes is passed over.

    Args:
        results: The workspace's results folder.
        suite: Suite, or `foreign`.
        cache: The workspace's cache; None to read every file.
    """
    stamps = _stamps(results / suite)
    path = None if cache is None else cache / "results" / f"{suite}.arrow"
    known, labels = ({}, {}) if path is None else _read(path)
    entries: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    missing = []
    for cell, stamp in stamps.items():
        entry = known.get(cell)
        if entry is not None and entry.stamp == stamp:
            entries[cell] = entry
        else:
            missing.append(cell)
    with ThreadPoolExecutor(_READERS) as pool:
        for cell, read in zip(
            missing,
            pool.map(lambda cell: _entry(results / suite / f"{cell}.json", suite, stamps[cell]), missing),
            strict=True,
        ):
            if isinstance(read, str):
                problems[cell] = read
            elif read is not None:
                entries[cell], truth = read
                labels[entries[cell].labels] = truth
    ordered = tuple(entries[cell] for cell in sorted(entries))
    # Damaged files are read again each time, and named by what is wrong with them then.
    if path is not None and (len(missing) > len(problems) or len(known) != len(entries)):
        _write(path, ordered, labels)
    return Index(entries=ordered, labels=labels, problems=tuple(problems[cell] for cell in sorted(problems)))


def comparable(result: Result) -> tuple[object, ...]:
    """What two results of one column must share to stand in one table."""
    return (
        result.protocol_version,
        json.dumps(result.preprocessing, sort_keys=True),
        # Of results from before files' sizes were recorded, and where there are none, names and labels have to do.
        " ".join(filter(None, (result.task.fingerprint, result.task.content_sha256))),
        result.snapshot.source_fingerprint,
        json.dumps(result.settings, sort_keys=True),
        result.snapshot.batchnorm,
    )


def _stamps(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    records: dict[str, str] = {}
    predictions: dict[str, str] = {}
    with os.scandir(folder) as listing:
        for item in listing:
            kept = records if is_record(item.name) else predictions if item.name.endswith(".parquet") else None
            if kept is not None:
                stamp = ""
                try:
                    status = item.stat()
                    stamp = f"{status.st_size}.{status.st_mtime_ns}.{status.st_ino}"
                except OSError:
                    # A link that leads nowhere is named as unreadable; a file that vanished meanwhile is not.
                    if not item.is_symlink():
                        continue
                kept[os.path.splitext(item.name)[0]] = stamp
    return {cell: f"{records[cell]}/{predictions.get(cell, '')}" for cell in sorted(records)}


def _entry(path: Path, suite: str, stamp: str) -> tuple[Entry, npt.NDArray[np.int64]] | str | None:
    """A result with its test labels; what is wrong with it; or None where its file is gone."""
    try:
        return _entry_of(load_result(path, suite), stamp)
    except InputError as error:
        if not os.path.lexists(path):
            return None
        return for_terminal(str(error).replace(str(path.parent), f"results/{suite}"))


def _entry_of(stored: StoredResult, stamp: str) -> tuple[Entry, npt.NDArray[np.int64]]:
    result, predictions = stored.result, stored.predictions
    snapshot = result.snapshot
    truth = predictions.label.astype(np.int64)
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
        comparable=canonical_json(comparable(result)),
        classes=result.task.classes,
        fingerprint=result.task.fingerprint,
        source_fingerprint=snapshot.source_fingerprint or "",
        source_accuracy=snapshot.source_accuracy,
        report=canonical_json(snapshot.source_report),
        epoch=snapshot.epoch,
        rate=snapshot.rate,
        chosen=canonical_json(result.chosen),
        edge=bool(result.selection.get("edge")),
        train_count=result.train_count,
        test_count=result.test_count,
        device=result.device,
        versions=canonical_json(result.versions),
        seconds=sum(result.timings.values(), 0.0),
        labels=sha256_bytes(truth.tobytes()),
        correct=np.packbits(predictions.prediction == truth).tobytes(),
        checked=result.checked,
    )
    return entry, truth


# Columns whose few values many results share are kept once.
_SHARED = (
    "suite", "reference", "sha256", "arm", "task", "protocol", "metric", "comparable", "fingerprint", "source_fingerprint",
    "report", "chosen", "device", "versions", "labels",
)  # fmt: skip


def _write(path: Path, entries: Sequence[Entry], labels: dict[str, npt.NDArray[np.int64]]) -> None:
    import pyarrow as arrow

    kinds = {
        "str": arrow.string(),
        "int": arrow.int64(),
        "float": arrow.float64(),
        "bool": arrow.bool_(),
        "bytes": arrow.binary(),
    }
    hints = get_type_hints(Entry)
    columns = {}
    for position, name in enumerate(Entry._fields):
        kind = str(getattr(hints[name], "__name__", hints[name])).split(" ")[0]
        column = arrow.array([entry[position] for entry in entries], type=kinds[kind])
        columns[name] = column.dictionary_encode() if name in _SHARED else column
    used = {entry.labels for entry in entries}
    truths = arrow.table(
        {
            "labels": [name for name in labels if name in used],
            "values": [labels[name].tobytes() for name in labels if name in used],
        }
    )
    metadata = {"version": str(_VERSION), "labels": _as_stream(truths)}
    content = _as_stream(arrow.table(columns).replace_schema_metadata(metadata))
    try:
        # Arrow stops reading at the stream's end.
        write_bytes(path, content + hashlib.sha256(content).digest())
    except LrbenchError:
        # A read-only or full disk: the next reader reads the files again.
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
    # Arrow must not parse damaged bytes: it may crash, hang or give other values.
    stream, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(stream).digest() != digest:
        return {}, {}
    table = arrow.ipc.open_stream(arrow.py_buffer(stream)).read_all()
    if table.schema.metadata[b"version"] != str(_VERSION).encode():
        return {}, {}
    truths = arrow.ipc.open_stream(arrow.py_buffer(table.schema.metadata[b"labels"])).read_all().to_pylist()
    labels = {row["labels"]: np.frombuffer(row["values"], dtype=np.int64) for row in truths}
    columns = [_values(table.column(name)) for name in Entry._fields]
    return {entry.cell: entry for entry in map(Entry._make, zip(*columns, strict=True))}, labels


def _values(column: Any) -> list[Any]:
    import pyarrow as arrow

    joined = column.combine_chunks()
    if isinstance(joined, arrow.ChunkedArray):
        joined = arrow.concat_arrays(joined.chunks) if joined.num_chunks else joined.chunk(0)
    if arrow.types.is_dictionary(joined.type):
        shared = joined.dictionary.to_pylist()
        return [None if code is None else shared[code] for code in joined.indices.to_pylist()]
    values: list[Any] = joined.to_pylist()
    return values
