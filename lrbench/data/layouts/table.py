"""The layout `table`: CSV files with a header, whose columns name each image and its class."""

import csv
import io
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.config.explain import suggestion
from lrbench.config.splits import ColumnSplit, FirstSplit, ListedSplit
from lrbench.config.strict import OneOrMore
from lrbench.config.task import TableFiles, Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.class_splits import draw, split_first
from lrbench.data.layouts.data_folder import candidates, find_data_folder
from lrbench.data.layouts.display import first_few, shorten
from lrbench.data.layouts.image_folders import IMAGE_ENDINGS
from lrbench.data.layouts.layout_data import LayoutData, Sample, from_files
from lrbench.data.layouts.list_files import read_test_list, read_text, reject_outside_path
from lrbench.data.layouts.listed_images import (
    choose_image_folder,
    describe_missing_images,
    describe_missing_parts,
    existing_image_folders,
    find_list,
    find_listed_images,
    find_unlisted_images,
    has_any_image,
    image_path,
    no_images_error,
    reject_shared_images,
    sort_classes,
    unify_class_names,
)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table's columns, each row's entries, and the line of the file in which each row ends."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]


def find_table(task: Task, files: TableFiles, roots: Sequence[Path]) -> Path:
    """The folder that holds the images' folder and the tables.

    Raises:
        InputError: It was not found.
    """
    tables = list(_table_names(files).values())
    names = ", ".join(candidates(each)[0] for each in tables)
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted=f"the image folder {' or '.join(candidates(files.images))} and the table {names}",
        objection=lambda root: describe_missing_parts(root, files.images, tables),
    )


