"""The layout `table`: CSV files with a header, whose columns name each image and its class."""

import csv
import io
import os
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.config.explain import suggestion
from lrbench.config.files import TableFiles
from lrbench.config.splits import ColumnSplit, DrawnSplit, FirstSplit, Group, ListedSplit
from lrbench.config.strict import OneOrMore
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.class_splits import draw_groups, draw_split, group_by_path, split_first
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
    """Columns of a table, entries of each row, and the line of the file in which each row ends."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]


def find_table(task: Task, files: TableFiles, roots: Sequence[Path]) -> Path:
    """Return the folder that contains the image folder and the tables.

    Raises:
        InputError: It was not found.
    """
    tables = list(_table_names(files).values())
    names = ", ".join(candidates(names)[0] for names in tables)
    return find_data_folder(
        task,
        roots,
        files.root,
        wanted=f"the image folder {' or '.join(candidates(files.images))} and the table {names}",
        objection=lambda root: describe_missing_parts(root, files.images, tables),
    )


def read_table(task: Task, files: TableFiles, roots: Sequence[Path]) -> LayoutData:
    """Read a data set whose images and classes are named in tables.

    Images that no table names are not part of the task.

    Raises:
        InputError: The data was not found, a table lacks a column or an entry, an image is named twice, no image exists, or
            the split cannot be made.
    """
    root = find_table(task, files, roots)
    folders = existing_image_folders(files.images, root)
    splits: dict[SplitName, list[Sample]] = {}
    folder_of: dict[SplitName, str] = {}
    drawn: set[Sample] = set()
    groups: dict[str, str] = {}
    problems: list[str] = []
    for split, name in _table_names(files).items():
        path = find_list(root, folders, name)
        assert path is not None
        table = _read_csv(path, files.separator)
        named = _read_samples(task, files, table, root, folders)
        if not named:
            raise InputError(f"{path} of task {task.name} has columns but no rows. Copy it again.")
        folder = choose_image_folder(root, folders, named)
        if not has_any_image(root, folder, named):
            first = root / image_path(folder, named[0][1])
            raise no_images_error(task, path, first, len(named), _ending_hint(files, first))
        if files.file is None:
            splits[split] = named
        else:
            if isinstance(files.split, DrawnSplit) and files.split.group is not None:
                groups = _read_groups(task, files.split.group, table, named)
            splits, drawn, problems = _split_rows(task, files, table, named, (root, *roots), groups)
        folder_of |= dict.fromkeys(splits.keys() - folder_of.keys(), folder)
    splits = unify_class_names(splits)
    reject_shared_images(
        task, root, {split: [(k, image_path(folder_of[split], i)) for k, i in named] for split, named in splits.items()}
    )
    images = {split: find_listed_images(root, folder_of[split], named) for split, named in splits.items()}
    for split, listed in images.items():
        problems.extend(describe_missing_images(listed, len(splits[split]), f"listed {split}"))
    samples = {split: listed.samples for split, listed in images.items()}
    return from_files(
        task,
        root=root,
        images=root,
        classes=sort_classes({name for named in splits.values() for name, _ in named}),
        samples=samples,
        ids={split: listed.ids for split, listed in images.items()},
        problems=problems,
        drawn=sorted(image for _, image in drawn),
        groups={
            sample: groups[name]
            for listed in images.values()
            for sample, name in zip(listed.samples, listed.ids, strict=True)
            if groups
        },
        unused=find_unlisted_images(task, root, samples),
    )


def _table_names(files: TableFiles) -> dict[SplitName, OneOrMore]:
    if files.file is not None:
        return {"train": files.file}
    assert files.train is not None and files.test is not None
    return {"train": files.train, "test": files.test, **({"val": files.val} if files.val else {})}


def _read_csv(path: Path, separator: str | None) -> _Table:
    """Read a table; empty lines are skipped.

    Raises:
        InputError: The file is not a table with at least two columns; names the line.
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
        raise InputError(f"{path} is empty; its first line should name the columns. Copy it again.")
    columns = [name.strip() for name in rows[0]]
    if len(columns) < 2:
        other = next((sign for sign in (";", "\t", ",", "|", " ") if sign != separator and sign in columns[0]), None)
        toml = '"\\t"' if other == "\t" else f'"{other}"'
        hint = (
            f" If the separator is {other!r}, set separator = {toml} under [files] of the task's TOML." if other else ""
        )
        raise InputError(
            f"{path} has one column, {shorten(columns[0])}. Its first line should name at least two columns, of images and of "
            f"classes, separated by {separator!r}.{hint}"
        )
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(columns):
            entries = "1 entry" if len(row) == 1 else f"{len(row)} entries"
            quotes = f" Put an entry that contains {separator!r} in double quotes." if len(row) > len(columns) else ""
            raise InputError(
                f"{path}, line {line}: {entries}, but the first line names {len(columns)} columns. Correct that line.{quotes}"
            )
    return _Table(path=path, columns=columns, rows=rows[1:], lines=lines[1:])


