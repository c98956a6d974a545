"""The layout `hub`: a Hugging Face data set at a pinned revision, or a folder in one of its formats."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrbench.config.files import HubFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_bytes
from lrbench.data.decode import UndecodableImage, decode
from lrbench.data.examples import Split, SplitName
from lrbench.data.jpeg import Bytes
from lrbench.data.layouts.file_images import hash_file_stats
from lrbench.data.layouts.hub_files import read_image, reject_other_class_names, resolve_image_folders
from lrbench.data.layouts.layout_data import LayoutData, from_labels
from lrbench.data.layouts.unicode_names import unify_unicode_forms

# `datasets` stores a data set of the Hub in a folder named by its commit: `NAME/CONFIG/VERSION/COMMIT/…`.
_COMMIT = re.compile(r"[0-9a-f]{40}")
# More than any number of classes; differences of such numbers fit into 64 bits.
_LARGEST_LABEL = 1 << 40


@dataclass(frozen=True, kw_only=True)
class HubImages:
    """An `ImageSource` over a column of encoded images or of paths to images.

    Attributes:
        table: The split's column of images, not decoded. It has no other column, since reading a row decodes all columns.
        column: Name of the column.
        where: Name of the table in errors.
        task: The task as a command-line argument, for error messages.
        folders: Folders that may contain images given as paths; relative paths start at the first.
        sizes_identify: Whether image sizes identify the images, because no revision does.
        upright: Whether the orientation in the images' metadata is applied.
    """

    table: Any = field(repr=False)
    column: str
    where: str
    task: str
    folders: tuple[Path, ...]
    sizes_identify: bool
    upright: bool

    def read(self, index: int) -> Bytes:
        """Return image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: It cannot be read or decoded; names the row.
        """
        value = self.table[index][self.column] or {}
        name = f"row {index} of {self.where}"
        content, path = value.get("bytes"), value.get("path")
        if content is None:
            if not path:
                raise UndecodableImage(name, "the row has no image", self.task)
            try:
                content = read_image(self.folders, path)
            except (ValueError, InputError) as error:
                raise UndecodableImage(name, str(error), self.task) from error
        return decode(content, name, task=self.task, upright=self.upright)

    def stamp(self) -> str:
        """Return the table's fingerprint, combined with the metadata of files that rows name by path."""
        _, paths = self._sizes_and_paths()
        fingerprint = str(self.table._fingerprint)
        if not paths:
            return fingerprint
        return sha256_bytes(f"{fingerprint} {hash_file_stats(self.folders[0], list(paths.values()))[0]}".encode())

    def content(self) -> str | None:
        """Return the SHA-256 over the size of every image; None if a revision identifies them."""
        if not self.sizes_identify:
            return None
        sizes, paths = self._sizes_and_paths()
        files = hash_file_stats(self.folders[0], list(paths.values()))[1] if paths else ""
        return sha256_bytes(f"{sizes} {files}".encode())

    def _sizes_and_paths(self) -> tuple[list[int | None], dict[int, str]]:
        """Return the image size of each row, None for a row without bytes, and the paths of such rows by row number."""
        import pyarrow.compute as pc

        column = self.table.with_format("arrow")[:][self.column]
        sizes = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
        if None not in sizes:
            return sizes, {}
        paths = pc.struct_field(column, "path").to_pylist()
        return sizes, {row: paths[row] for row, size in enumerate(sizes) if size is None and paths[row]}


def find_hub(task: Task, files: HubFiles, roots: Sequence[Path]) -> Path | None:
    """Return the folder of a local data set, or None for one that `datasets` downloads.

    Raises:
        InputError: There is no such folder, and the task names no revision on the Hub.
    """
    places = [root / files.id for root in (Path(), *roots)]
    folder = next((place for place in places if os.path.isdir(place)), None)
    if folder is None and files.revision is None:
        raise InputError(
            f"the data of task {task.name} was not found: there is no folder {' or '.join(map(str, places))}, and "
            "files.revision is not set. Copy the folder there, or set files.revision to a commit of the data set on the Hub."
        )
    return folder


