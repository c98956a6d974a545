"""Results: one JSON record per cell, and next to it the per-image predictions.

The path identifies a result: `results/<suite>/<cell key>.json`, and `<cell key>.parquet` with the predictions. The JSON is
written last and holds the hash of the predictions and of itself, so that an incomplete or damaged result is detected.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lrbench.config.protocols import gives_evidence
from lrbench.config.schedule import SnapshotKey
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_json, sha256_bytes, sha256_json, write_bytes, write_json
from lrbench.store.predictions import REMEDY, Predictions, encode_predictions, read_predictions

SCHEMA = 2
"""Version 1 had no hash of the record, and no names of images and classes with the predictions."""

_REMEDY = "Delete it and run the same `run` or `transfer` again."
_LARGEST_RECORD = 16 << 20

Fraction = Annotated[float, Field(ge=0, le=1)]
# The index stores 64-bit integers.
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
"""Time in UTC, as `core.machine.utc_now` writes it."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class SnapshotRecord(_Record):
    """The weights that were transferred.

    Attributes:
        reference: The reference in full: `quick/step/seed0/stage2`, `timm:NAME` or a path.
        sha256: Hash of the weights and, if there are any, of the re-estimated BatchNorm statistics.
        batchnorm: `re-estimated` on the source at the boundary, or `raw` (foreign snapshots).
        arm, stage, pretraining_seed: Key in its suite; None for foreign snapshots.
        rate: Learning rate of the stage that it ends.
        source_accuracy: Top-1 on the source task's test split; None for foreign snapshots.
        random: Whether the weights were never trained (`timm:NAME` without a tag).
        source_report: Scores by kind of evidence and fraction of wrong labels memorised, if the source has annotations.
        stage_rules: Epoch at which each of several rules would have ended the stage, or None for a rule that would not; empty
            if the suite does not ask for it.
    """

    reference: str
    sha256: str
    batchnorm: Literal["re-estimated", "raw"]
    architecture: str
    random: bool = False
    arm: str | None = None
    stage: Whole | None = None
    pretraining_seed: Whole | None = None
    epoch: Whole | None = None
    update: Whole | None = None
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    source_task: str | None = None
    source_fingerprint: str | None = None
    source_partial: bool = False
    source_accuracy: Fraction | None = None
    source_report: dict[str, Fraction] = {}
    stage_rules: dict[str, Whole | None] = {}


class TaskRecord(_Record):
    """The target of a transfer.

    Attributes:
        fingerprint: Hash of its classes and of every split's image names and labels.
        content_sha256: Hash of its image files' sizes, which detects images that changed under the same names; None if the
            images are not separate files.
        split_sha256: Hash of the list of test images, if lrbench drew them (`leaderboard/splits/`).
        partial: Whether some of its images are missing. A result is also partial if the snapshot's source was.
    """

    name: str
    fingerprint: str
    content_sha256: str | None = None
    classes: Annotated[Whole, Field(gt=0)]
    metric: Literal["top1", "mean_per_class"]
    split_sha256: str | None = None
    partial: bool = False