def _read_samples(task: Task, files: TableFiles, table: _Table, root: Path, folders: Sequence[str]) -> list[Sample]:
    """Return class and image of each row.

    Raises:
        InputError: A column or the line of column names is missing, an entry is empty, or an image is named twice.
    """
    first = table.columns[0]
    if first.lower().endswith(tuple(IMAGE_ENDINGS)) or any(
        os.path.isfile(root / image_path(folder, first + files.ending)) for folder in folders
    ):
        raise InputError(
            f"the first line of {table.path} names an image, {first!r}, instead of the columns. Add a line of column names "
            "above it, such as image,label."
        )
    # If the task names one of the two columns, the other is the first of the rest. A column without a name is a row number.
    named = {files.image, files.label}
    others = [*(column for column in table.columns if column and column not in named), "", ""]
    images = _read_column(task, table, files.image or others.pop(0), "image")
    labels = _read_column(task, table, files.label or others[0], "label")
    samples = []
    for image, label, line in zip(images, labels, table.lines, strict=True):
        if not image.strip() or not label.strip():
            missing = "image" if not image.strip() else "class"
            raise InputError(f"{table.path}, line {line}: the {missing} is missing. Add it, or delete the line.")
        # Tables written on Windows may have backslashes.
        name = image.strip().replace("\\", "/").removeprefix("./") + files.ending
        reject_outside_path(table.path, name, line)
        samples.append((label.strip(), name))
    _reject_duplicates(task, table, samples)
    return samples


def _reject_duplicates(task: Task, table: _Table, samples: Sequence[Sample]) -> None:
    """Reject a table in which two rows name one image.

    Raises:
        InputError: Names the lines and a possible cause.
    """
    seen: dict[str, tuple[str, int]] = {}
    for (label, image), line in zip(samples, table.lines, strict=True):
        first_label, first_line = seen.setdefault(posixpath.normpath(image), (label, line))
        if first_line != line:
            classes = "" if first_label == label else f", with the classes {first_label!r} and {label!r}"
            raise InputError(
                f"{table.path} of task {task.name} names the image {image!r} in lines {first_line} and {line}{classes}. Delete "
                "one of them. If that is not an image, set files.image and files.label in the task's TOML to the columns of "
                f"images and classes; the columns are {first_few(table.columns, 12)}."
            )


def _read_column(task: Task, table: _Table, name: str, key: str) -> list[str]:
    """Return the entries of one column.

    Args:
        task: The task, for messages.
        table: The table.
        name: The column.
        key: The key of `[files]` that names it.

    Raises:
        InputError: The table has no such column, or several.
    """
    if table.columns.count(name) != 1:
        is_repeated = name in table.columns
        count = "several columns" if is_repeated else "no column"
        hint = " Rename all but one." if is_repeated else suggestion(name, table.columns)
        raise InputError(
            f"{table.path} has {count} {name!r}, which task {task.name} needs (files.{key}).{hint} "
            f"Its columns are {first_few(table.columns, 12)}."
        )
    position = table.columns.index(name)
    return [row[position] for row in table.rows]


def _ending_hint(files: TableFiles, first: Path) -> str:
    """Return a sentence if `files.ending` is missing or superfluous, else nothing."""
    if files.ending:
        bare = str(first).removesuffix(files.ending)
        return f"{Path(bare).name} exists: remove ending under [files]." if os.path.isfile(bare) else ""
    ending = next((ending for ending in IMAGE_ENDINGS if os.path.isfile(f"{first}{ending}")), None)
    return f'{first.name}{ending} exists: set ending = "{ending}" under [files].' if ending else ""


