"""Results: one JSON record a cell, with the per-image predictions beside it.

The path is the identity: `results/<suite>/<cell key>.json`, and `<cell key>.parquet` with the predictions. The JSON is
written last and names the predictions' hash, so that a record is either whole or not there.
"""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrbench.arms import SnapshotKey
from lrbench.errors import InputError
from lrbench.files import sha256_bytes, write_bytes, write_json

SCHEMA = 1

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class SnapshotRecord(_Record):
    """Which weights were transferred.

    Attributes:
        reference: As a user would type it: `quick/step/seed0/stage2`, or `timm:NAME`, or a path.
        sha256: Hash of the weights and, where they were used, of the re-estimated BatchNorm statistics.
        batchnorm: `re-estimated` on the source at the boundary, or `raw` (foreign snapshots).
        arm, stage, pretraining_seed: Where it stands in its suite; None for foreign snapshots.
        rate: Learning rate of the stage that it ends.
        source_accuracy: Top-1 on the source task's test split; None for foreign snapshots.
        random: True when the weights were never trained (`timm:NAME` without a tag).
        source_report: Accuracy on simple-only and complex-only images and share of wrong labels memorised, where the
            source's annotations say which is which.
    """

    reference: str
    sha256: str
    batchnorm: Literal["re-estimated", "raw"]
    architecture: str
    random: bool = False
    arm: str | None = None
    stage: int | None = None
    pretraining_seed: int | None = None
    epoch: int | None = None
    update: int | None = None
    rate: float | None = None
    source_task: str | None = None
    source_fingerprint: str | None = None
    source_partial: bool = False
    source_accuracy: float | None = None
    source_report: dict[str, float] = {}


class TaskRecord(_Record):
    """Which target it was transferred to.

    Attributes:
        fingerprint: Hash of its classes and of every split's image names and labels.
        content_sha256: Hash of its image files' sizes, which tells images that were changed under their names; None where
            images do not lie in files of their own.
        split_sha256: Hash of the list of test images, where lrbench drew them (`leaderboard/splits/`).
        partial: Whether its own images are not all there; a result is partial, too, where the snapshot's source was.
    """

    name: str
    fingerprint: str
    content_sha256: str | None = None
    classes: int
    metric: Literal["top1", "mean_per_class"]
    split_sha256: str | None = None
    partial: bool = False


class Result(_Record):
    """One cell's record.

    Attributes:
        schema_version: Version of this format; older ones stay readable.
        protocol_version: Version of the protocol's procedure; results of two versions are never ranked together.
        suite: Suite (or `foreign`) whose folder it lies in.
        seed: Transfer seed.
        preprocessing: How images became inputs; results that differ in it are never ranked together.
        metrics: Fractions in [0, 1]: `top1`, `top5`, `mean_per_class`.
        chosen: The hyper-parameters, frozen before the test labels were read.
        selection: How they were chosen: the score of every candidate on validation, and whether the best lies on the
            grid's edge.
        diagnostics: Of the final fit, such as iterations and final gradient norm.
        predictions_sha256: Hash of the predictions' file.
        settings: What the cell was asked for: the protocol's settings and the task's description. A cell is computed
            again when they change.
        arithmetic: How a GPU computed what is said to be in single precision; empty for a CPU.
    """

    schema_version: int = Field(alias="schema")
    protocol_version: int
    suite: str
    snapshot: SnapshotRecord
    task: TaskRecord
    protocol: str
    seed: int
    preprocessing: dict[str, Any]
    partial: bool
    metrics: dict[str, Fraction]
    train_count: int
    test_count: int
    chosen: dict[str, Any]
    selection: dict[str, Any]
    diagnostics: dict[str, Any]
    predictions_sha256: str
    settings: dict[str, Any] = {}
    timings: dict[str, float] = {}
    device: str = ""
    arithmetic: dict[str, str] = {}
    versions: dict[str, str] = {}

    @property
    def headline(self) -> float:
        """The task's headline metric, in [0, 1]."""
        return self.metrics[self.task.metric]

    @property
    def cell(self) -> str:
        """The cell's key: the file's name without its ending."""
        return cell_key(
            snapshot=snapshot_slug(self.snapshot), task=self.task.name, protocol=self.protocol, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was predicted for each test image.

    Attributes:
        index: Position of each image in the test split. Shape `(N,)`.
        label: True class. Shape `(N,)`.
        prediction: Predicted class. Shape `(N,)`.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """A result and where it was read from; its predictions are read when first asked for."""

    result: Result
    path: Path

    @cached_property
    def predictions(self) -> Predictions:
        """The per-image predictions.

        Raises:
            InputError: Their file is missing or is not the one that the record names.
        """
        return read_predictions(self.path.with_suffix(".parquet"), self.result.predictions_sha256)


def suite_slug(key: SnapshotKey) -> str:
    """A suite's snapshot in a cell key: `step-seed0-stage2`."""
    return f"{key.arm}-seed{key.seed}-stage{key.stage}"


def foreign_slug(reference: str, sha256: str) -> str:
    """A foreign snapshot in a cell key: its reference with other signs replaced, and the start of its hash."""
    text = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in reference)
    # The hash keeps two files of one name apart.
    return f"{text.strip('-.')[-80:]}-{sha256[:8]}"