class Origin(_Record):
    """Origin of a result that was received from others, and which this workspace has not computed.

    Attributes:
        name: Name of the collection that held it.
        suite: Suite (or `foreign`) of the original.
        reference: Reference of the original's snapshot.
        record_sha256: Hash of the original's record.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    suite: str
    reference: str
    record_sha256: str


def _scored(candidate: Any) -> bool:
    return isinstance(candidate, dict) and isinstance(candidate.get("score", ""), int | float | None)


class Result(_Record):
    """One cell's record.

    Attributes:
        schema_version: Version of this format; older ones stay readable.
        protocol_version: Version of the protocol's procedure; results of two versions are never ranked together.
        suite: Suite (or `foreign`) in whose folder it is stored.
        seed: Transfer seed.
        preprocessing: Resizing, cropping and normalisation; results that differ in it are never ranked together.
        metrics: Fractions in [0, 1]: `top1`, `top5`, `mean_per_class`.
        chosen: The hyper-parameters, fixed before the test labels were read.
        selection: The validation score of every candidate, and whether the best one is on the edge of the grid.
        diagnostics: Diagnostics of the final fit, such as iterations and gradient norm.
        predictions_sha256: Hash of the predictions' file.
        record_sha256: Hash of the record's canonical JSON without this field; None in schema 1.
        settings: The settings of the cell: those of the protocol, and the task's description. A cell is computed again when
            they change.
        arithmetic: Settings of a GPU's float32 arithmetic; empty on a CPU.
        computed: Time at which the predictions were scored; None in records older than the field.
        origin: Where a result of unknown origin came from; None for the workspace's own.
    """

    schema_version: int = Field(alias="schema")
    protocol_version: Whole
    suite: str
    snapshot: SnapshotRecord
    task: TaskRecord
    protocol: str
    seed: Whole
    preprocessing: dict[str, Any]
    partial: bool
    metrics: dict[str, Fraction]
    train_count: Whole
    test_count: Annotated[Whole, Field(gt=0)]
    chosen: dict[str, int | float]
    selection: dict[str, Any]
    diagnostics: dict[str, Any]
    predictions_sha256: str
    settings: dict[str, Any] = {}
    timings: dict[str, Seconds] = {}
    device: str = ""
    arithmetic: dict[str, str] = {}
    versions: dict[str, str] = {}
    computed: Time | None = None
    origin: Origin | None = None
    record_sha256: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Result":
        if missing := {"top1", "top5", "mean_per_class"} - self.metrics.keys():
            raise ValueError(f"`metrics` lacks {', '.join(sorted(missing))}")
        if self.metrics["top5"] < self.metrics["top1"]:
            raise ValueError("`metrics.top5` is less than `metrics.top1`")
        candidates = self.selection.get("candidates", [])
        if not isinstance(candidates, list) or not all(_scored(candidate) for candidate in candidates):
            raise ValueError("`selection.candidates` is not a list of tables with a `score` each")
        if gives_evidence(self.protocol) and "logme" not in self.chosen:
            raise ValueError("`chosen` lacks logme")
        return self

    @property
    def checked(self) -> bool:
        """True if the record has a hash, which was verified when it was read; schema 1 has none."""
        return self.record_sha256 is not None

    @property
    def headline(self) -> float:
        """The task's headline metric, in [0, 1]."""
        return self.metrics[self.task.metric]

    @property
    def cell(self) -> str:
        """Key of the cell: the file's name without suffix."""
        return cell_key(
            snapshot=snapshot_slug(self.snapshot), task=self.task.name, protocol=self.protocol, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """A result and its path. The predictions are read on first use."""

    result: Result
    path: Path

    @cached_property
    def predictions(self) -> Predictions:
        """The per-image predictions, checked against the record.

        Raises:
            InputError: Their file is missing, has another hash, or contradicts the record.
        """
        return self.read_predictions()

    def read_predictions(self, *, names: bool = False) -> Predictions:
        """Read the predictions, checked against the record.

        Args:
            names: Whether to read the names of images and classes and the scores, too.
        """
        path, result = self.path.with_suffix(".parquet"), self.result
        predictions = read_predictions(path, result.predictions_sha256, names=names)
        reason = predictions.contradiction(count=result.test_count, classes=result.task.classes, metrics=result.metrics)
        if reason is not None:
            raise DamagedFile(path, reason, REMEDY)
        return predictions


def suite_slug(key: SnapshotKey) -> str:
    """Return a suite's snapshot as part of a cell key: `step-seed0-stage2`."""
    return f"{key.arm}-seed{key.seed}-stage{key.stage}"


def foreign_slug(reference: str, sha256: str) -> str:
    """Return a foreign snapshot as part of a cell key: its reference with special characters replaced, and part of its hash."""
    # The hash distinguishes two files of the same name.
    return f"{_for_file_name(reference).strip('-.')[-80:]}-{_for_file_name(sha256[:8])}"


def _for_file_name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else "-" for char in text)


def snapshot_slug(snapshot: SnapshotRecord) -> str:
    """Return the snapshot's part of a cell key."""
    if snapshot.arm is None or snapshot.pretraining_seed is None or snapshot.stage is None:
        return foreign_slug(snapshot.reference, snapshot.sha256)
    return suite_slug(SnapshotKey(arm=snapshot.arm, seed=snapshot.pretraining_seed, stage=snapshot.stage))


