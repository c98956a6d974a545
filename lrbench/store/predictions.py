"""Per-image predictions: one Parquet file per cell, whose hash is in the cell's record."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, parse_json, read_bytes, sha256_bytes

REMEDY = "Delete it and the record next to it, and run the same `run` or `transfer` again."
_COLUMNS = ("index", "label", "prediction")
# Rounding of a float64 mean. One image of a million changes a metric by more.
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of the test images.

    Attributes:
        index: Position of each image in the test split. Shape `(N,)`.
        label: True class. Shape `(N,)`.
        prediction: Predicted class. Shape `(N,)`.
        images: Name of each image, of length N; None if they are not recorded or were not read.
        classes: Class names in the order of their labels; None likewise.
        scores: For tasks with two classes, the score of class 1 minus that of class 0. Shape `(N,)`; None likewise.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64]
    images: Sequence[str] | None = None
    classes: Sequence[str] | None = None
    scores: npt.NDArray[np.float32] | None = None

    def metrics(self) -> dict[str, float]:
        """Compute `top1`, and `mean_per_class` over classes that have images."""
        correct = (self.label == self.prediction).astype(np.float64)
        counts = np.bincount(self.label)
        hits = np.bincount(self.label, weights=correct)
        present = counts > 0
        return {"top1": float(correct.mean()), "mean_per_class": float((hits[present] / counts[present]).mean())}

    def contradiction(self, *, count: int, classes: int, metrics: dict[str, float]) -> str | None:
        """Return how the predictions contradict their record, as a clause, or None if they agree.

        Args:
            count: Number of test images in the record.
            classes: Number of classes in the record.
            metrics: Metrics in the record.
        """
        if len(self.index) != count:
            return f"it has predictions for {len(self.index):,} images, and its record says {count:,}"
        if not np.array_equal(self.index, np.arange(count)):
            return "its images are not numbered from 0 in order"
        for name, values in (("label", self.label), ("prediction", self.prediction)):
            if values.min() < 0 or values.max() >= classes:
                return f"it holds a {name} outside the {classes:,} classes of its record"
        if self.classes is not None and len(self.classes) != classes:
            return f"it names {len(self.classes):,} classes, and its record says {classes:,}"
        for name, value in self.metrics().items():
            if abs(value - metrics[name]) > _TOLERANCE:
                return f"its predictions give {name} {value:.6g}, and its record says {metrics[name]:.6g}"
        return None


def encode_predictions(predictions: Predictions) -> bytes:
    """Encode predictions as a Parquet file, with the names of images and classes and the scores if they are known."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    columns = {name: arrow.array(getattr(predictions, name), arrow.int32()) for name in _COLUMNS}
    # Sorted numbers and names are stored as differences, which takes a tenth of the space.
    encodings = {"index": "DELTA_BINARY_PACKED"}
    if predictions.images is not None:
        columns["image"] = arrow.array(list(predictions.images), arrow.string())
        encodings["image"] = "DELTA_BYTE_ARRAY"
    if predictions.scores is not None:
        columns["score"] = arrow.array(predictions.scores, arrow.float32())
    table = arrow.table(columns)
    buffer = io.BytesIO()
    with parquet.ParquetWriter(
        buffer,
        table.schema,
        compression="zstd",
        write_statistics=False,
        store_schema=False,
        use_dictionary=["label", "prediction"],
        column_encoding=encodings,
    ) as writer:
        writer.write_table(table)
        if predictions.classes is not None:
            writer.add_key_value_metadata({"classes": json.dumps(list(predictions.classes), ensure_ascii=False)})
    return buffer.getvalue()


def read_predictions(path: Path, sha256: str, *, names: bool = False) -> Predictions:
    """Read per-image predictions and check them against the hash in their record.

    Args:
        path: The Parquet file.
        sha256: Its hash in the record.
        names: Whether to read the names of images and classes and the scores, too.

    Raises:
        InputError: The file is missing, has another hash or does not hold predictions.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"the predictions {path} are missing. Run the suite again to compute them.") from None
    if sha256_bytes(content) != sha256:
        raise DamagedFile(path, "it is not the file that its record names (another hash)", REMEDY)
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content))
        more = [name for name in ("image", "score") if names and name in file.schema_arrow.names]
        table = file.read(columns=[*_COLUMNS, *more], use_threads=False)
        columns = {name: _whole_numbers(table, name) for name in _COLUMNS}
        return Predictions(
            **columns,
            images=_names(table.column("image").to_pylist()) if "image" in more else None,
            classes=_class_names(file.schema_arrow.metadata) if names else None,
            scores=_finite_scores(table) if "score" in more else None,
        )
    except (arrow.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        reason = f"it lacks the column {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise DamagedFile(path, reason, REMEDY) from error


def _whole_numbers(table: Any, name: str) -> npt.NDArray[np.int64]:
    import pyarrow as arrow

    column = table.column(name)
    if not arrow.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"its column {name!r} does not hold whole numbers")
    values: npt.NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return values


def _finite_scores(table: Any) -> npt.NDArray[np.float32]:
    import pyarrow as arrow

    column = table.column("score")
    values: npt.NDArray[np.float32] = column.to_numpy()
    if column.type != arrow.float32() or column.null_count or not np.isfinite(values).all():
        raise ValueError("its column 'score' does not hold finite numbers")
    return values


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    stored = (metadata or {}).get(b"classes")
    if stored is None:
        return None
    return _names(parse_json(stored))


def _names(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("its names of images or classes are not a list of names")
    return values