def read_hub(task: Task, files: HubFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set with `datasets`; no image is decoded.

    Raises:
        InputError: It cannot be loaded (no network, no permission, no such revision, a loading script), a split or a
            column is missing, data files number their classes differently, or a class is tested but not trained on.
    """
    import datasets

    folder = find_hub(task, files, roots)
    tables: dict[SplitName, Any] = {
        split: _load_table(datasets, task, files, folder, hub_split) for split, hub_split in files.splits.items()
    }
    for table in tables.values():
        for column in (files.image, files.label):
            if column not in table.column_names:
                hint = (
                    " A folder of images has labels only if every image is in a class folder, all at the same depth."
                    if table.column_names == [files.image]
                    else ""
                )
                raise InputError(
                    f"the data of task {task.name} has no column {column!r}; its columns are {', '.join(table.column_names)}. "
                    f"Set files.image and files.label in the task's TOML.{hint}"
                )
    where = str(folder or files.id)
    commit = _find_commit(list(tables.values()))
    reject_other_class_names(datasets, task, files, folder, commit, tables)
    names, labels = _read_labels(datasets, task, files, where, tables)
    folders = resolve_image_folders(datasets, files, folder)
    splits: dict[SplitName, Split] = {}
    for split, hub_split in files.splits.items():
        table = tables[split]
        images = HubImages(
            table=_image_column(datasets, task, files, where, table),
            column=files.image,
            where=f"{task.name} ({hub_split}, {files.image})",
            task=task.argument,
            folders=folders,
            sizes_identify=folder is not None and files.revision is None,
            upright=task.upright,
        )
        splits[split] = Split(
            ids=[f"{hub_split}/{index}" for index in range(len(table))], labels=labels[split], images=images
        )
    # Rows have no names, so the commit, or else the image sizes, identify the images.
    edition = (
        commit or files.revision or sha256_bytes(str([split.images.content() for split in splits.values()]).encode())
    )
    data = from_labels(task, where, names, splits, offset=files.label_offset)
    return replace(data, edition=f"{files.config or ''}@{edition}")


def _image_column(datasets: Any, task: Task, files: HubFiles, where: str, table: Any) -> Any:
    """Return the column of images as encoded bytes and paths."""
    try:
        return table.select_columns([files.image]).cast_column(files.image, datasets.Image(decode=False))
    except Exception as error:
        # Arrow and `datasets` raise several kinds of errors on other columns.
        raise InputError(
            f"the data of task {task.name} at {where} has no images in its column {files.image!r}, but "
            f"{str(table.features[files.image])[:100]}. Set files.image in the task's TOML to the column of the images; the "
            f"columns are {', '.join(table.column_names)}."
        ) from error


def _find_commit(tables: Sequence[Any]) -> str | None:
    """Return the commit of the tables if `datasets` reports it. A branch or a tag may change; a commit does not."""
    folders = {Path(file["filename"]).parent.name for table in tables for file in table.cache_files}
    commits = {name for name in folders if _COMMIT.fullmatch(name)}
    return commits.pop() if len(folders) == len(commits) == 1 else None


def _read_labels(
    datasets: Any, task: Task, files: HubFiles, where: str, tables: Mapping[SplitName, Any]
) -> tuple[list[str], dict[SplitName, npt.NDArray[np.int64]]]:
    """Return the class names, empty if the data has none, and the labels of each split. Text labels are sorted."""
    columns = {split: table[files.label][:] for split, table in tables.items()}
    values = [value for column in columns.values() for value in column]
    if values and all(isinstance(value, str) for value in values):
        class_of = unify_unicode_forms(sorted(set(values)))
        names = sorted(set(class_of.values()))
        position = {name: number for number, name in enumerate(names)}
        return names, {
            split: np.array([position[class_of[value]] for value in column], dtype=np.int64)
            for split, column in columns.items()
        }
    # The repr of an image in that column may have some hundred thousand characters.
    invalid = sorted(
        {repr(value)[:60] for value in values if not isinstance(value, int) or abs(value) > _LARGEST_LABEL}
    )
    if invalid:
        columns_text = ", ".join(next(iter(tables.values())).features)
        raise InputError(
            f"the data of task {task.name} at {where} has labels in its column {files.label!r} that are neither all integers "
            f"nor all text: {', '.join(invalid[:3])}. Set files.label in the task's TOML to the column of the labels; the "
            f"columns are {columns_text}."
        )
    features = [table.features[files.label] for table in tables.values()]
    names = next((list(feature.names) for feature in features if isinstance(feature, datasets.ClassLabel)), [])
    return names, {split: np.array(column, dtype=np.int64) - files.label_offset for split, column in columns.items()}


def _load_table(datasets: Any, task: Task, files: HubFiles, folder: Path | None, split: str) -> Any:
    log = datasets.utils.logging
    verbosity = log.get_verbosity()
    # It logs what the error below reports, with unescaped file names.
    log.set_verbosity(log.CRITICAL)
    try:
        if folder is not None:
            return datasets.load_dataset(str(folder), files.config, split=split)
        return datasets.load_dataset(files.id, files.config, split=split, revision=files.revision)
    except Exception as error:
        # The library raises a dozen kinds of exceptions; their first lines are the most useful.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise InputError(
            f"the data of task {task.name} ({folder or f'{files.id}, revision {files.revision}'}, split {split!r}) could not "
            f"be loaded: {reason[:300]}. If it is gated, accept its terms on its page and log in with `hf auth login`. Without "
            "a network, copy the Hugging Face cache (HF_HOME), or copy the data set under the data root and set files.id to "
            "its folder."
        ) from error
    finally:
        log.set_verbosity(verbosity)