def snapshot_slug(snapshot: SnapshotRecord) -> str:
    """A snapshot's part of a cell key."""
    if snapshot.arm is None or snapshot.pretraining_seed is None or snapshot.stage is None:
        return foreign_slug(snapshot.reference, snapshot.sha256)
    return suite_slug(SnapshotKey(arm=snapshot.arm, seed=snapshot.pretraining_seed, stage=snapshot.stage))


def cell_key(*, snapshot: str, task: str, protocol: str, seed: int) -> str:
    """The key of a cell, which is its files' name."""
    return f"{snapshot}.{task}.{protocol}.seed{seed}"


def result_path(results: Path, suite: str, cell: str) -> Path:
    """Where a cell's JSON lies."""
    return results / suite / f"{cell}.json"


def write_result(results: Path, record: dict[str, Any], predictions: Predictions) -> Path:
    """Write a cell's predictions, then its record; both atomically.

    Args:
        results: The workspace's results folder.
        record: The fields of `Result` as JSON values, without `schema` and `predictions_sha256`.
        predictions: Per-image predictions of the test split.

    Returns:
        Where the JSON lies.
    """
    content = _predictions_bytes(predictions)
    whole = {**record, "schema": SCHEMA, "predictions_sha256": sha256_bytes(content)}
    result = Result.model_validate(whole)
    path = result_path(results, result.suite, result.cell)
    write_bytes(path.with_suffix(".parquet"), content)
    # Keys that few tasks have are left out of the others' records.
    absent = {"task": {"split_sha256"}} if result.task.split_sha256 is None else None
    write_json(path, result.model_dump(by_alias=True, mode="json", exclude=absent))
    return path


def read_result(path: Path) -> Result:
    """Read one record.

    Raises:
        InputError: The file is missing, damaged, not a result, or of a newer schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no result {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged ({error}). Delete it; the same `run` or `transfer` makes it again."
        ) from error
    version = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{path} is not a result of lrbench: it has no `schema`. Move it out of the results folder.")
    if version > SCHEMA:
        raise InputError(f"{path} has schema {version}; this lrbench reads up to {SCHEMA}. Update lrbench.")
    try:
        return Result.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: `{key}`: {first['msg'].lower()}. Delete it; the same `run` or `transfer` makes it again."
        ) from error


def load_result(path: Path, suite: str) -> StoredResult:
    """Read one record and see that it lies where it belongs.

    Raises:
        InputError: As `read_result`; or the file was moved or renamed.
    """
    result = read_result(path)
    if result.suite != suite or result.cell != path.stem:
        raise InputError(
            f"{path} records cell {result.cell} of suite {result.suite}: it was moved or renamed. Put it back or delete it."
        )
    return StoredResult(result=result, path=path)


def is_record(name: str) -> bool:
    """Whether a file of a suite's results folder is a record, by its name: not a temporary file, nor the suite."""
    return name.endswith(".json") and not name.startswith(".") and name != "suite.json"


def suites_with_results(results: Path) -> list[str]:
    """Names of the suites that have results, sorted."""
    if not results.is_dir():
        return []
    return sorted(folder.name for folder in results.iterdir() if folder.is_dir() and any(_result_names(folder)))


def read_predictions(path: Path, sha256: str) -> Predictions:
    """Read per-image predictions and check them against the hash in their record.

    Raises:
        InputError: The file is missing or has another hash.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"the predictions {path} are missing. Run the suite again to make them.") from None
    if sha256_bytes(content) != sha256:
        raise InputError(f"{path} is not the file that its record names (another hash). Run the suite again.")
    table = parquet.ParquetFile(arrow.BufferReader(content)).read(use_threads=False)
    columns = {name: table.column(name).to_numpy().astype(np.int64) for name in ("index", "label", "prediction")}
    return Predictions(**columns)


def _result_names(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        with os.scandir(folder) as listing:
            for item in listing:
                if is_record(item.name):
                    yield item.name


def _predictions_bytes(predictions: Predictions) -> bytes:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.table(
        {
            "index": arrow.array(predictions.index, arrow.int32()),
            "label": arrow.array(predictions.label, arrow.int32()),
            "prediction": arrow.array(predictions.prediction, arrow.int32()),
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", write_statistics=False, store_schema=False)
    return buffer.getvalue()
