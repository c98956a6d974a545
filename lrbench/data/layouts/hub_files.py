"""Files of a Hub data set: where an image's path may lead, and what each data file calls its classes."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrbench.config.task import HubFiles, Task
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_bytes
from lrbench.data.decode import MOST_IMAGE_BYTES
from lrbench.data.examples import SplitName


def resolve_image_folders(datasets: Any, files: HubFiles, folder: Path | None) -> tuple[Path, ...]:
    """The folders that may hold images which a row names by path, all links resolved.

    Args:
        datasets: The library.
        files: The task's `[files]`.
        folder: The data set's folder; None for one of the Hub, whose files are in the library's caches.

    Returns:
        First the one that relative paths start at.
    """
    if folder is None:
        cache = _hub_cache(files)
        folders = [cache, Path(datasets.config.DOWNLOADED_DATASETS_PATH), Path(datasets.config.EXTRACTED_DATASETS_PATH)]
    else:
        # In the Hub's cache, snapshots hold links to the blobs beside them.
        folders = [folder, *([folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [])]
    return tuple(Path(os.path.realpath(each)) for each in folders)


def read_image(folders: tuple[Path, ...], path: str) -> bytes:
    """The content of an image that a row names by path.

    Args:
        folders: As `resolve_image_folders` gives them.
        path: Absolute, or relative to the first folder.

    Raises:
        ValueError: It leads out of the folders, or no file of that name is there; says so in a clause.
        InputError: It is not a regular file, too large, or unreadable.
    """
    file = Path(os.path.realpath(folders[0] / path))
    if not any(file.is_relative_to(folder) for folder in folders):
        raise ValueError(f"it is given as the path {path!r}, which leads out of the data set's folder {folders[0]}")
    try:
        return read_bytes(file, limit=MOST_IMAGE_BYTES)
    except FileNotFoundError as error:
        raise ValueError(f"it is given as the path {path!r}, and there is no file {file}") from error


def reject_other_class_names(
    datasets: Any,
    task: Task,
    files: HubFiles,
    folder: Path | None,
    commit: str | None,
    tables: Mapping[SplitName, Any],
) -> None:
    """Refuse data files that number their classes differently: `datasets` reads all files with the first one's names.

    Args:
        datasets: The library.
        task: The task, for messages.
        files: Its `[files]`.
        folder: The data set's folder; None for one of the Hub.
        commit: The commit that a data set of the Hub was read at, where it is known.
        tables: The splits as they were read.

    Raises:
        InputError: Names two files and the first class that differs.
    """
    features = {f"split {files.splits[split]}": table.features[files.label] for split, table in tables.items()}
    paths = _local_data_files(datasets, files, folder) if folder else _cached_data_files(files, commit)
    features |= {str(path): feature for path in paths if (feature := _label_feature(datasets, path, files.label))}
    named = {where: list(feature.names) for where, feature in features.items() if hasattr(feature, "names")}
    if not named:
        return
    first, names = next(iter(named.items()))
    advice = (
        f"Write the files of task {task.name} again with one list of classes, or with the classes' names as words in column "
        f"{files.label!r}."
    )
    for where, others in named.items():
        if others != names:
            number = next(n for n in range(max(len(names), len(others))) if names[n : n + 1] != others[n : n + 1])
            ours, theirs = (repr(each[number]) if number < len(each) else "missing" for each in (names, others))
            raise InputError(
                f"the data files of task {task.name} number their classes differently: class {number} is {ours} in {first} "
                f"and {theirs} in {where}. {advice}"
            )
    for where, feature in features.items():
        # Words are looked up in the names, so they are right where all other files have names.
        if where not in named and (getattr(feature, "dtype", None) != "string" or where.startswith("split ")):
            raise InputError(
                f"column {files.label!r} names its classes in {first} and not in {where}, so numbers may stand for other "
                f"classes there. {advice}"
            )


def _local_data_files(datasets: Any, files: HubFiles, folder: Path) -> Iterator[Path]:
    given = datasets.load_dataset_builder(str(folder), files.config).config.data_files or {}
    return (Path(path) for paths in given.values() for path in paths)


def _cached_data_files(files: HubFiles, commit: str | None) -> list[Path]:
    """The data files of one commit in the Hub's cache; those of the configuration where paths say which these are."""
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
    """What a Parquet or Arrow file says of its column of labels; None where it says nothing."""
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
        # Not a file that the rows came from: these were read.
        return None
    try:
        return datasets.Features.from_arrow_schema(schema).get(column) if column in schema.names else None
    except Exception as error:
        # What `datasets` raises depends on which word of the description is damaged.
        reason = f"its description of the columns is not that of `datasets` ({type(error).__name__})"
        raise DamagedFile(path, reason, "Copy it or write it again.") from error
