"""Files of features: those of every image of a task under one snapshot, written batch by batch."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.files import atomic_path
from lrbench.core.workspace import Place
from lrbench.data.examples import TaskData
from lrbench.data.prepare import PreparedTask, prepare_task
from lrbench.models.inference import forward_batches
from lrbench.models.networks import penultimate
from lrbench.store.references import Reference
from lrbench.transfer.features import Network

Floats = npt.NDArray[np.float32]

_COLUMNS = ("split", "image", "label", "label_name")


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """Files of features that were written.

    Attributes:
        files: The files.
        images: Number of images.
        width: Number of features of each image.
        random: Whether the network has random weights.
        partial: Whether the data is incomplete.
    """

    files: tuple[Path, ...]
    images: int
    width: int
    random: bool
    partial: bool


def write_features(reference: Reference, task: str, path: Path, place: Place, control: Control) -> FeatureFile:
    """Write the features of every image of a task: the input of the snapshot's classifier, as the probe reads it.

    `.parquet` holds the columns `split`, `image`, `label`, `label_name` and `features`, a list of float32. `.npy` holds an
    array of shape `(N, D)`, float32; a `.csv` of the same name has the other columns, in the same order. Images are in the
    order of the splits train, val and test. Only one batch is in memory.

    Args:
        reference: The snapshot.
        task: Name of the task, or the path of its TOML.
        path: The file to write.
        place: Folders of data and caches.
        control: Receives progress; may request a stop.

    Raises:
        InputError: The suffix is unknown, a file exists, the data or snapshot is missing, or the features are not finite.
        InterruptedWork: A stop was requested; no file is written.
    """
    if path.suffix not in (".parquet", ".npy"):
        raise InputError(f"{path} ends in neither .parquet nor .npy. Name a file that does.")
    files = (path,) if path.suffix == ".parquet" else (path, path.with_suffix(".csv"))
    for file in files:
        if file.exists():
            raise InputError(f"{file} exists. Delete it, or name another file.")
    network = Network.load(reference)
    prepared = prepare_task(
        task, network.input, None, roots=place.roots, partial=place.partial, cache=place.pixel_cache, control=control
    )
    images = sum(map(len, prepared.data.splits.values()))
    width = 0
    with ExitStack() as stack:
        temporary = [stack.enter_context(atomic_path(file)) for file in files]
        writer: _Writer = _Parquet(*temporary) if path.suffix == ".parquet" else _Npy(*temporary, images=images)
        with writer:
            for split, start, features in _batches(network, prepared, control):
                if not np.isfinite(features).all():
                    raise InputError(
                        f"the features that {reference.text} gives of {prepared.data.task.name} are not finite. Its weights "
                        "may be damaged: check them with `lrbench snapshots verify`."
                    )
                width = features.shape[1]
                writer.write(_rows(prepared.data, split, start, len(features)), features)
    return FeatureFile(
        files=files, images=images, width=width, random=network.snapshot.random, partial=prepared.data.partial
    )


def _batches(network: Network, prepared: PreparedTask, control: Control) -> Iterator[tuple[str, int, Floats]]:
    """Yield split, position of the first image, and features of each batch. Shape `(B, D)`."""
    done, total = 0, sum(map(len, prepared.data.splits.values()))
    for split in prepared.data.splits:
        start = 0
        outputs = forward_batches(
            lambda images: penultimate(network.inference, images).float(), prepared.pixels[split], network.normalise
        )
        for output in outputs:
            yield split, start, output.cpu().numpy()
            start += len(output)
            control.progress(done + start, total, "images")
            if control.stop_requested():
                raise InterruptedWork("stopped while extracting features. No file was written.")
        done += start


def _rows(data: TaskData, split: str, start: int, count: int) -> list[tuple[str, str, int, str]]:
    members = data.splits[split]  # type: ignore[index]
    return [
        (split, members.ids[index], int(members.labels[index]), data.classes[members.labels[index]])
        for index in range(start, start + count)
    ]


class _Writer(Protocol):
    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, rows: list[tuple[str, str, int, str]], features: Floats) -> None: ...


class _Parquet:
    """Writes one row group for each batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._writer: object = None

    def __enter__(self) -> "_Parquet":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, rows: list[tuple[str, str, int, str]], features: Floats) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        values = arrow.FixedSizeListArray.from_arrays(arrow.array(features.ravel()), features.shape[1])
        table = arrow.table({**columns, "features": values})
        if self._writer is None:
            self._writer = self._stack.enter_context(
                parquet.ParquetWriter(self._path, table.schema, compression="zstd")
            )
        self._writer.write_table(table)  # type: ignore[attr-defined]


class _Npy:
    """Writes an array whose number of rows is known, and a table next to it."""

    def __init__(self, path: Path, table: Path, *, images: int) -> None:
        self._stack = ExitStack()
        self._array: BinaryIO = self._stack.enter_context(path.open("wb"))
        text = self._stack.enter_context(table.open("w", newline="", encoding="utf-8"))
        self._table = csv.writer(text, lineterminator="\n")
        self._table.writerow(_COLUMNS)
        self._images = images
        self._has_header = False

    def __enter__(self) -> "_Npy":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, rows: list[tuple[str, str, int, str]], features: Floats) -> None:
        if not self._has_header:
            shape = (self._images, features.shape[1])
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._array, header)
            self._has_header = True
        self._array.write(np.ascontiguousarray(features, dtype="<f4").tobytes())
        self._table.writerows(rows)
