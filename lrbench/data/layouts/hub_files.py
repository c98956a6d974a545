"""Files of a Hugging Face data set: images given as paths, and the class names of each data file."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrbench.config.files import HubFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_bytes
from lrbench.data.decode import MOST_IMAGE_BYTES
from lrbench.data.examples import SplitName


def resolve_image_folders(datasets: Any, files: HubFiles, folder: Path | None) -> tuple[Path, ...]:
    """Return the folders that may contain images named by path, with links resolved.

    Args:
        datasets: The module `datasets`.
        files: The task's `[files]`.
        folder: The data set's folder; None for a data set of the Hub, whose files are in the library's caches.

    Returns:
        The folders; relative paths start at the first.
    """
    if folder is None:
        cache = _hub_cache(files)
        folders = [cache, Path(datasets.config.DOWNLOADED_DATASETS_PATH), Path(datasets.config.EXTRACTED_DATASETS_PATH)]
    else:
        # In the Hub's cache, snapshots are links to the blobs next to them.
        folders = [folder, *([folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [])]
    return tuple(Path(os.path.realpath(path)) for path in folders)


def read_image(folders: tuple[Path, ...], path: str) -> bytes:
    """Return the content of an image that a row names by path.

    Args:
        folders: Result of `resolve_image_folders`.
        path: Absolute, or relative to the first folder.

    Raises:
        ValueError: The path is outside the folders, or there is no such file; the message is a clause.
        InputError: It is not a regular file, too large, or unreadable.
    """
    file = Path(os.path.realpath(folders[0] / path))
    if not any(file.is_relative_to(folder) for folder in folders):
        raise ValueError(f"its path {path!r} is outside the data set's folder {folders[0]}")
    try:
        return read_bytes(file, limit=MOST_IMAGE_BYTES)
    except FileNotFoundError as error:
        raise ValueError(f"its path is {path!r}, but there is no file {file}") from error


def reject_other_class_names(
    datasets: Any,
    task: Task,
    files: HubFiles,
    folder: Path | None,
    commit: str | None,
    tables: Mapping[SplitName, Any],
) -> None:
    """Reject data files that number their classes differently: `datasets` uses the first file's names for all files.

    Args:
        datasets: The module `datasets`.
        task: The task, for messages.
        files: Its `[files]`.
        folder: The data set's folder; None for a data set of the Hub.
        commit: Commit of a data set of the Hub, if known.
        tables: The table of each split.

    Raises:
        InputError: Names two files and the first class that differs.
    """
    features = {f"split {name}": tables[split].features[files.label] for split, name in files.splits.items()}
    paths = _local_data_files(datasets, files, folder) if folder else _cached_data_files(files, commit)
    features |= {str(path): feature for path in paths if (feature := _label_feature(datasets, path, files.label))}
    named = {where: list(feature.names) for where, feature in features.items() if hasattr(feature, "names")}
    if not named:
        return
    first, names = next(iter(named.items()))
    advice = (
        f"Write the files of task {task.name} with one list of class names, or with the class names as text in column "
        f"{files.label!r}."
    )
    for where, other in named.items():
        if other != names:
            number = next(n for n in range(max(len(names), len(other))) if names[n : n + 1] != other[n : n + 1])
            ours, theirs = (repr(part[number]) if number < len(part) else "missing" for part in (names, other))
            raise InputError(
                f"the data files of task {task.name} number their classes differently: class {number} is {ours} in {first} "
                f"and {theirs} in {where}. {advice}"
            )
    for where, feature in features.items():
        # Text is looked up in the names, so it is correct if all other files have names.
        if where not in named and (getattr(feature, "dtype", None) != "string" or where.startswith("split ")):
            raise InputError(
                f"column {files.label!r} has class names in {first} but not in {where}, where numbers may mean other classes. "
                f"{advice}"
            )


def _local_data_files(datasets: Any, files: HubFiles, folder: Path) -> Iterator[Path]:
    data_files = datasets.load_dataset_builder(str(folder), files.config).config.data_files or {}
    return (Path(path) for paths in data_files.values() for path in paths)


def _cached_data_files(files: HubFiles, commit: str | None) -> list[Path]:
    """Return the data files of one commit in the Hub's cache, only those of the configuration if paths identify them."""
    if commit is None:
        return []
    folder = _hub_cache(files) / "snapshots" / commit
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if files.config and files.config in str(path.relative_to(folder))] or paths


def _hub_cache(files: HubFiles) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=files.id, repo_type="dataset"))


def _label_feature(datasets: Any, path: Path, column: str) -> Any:
    """Return the feature of the label column in a Parquet or Arrow file; None if the file does not describe it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix not in {".parquet", ".arrow"}:
        return None
    try:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
        else:
            with path.open("rb") as file:
                schema = pa.ipc.open_stream(file).schema
    except (OSError, pa.ArrowInvalid):
        # The rows do not come from this file: theirs could be read.
        return None
    try:
        return datasets.Features.from_arrow_schema(schema).get(column) if column in schema.names else None
    except Exception as error:
        # The error of `datasets` depends on which part of the description is damaged.
        reason = f"its description of the columns is not one of `datasets` ({type(error).__name__})"
        raise DamagedFile(path, reason, "Copy it or write it again.") from error
