"""The layout `hub`: a Hugging Face data set at a pinned revision, or a folder in one of its formats."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrbench.data.decode import Bytes, UndecodableImage, decode
from lrbench.data.examples import Split, SplitName
from lrbench.data.layouts.reading import Reading, refuse_empty_splits, refuse_untrained
from lrbench.errors import InputError
from lrbench.registry.task import HubFiles, Task

# `datasets` keeps a data set of the Hub in a folder that is called by its commit: `NAME/CONFIG/VERSION/COMMIT/…`.
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubImages:
    """An `ImageSource` over a column of encoded images.

    Attributes:
        table: The split's column of images, left undecoded. No other column: reading a row decodes all there are.
        column: The images' column.
        where: What the table is called in an error.
        task: What stands for the task on a command line, for the advice in an error.
        fingerprint: What `datasets` says of the split's content.
    """

    table: Any = field(repr=False)
    column: str
    where: str
    task: str
    fingerprint: str

    def read(self, index: int) -> Bytes:
        """Image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: It does not decode; the message names the row.
        """
        value = self.table[index][self.column]
        name = f"row {index} of {self.where}"
        content = value.get("bytes")
        if content is None:
            try:
                content = Path(value["path"]).read_bytes()
            except (OSError, TypeError) as error:
                raise UndecodableImage(name, str(error), self.task) from error
        return decode(content, name, task=self.task)

    def stamp(self) -> str:
        """The content's fingerprint."""
        return self.fingerprint

    def content(self) -> None:
        """Nothing: the revision, which is in the data's fingerprint, says more."""
        return


def find_hub(task: Task, files: HubFiles, roots: Sequence[Path]) -> Path | None:
    """The folder of a local data set, or None for one that `datasets` fetches."""
    for root in (Path(), *roots):
        if os.path.isdir(root / files.id):
            return root / files.id
    return None


def read_hub(task: Task, files: HubFiles, roots: Sequence[Path]) -> Reading:
    """Read a data set through `datasets`, images left encoded.

    Raises:
        InputError: It cannot be loaded (no network, no permission, no such revision, a loading script), a split or a
            column is missing, or a class is tested but not trained on.
    """
    import datasets

    folder = find_hub(task, files, roots)
    tables = {split: _load(datasets, task, files, folder, theirs) for split, theirs in files.splits.items()}
    for table in tables.values():
        for column in (files.image, files.label):
            if column not in table.column_names:
                raise InputError(
                    f"the data of task {task.name} has no column {column!r}; it has {', '.join(table.column_names)}. "
                    "Set files.image and files.label in the task's TOML."
                )
    where = str(folder or files.id)
    names, labels = _labels(datasets, task, files, where, tables)
    splits: dict[SplitName, Split] = {}
    for split, table in tables.items():
        theirs = files.splits[split]
        images = table.select_columns([files.image]).cast_column(files.image, datasets.Image(decode=False))
        splits[split] = Split(
            ids=[f"{theirs}/{index}" for index in range(len(table))],
            labels=labels[split],
            images=HubImages(
                images, files.image, f"{task.name} ({theirs}, {files.image})", task.argument, str(images._fingerprint)
            ),
        )
    # Rows have no names: what says which images they are is the commit that they are rows of.
    edition = f"{files.config or ''}@{_commit(list(tables.values())) or files.revision}"
    return replace(_checked(task, files, where, names, splits), edition=edition)


def _commit(tables: Sequence[Any]) -> str | None:
    """The commit that tables were read at, where `datasets` tells it: a branch or a tag may be another one tomorrow."""
    folders = {Path(file["filename"]).parent.name for table in tables for file in table.cache_files}
    commits = {name for name in folders if _COMMIT.fullmatch(name)}
    return commits.pop() if len(folders) == len(commits) == 1 else None


def _labels(
    datasets: Any, task: Task, files: HubFiles, where: str, tables: Mapping[SplitName, Any]
) -> tuple[list[str], dict[SplitName, npt.NDArray[np.int64]]]:
    """The class names where the data has them, and the labels of each split; words are classes in sorted order."""
    columns = {split: table[files.label][:] for split, table in tables.items()}
    values = [value for column in columns.values() for value in column]
    if values and all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        numbers = {name: number for number, name in enumerate(names)}
        return names, {
            split: np.array([numbers[value] for value in column], dtype=np.int64) for split, column in columns.items()
        }
    # Of an image, in whose column labels were looked for, some hundred thousand signs.
    strange = sorted({repr(value)[:60] for value in values if not isinstance(value, int)})
    if strange:
        there = ", ".join(next(iter(tables.values())).features)
        raise InputError(
            f"the data of task {task.name} at {where} has labels in its column {files.label!r} that are neither whole numbers "
            f"nor words throughout: {', '.join(strange[:3])}. Name the column of the labels in files.label of the task's TOML; "
            f"its columns are {there}."
        )
    features = [table.features[files.label] for table in tables.values()]
    names = next((list(each.names) for each in features if isinstance(each, datasets.ClassLabel)), [])
    return names, {split: np.array(column, dtype=np.int64) - files.label_offset for split, column in columns.items()}


def _checked(task: Task, files: HubFiles, where: str, names: list[str], splits: Mapping[SplitName, Split]) -> Reading:
    refuse_empty_splits(task, where, {name: len(split) for name, split in splits.items()})
    lowest = min(int(split.labels.min()) for split in splits.values())
    highest = max(int(split.labels.max()) for split in splits.values())
    if lowest < 0:
        raise InputError(
            f"the data of task {task.name} at {where} has the label {lowest + files.label_offset}, which is below "
            f"{files.label_offset}: a split without labels, or a wrong files.label_offset in the task's TOML."
        )
    names = names or [str(label + files.label_offset) for label in range(highest + 1)]
    if highest >= len(names):
        raise InputError(
            f"the data of task {task.name} at {where} has the label {highest + files.label_offset} and only "
            f"{len(names)} class names. Check files.label_offset in the task's TOML."
        )
    classes = {name: {names[label] for label in np.unique(split.labels)} for name, split in splits.items()}
    refuse_untrained(task, where, classes)
    # Classes without an image are left out, as in the other layouts.
    present = sorted(set().union(*(np.unique(split.labels).tolist() for split in splits.values())))
    position = np.full(len(names), -1, dtype=np.int64)
    position[present] = np.arange(len(present))
    kept: dict[SplitName, Split] = {
        name: Split(ids=split.ids, labels=position[split.labels], images=split.images) for name, split in splits.items()
    }
    return Reading(where=where, classes=tuple(names[label] for label in present), splits=kept)


def _load(datasets: Any, task: Task, files: HubFiles, folder: Path | None, split: str) -> Any:
    try:
        if folder is not None:
            return datasets.load_dataset(str(folder), files.config, split=split)
        return datasets.load_dataset(files.id, files.config, split=split, revision=files.revision)
    except Exception as error:
        # The library raises a dozen kinds of exception; the first line of each says most.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise InputError(
            f"the data of task {task.name} ({folder or files.id}, split {split!r}, revision {files.revision}) could not "
            f"be loaded: {reason[:300]}. A gated data set needs its terms accepted on its page and a token (`hf auth "
            "login`); without a network, copy the Hugging Face cache (HF_HOME) or put the data set's folder under the "
            "data root and name it in files.id."
        ) from error