def _split_rows(
    task: Task,
    files: TableFiles,
    table: _Table,
    samples: Sequence[Sample],
    folders: Sequence[Path],
    groups: Mapping[str, str],
) -> tuple[dict[SplitName, list[Sample]], set[Sample], list[str]]:
    """Return the images of each split of one table, the drawn test images, and problems with a split list."""
    if isinstance(files.split, ColumnSplit):
        return _split_by_column(task, files.split, table, samples), set(), []
    problems: list[str] = []
    left_out: set[Sample] = set()
    drawn: set[Sample] = set()
    if isinstance(files.split, ListedSplit):
        known = {image: (label, image) for label, image in samples}
        lines, problems = read_test_list(task, files.split, folders, known)
        unknown = [line for line in lines if line not in known]
        if unknown:
            problems.append(
                f"{len(unknown):,} of {len(lines):,} test images in the split list are not in {table.path} "
                f"({first_few(unknown)})"
            )
        tested = {known[line] for line in lines if line in known}
        if not tested:
            raise InputError(
                f"none of the {len(lines):,} test images in {files.split.test} is in {table.path} of task {task.name}. Write "
                f"one image on each line, spelt as in the table, such as {samples[0][1]!r}."
            )
    elif groups:
        assert isinstance(files.split, DrawnSplit)
        drawn = tested = draw_groups(task, files.split, {sample: groups[sample[1]] for sample in samples})
    else:
        by_class: dict[str, list[str]] = {}
        for label, image in sorted(samples):
            by_class.setdefault(label, []).append(image)
        if isinstance(files.split, FirstSplit):
            tested, left_out = split_first(by_class, files.split)
        else:
            tested, left_out = draw_split(task, files.split, by_class)
            drawn = tested
    splits: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    for sample in samples:
        if sample not in left_out:
            splits["test" if sample in tested else "train"].append(sample)
    return splits, drawn, problems


def _read_groups(task: Task, group: Group, table: _Table, samples: Sequence[Sample]) -> dict[str, str]:
    """Return the group of each image, by its name in the table.

    Raises:
        InputError: The column is missing or has an empty entry, or a path has no group.
    """
    if group.column is None:
        return {image: name for (_, image), name in group_by_path(task, group, samples).items()}
    groups = {}
    column = _read_column(task, table, group.column, "split.group.column")
    for (_, image), name, line in zip(samples, column, table.lines, strict=True):
        if not name.strip():
            raise InputError(f"{table.path}, line {line}: the entry in column {group.column!r} is missing. Add it.")
        # Names typed on several systems may be in two Unicode forms.
        groups[image] = unicodedata.normalize("NFC", name.strip())
    return groups


def _split_by_column(
    task: Task, split: ColumnSplit, table: _Table, samples: Sequence[Sample]
) -> dict[SplitName, list[Sample]]:
    """Return the images of each split as a column assigns them.

    Raises:
        InputError: The column is missing, has a value that stands for no split, or assigns no image to a split.
    """
    values_of: dict[SplitName, OneOrMore] = {"train": split.train, "test": split.test}
    if split.val is not None:
        values_of["val"] = split.val
    split_of: dict[str, SplitName] = {value: name for name, values in values_of.items() for value in candidates(values)}
    splits: dict[SplitName, list[Sample]] = {name: [] for name in values_of}
    column = [value.strip() for value in _read_column(task, table, split.name, "split.name")]
    existing = first_few(sorted(set(column)), 12)
    for value, sample, line in zip(column, samples, table.lines, strict=True):
        if value not in split_of:
            raise InputError(
                f"{table.path}, line {line}: column {split.name!r} has the value {value!r}, which is no split of {task.name} "
                f"({', '.join(map(repr, split_of))} are). Its values are {existing}. Set files.split to the values of train, "
                "test and val, or delete such lines."
            )
        splits[split_of[value]].append(sample)
    for name, members in splits.items():
        if not members:
            values = " or ".join(map(repr, candidates(values_of[name])))
            raise InputError(
                f"column {split.name!r} of {table.path} never has the value {values}, so task {task.name} has no {name} "
                f"images. Its values are {existing}. Set files.split.{name} to one of them."
            )
    return splits