def cell_key(*, snapshot: str, task: str, protocol: str, seed: int) -> str:
    """Return the key of a cell, which is the name of its files."""
    return f"{snapshot}.{task}.{protocol}.seed{seed}"


def result_path(results: Path, suite: str, cell: str) -> Path:
    """Return the path of a cell's JSON."""
    return results / suite / f"{cell}.json"


def write_result(results: Path, record: dict[str, Any], predictions: Predictions) -> Path:
    """Write a cell's predictions, then its record, each atomically.

    Args:
        results: The workspace's results folder.
        record: The fields of `Result` as JSON values, without `schema` and the hashes.
        predictions: Per-image predictions of the test split.

    Returns:
        The path of the JSON.
    """
    return write_encoded_result(results, record, encode_predictions(predictions))


def write_encoded_result(results: Path, record: dict[str, Any], predictions: bytes) -> Path:
    """Write a cell as `write_result` does, from the content of its predictions' file."""
    complete = complete_record(record, sha256_bytes(predictions))
    result = Result.model_validate(complete)
    path = result_path(results, result.suite, result.cell)
    write_bytes(path.with_suffix(".parquet"), predictions)
    write_json(path, complete)
    return path


def complete_record(record: dict[str, Any], predictions_sha256: str) -> dict[str, Any]:
    """Return a record as it is stored: all fields of `Result`, with the schema and both hashes.

    Args:
        record: As for `write_result`.
        predictions_sha256: Hash of the predictions' file.
    """
    result = Result.model_validate({**record, "schema": SCHEMA, "predictions_sha256": predictions_sha256})
    content = result.model_dump(by_alias=True, mode="json", exclude={"record_sha256"})
    # Records of tasks without a drawn split omit it.
    if content["task"]["split_sha256"] is None:
        del content["task"]["split_sha256"]
    if not content["snapshot"]["stage_rules"]:
        del content["snapshot"]["stage_rules"]
    for name in ("computed", "origin"):
        if content[name] is None:
            del content[name]
    return {**content, "record_sha256": sha256_json(content)}


def read_result(path: Path) -> Result:
    """Read one record and check it against its own hash.

    Raises:
        InputError: The file is missing, damaged, not a result, or has a newer schema.
    """
    try:
        content = read_json(path, _REMEDY, limit=_LARGEST_RECORD)
    except FileNotFoundError:
        raise InputError(f"there is no result {path}.") from None
    version = content.get("schema") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise InputError(f"{path} is not a result of lrbench: it has no `schema`. Move it out of the results folder.")
    if version > SCHEMA:
        raise InputError(f"{path} has schema {version}; this lrbench reads up to {SCHEMA}. Update lrbench.")
    digest = content.pop("record_sha256", None)
    try:
        changed = sha256_json(content) != digest
    except ValueError as error:
        raise DamagedFile(path, "it holds a number that is not finite", _REMEDY) from error
    # Only schema 1 may lack the hash.
    if changed and (digest is not None or version > 1):
        raise DamagedFile(path, "its content does not match its `record_sha256`", _REMEDY)
    try:
        return Result.model_validate({**content, "record_sha256": digest}, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise DamagedFile(path, f"`{key}`: {message.lower()}" if key else message, _REMEDY) from error


def load_result(path: Path, suite: str) -> StoredResult:
    """Read one record and check that its path is that of its cell.

    Raises:
        InputError: As `read_result`, or the file was moved or renamed.
    """
    result = read_result(path)
    if result.suite != suite or result.cell != path.stem:
        raise InputError(
            f"{path} records cell {result.cell} of suite {result.suite}: it was moved or renamed. Put it back or delete it."
        )
    return StoredResult(result=result, path=path)


def is_record(name: str) -> bool:
    """Return whether a file in a results folder is a record by its name, not a temporary file or the suite."""
    return name.endswith(".json") and not name.startswith(".") and name != "suite.json"


def suites_with_results(results: Path) -> list[str]:
    """Return the names of the suites that have results, sorted."""
    if not results.is_dir():
        return []
    return sorted(folder.name for folder in results.iterdir() if folder.is_dir() and any(_result_names(folder)))


def _result_names(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        with os.scandir(folder) as listing:
            for item in listing:
                if is_record(item.name):
                    yield item.name