def read_table(task: Task, files: TableFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set whose images and classes stand in tables.

    Images that no table names are not part of the task.

    Raises:
        InputError: Not found, no table or without the columns, an entry that is empty, an image named twice, none of the
            images there, or a split that cannot be made.
    """
    root = find_table(task, files, roots)
    folders = existing_image_folders(files.images, root)
    splits: dict[SplitName, list[Sample]] = {}
    folder_of: dict[SplitName, str] = {}
    drawn: set[Sample] = set()
    problems: list[str] = []
    for split, name in _table_names(files).items():
        path = find_list(root, folders, name)
        assert path is not None
        table = _read(path, files.separator)
        named = _samples(task, files, table, root, folders)
        if not named:
            raise InputError(f"{path} of task {task.name} has columns and no rows. Copy it again.")
        folder = choose_image_folder(root, folders, named)
        if not has_any_image(root, folder, named):
            first = root / image_path(folder, named[0][1])
            raise no_images_error(task, path, first, len(named), _ending_hint(files, first))
        if files.file is None:
            splits[split] = named
        else:
            splits, drawn, problems = _divided(task, files, table, named, (root, *roots))
        folder_of |= dict.fromkeys(splits.keys() - folder_of.keys(), folder)
    splits = unify_class_names(splits)
    reject_shared_images(
        task, root, {split: [(k, image_path(folder_of[split], i)) for k, i in named] for split, named in splits.items()}
    )
    found = {split: find_listed_images(root, folder_of[split], named) for split, named in splits.items()}
    for split, present in found.items():
        problems.extend(describe_missing_images(present, len(splits[split]), f"listed {split}"))
    return from_files(
        task,
        root=root,
        images=root,
        classes=sort_classes({name for named in splits.values() for name, _ in named}),
        samples={split: present.samples for split, present in found.items()},
        ids={split: present.ids for split, present in found.items()},
        problems=problems,
        drawn=sorted(image for _, image in drawn),
        unused=find_unlisted_images(task, root, {split: present.samples for split, present in found.items()}),
    )


def _table_names(files: TableFiles) -> dict[SplitName, OneOrMore]:
    if files.file is not None:
        return {"train": files.file}
    assert files.train is not None and files.test is not None
    return {"train": files.train, "test": files.test, **({"val": files.val} if files.val else {})}


def _read(path: Path, separator: str | None) -> _Table:
    """Read a table; lines that are empty are passed over.

    Raises:
        InputError: It is no such table; names the line.
    """
    separator = separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}. Save the table as CSV again.") from error
    if not rows:
        raise InputError(f"{path} is empty: its first line should name the columns. Copy it again.")
    columns = [name.strip() for name in rows[0]]
    if len(columns) < 2:
        other = next((each for each in (";", "\t", ",", "|", " ") if each != separator and each in columns[0]), None)
        hint = (
            f" If they are separated by {other!r}, say so in the task's TOML: separator = {_toml(other)}."
            if other
            else ""
        )
        raise InputError(
            f"{path} has one column, {shorten(columns[0])}, where its first line should name at least two, of images and of "
            f"their classes, separated by {separator!r}.{hint}"
        )
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(columns):
            entries = "1 entry" if len(row) == 1 else f"{len(row)} entries"
            quotes = (
                f" An entry that holds {separator!r} must stand in double quotes." if len(row) > len(columns) else ""
            )
            raise InputError(
                f"{path}, line {line}: {entries}, where the first line names {len(columns)} columns. Correct that line.{quotes}"
            )
    return _Table(path=path, columns=columns, rows=rows[1:], lines=lines[1:])


def _toml(separator: str) -> str:
    return '"\\t"' if separator == "\t" else f'"{separator}"'


def _samples(task: Task, files: TableFiles, table: _Table, root: Path, folders: Sequence[str]) -> list[Sample]:
    """Class and image of each row.

    Raises:
        InputError: A column that is not there, no names of columns at all, an entry that is empty, or an image named twice.
    """
    first = table.columns[0]
    if first.lower().endswith(tuple(IMAGE_ENDINGS)) or any(
        os.path.isfile(root / image_path(folder, first + files.ending)) for folder in folders
    ):
        raise InputError(
            f"the first line of {table.path} names an image, {first!r}, where it should name the columns. Put a "
            "line above it, such as image,label."
        )
    # Where one of the two is named, the other is the first of the rest.
    named = {files.image, files.label}
    # A column without a name is the number of the row.
    others = [*(column for column in table.columns if column and column not in named), "", ""]
    images = _column(task, table, files.image or others.pop(0), "image")
    labels = _column(task, table, files.label or others[0], "label")
    samples = []
    for image, label, line in zip(images, labels, table.lines, strict=True):
        if not image.strip() or not label.strip():
            what = "image" if not image.strip() else "class"
            raise InputError(f"{table.path}, line {line}: no {what}. Fill it in, or take the line out.")
        # Tables that were written on Windows have its separators.
        name = image.strip().replace("\\", "/").removeprefix("./") + files.ending
        reject_outside_path(table.path, name, line)
        samples.append((label.strip(), name))
    _reject_duplicates(task, table, samples)
    return samples


def _reject_duplicates(task: Task, table: _Table, samples: Sequence[Sample]) -> None:
    """Refuse a table in which two rows name one image.

    Raises:
        InputError: Names the lines, and what may be the cause.
    """
    seen: dict[str, tuple[str, int]] = {}
    for (label, image), line in zip(samples, table.lines, strict=True):
        before, first = seen.setdefault(posixpath.normpath(image), (label, line))
        if first != line:
            classes = "" if before == label else f", as {before!r} and as {label!r}"
            raise InputError(
                f"{table.path} of task {task.name} names the image {image!r} in line {first} and in line {line}{classes}. Take "
                "one of them out; or, if that is no image, name the columns of images and classes in the task's TOML (image "
                f"and label under [files]): they are {first_few(table.columns, 12)}."
            )


def _column(task: Task, table: _Table, name: str, key: str) -> list[str]:
    """One column's entries.

    Args:
        task: The task, for messages.
        table: The table.
        name: The column.
        key: The key of the TOML that names it.
    """
    if table.columns.count(name) != 1:
        there = "several columns" if name in table.columns else "no column"
        raise InputError(
            f"{table.path} has {there} {name!r}, where task {task.name} asks for one (files.{key})."
            f"{suggestion(name, table.columns)} Its columns are {first_few(table.columns, 12)}."
        )
    place = table.columns.index(name)
    return [row[place] for row in table.rows]


def _ending_hint(files: TableFiles, first: Path) -> str:
    """A sentence for names that lack their ending; nothing for others."""
    if files.ending:
        bare = str(first).removesuffix(files.ending)
        return f"{Path(bare).name} is: leave out ending under [files]. Else: " if os.path.isfile(bare) else ""
    found = next((ending for ending in IMAGE_ENDINGS if os.path.isfile(f"{first}{ending}")), None)
    return f'{first.name}{found} is: say ending = "{found}" under [files]. Else: ' if found else ""


def _divided(
    task: Task, files: TableFiles, table: _Table, samples: Sequence[Sample], beside: Sequence[Path]
) -> tuple[dict[SplitName, list[Sample]], set[Sample], list[str]]:
    """The images of each split of one table, those that were drawn for testing, and problems with a list."""
    if isinstance(files.split, ColumnSplit):
        return _by_column(task, files.split, table, samples), set(), []
    problems: list[str] = []
    left_out: set[Sample] = set()
    drawn: set[Sample] = set()
    if isinstance(files.split, ListedSplit):
        known = {image: (label, image) for label, image in samples}
        lines, problems = read_test_list(task, files.split, beside, known)
        strangers = [line for line in lines if line not in known]
        if strangers:
            problems.append(
                f"{len(strangers):,} of {len(lines):,} test images that the split names are not in {table.path} "
                f"({first_few(strangers)})"
            )
        tested = {known[line] for line in lines if line in known}
        if not tested:
            raise InputError(
                f"none of the {len(lines):,} test images that {files.split.test} names is in {table.path} of task {task.name}: "
                f"it should name them as {samples[0][1]!r}, a line each."
            )
    else:
        by_class: dict[str, list[str]] = {}
        for label, image in sorted(samples):
            by_class.setdefault(label, []).append(image)
        if isinstance(files.split, FirstSplit):
            tested, left_out = split_first(by_class, files.split)
        else:
            tested, left_out = draw(task, files.split, by_class)
            drawn = tested
    splits: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    for each in samples:
        if each not in left_out:
            splits["test" if each in tested else "train"].append(each)
    return splits, drawn, problems


def _by_column(
    task: Task, split: ColumnSplit, table: _Table, samples: Sequence[Sample]
) -> dict[SplitName, list[Sample]]:
    """The images of each split, as a column says it.

    Raises:
        InputError: The column is not there, says something that no split is called, or nothing that one is called.
    """
    asked: dict[SplitName, OneOrMore] = {"train": split.train, "test": split.test}
    if split.val is not None:
        asked["val"] = split.val
    words: dict[str, SplitName] = {word: name for name, value in asked.items() for word in candidates(value)}
    splits: dict[SplitName, list[Sample]] = {name: [] for name in asked}
    said = [word.strip() for word in _column(task, table, split.name, "split.name")]
    there = first_few(sorted(set(said)), 12)
    for word, sample, line in zip(said, samples, table.lines, strict=True):
        if word not in words:
            raise InputError(
                f"{table.path}, line {line}: column {split.name!r} says {word!r}, which stands for no split of {task.name} "
                f"({', '.join(map(repr, words))} do). It says {there}: name what stands for train, test and val under "
                "files.split, or take such lines out."
            )
        splits[words[word]].append(sample)
    for name, found in splits.items():
        if not found:
            raise InputError(
                f"column {split.name!r} of {table.path} says {' or '.join(map(repr, candidates(asked[name])))} of no image, so "
                f"task {task.name} has no {name} images. It says {there}: name what stands for {name} under files.split."
            )
    return splits
