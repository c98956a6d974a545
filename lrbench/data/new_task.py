"""A task file for a user's own folder of images: what the folder looks like, and the TOML that describes it."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from lrbench.config.strict import name_problem
from lrbench.core.errors import InputError
from lrbench.data.layouts.image_folders import has_images, list_class_folders

_TABLE_ENDINGS = (".csv", ".tsv")
_TEST_FOLDERS = ("test", "val", "valid", "validation")
_MOST_FOLDERS = 50


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Layout of a folder of images.

    Attributes:
        layout: Name of the layout.
        files: Keys of `[files]` that follow from the folder.
        columns: Columns of the table; empty for folders.
    """

    layout: Literal["folders", "split-folders", "table"]
    files: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


def guess_layout(folder: Path) -> Guess:
    """Return the layout of a folder: one for each split, one for each class, or a table next to the images.

    Raises:
        InputError: The folder does not exist, or its layout is none of these.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder of your images.")
    names = list_class_folders(folder)
    test = next((name for name in _TEST_FOLDERS if name in names), None)
    if "train" in names and test is not None and _has_classes(folder / "train"):
        rest = next((name for name in _TEST_FOLDERS[1:] if name in names and name != test), None)
        return Guess(
            layout="split-folders",
            files={**({"test": test} if test != "test" else {}), **({"val": rest} if rest else {})},
        )
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLE_ENDINGS and path.is_file())
    if len(tables) == 1:
        separator, columns = _header(tables[0])
        files = {"file": tables[0].name, **({"separator": separator} if separator else {})}
        return Guess(layout="table", files=files, columns=columns)
    if _has_classes(folder):
        return Guess(layout="folders")
    contents = (
        f"{len(tables)} tables"
        if tables
        else "no folder of images for each class, and no table (.csv) of images and classes"
    )
    raise InputError(
        f"{folder} has {contents}. Sort the images into one folder for each class, or add one table with the columns image and "
        "label."
    )


def _has_classes(folder: Path) -> bool:
    return any(has_images(folder / name) for name in list_class_folders(folder)[:_MOST_FOLDERS])


def _header(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the separator of a table's columns, None for that of its ending, and the columns."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline(1 << 16)
    default = "\t" if path.suffix.lower() == ".tsv" else ","
    # Spreadsheets write semicolons where commas separate decimals.
    separator = next((sign for sign in (default, ";", "\t", ",", "|") if sign in first), default)
    row = next(csv.reader([first], delimiter=separator), [])
    return None if separator == default else separator, tuple(name.strip() for name in row)


def suggest_name(folder: Path) -> str:
    """Return a valid task name made from a folder's name."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.absolute().name.lower()).strip("-._")
    return "mydata" if not name or name_problem(name) else name[:60]


def suggest_metric(counts: Mapping[str, int]) -> Literal["top1", "mean_per_class"]:
    """Return the metric for classes of these numbers of images: the mean per class if the largest has over 3 times as many."""
    return "mean_per_class" if max(counts.values()) > 3 * min(counts.values()) else "top1"


def task_toml(
    folder: Path,
    guess: Guess,
    *,
    name: str,
    metric: str,
    title: str = "",
    test: float = 0.2,
    seed: int = 0,
    group: Mapping[str, Any] | None = None,
    image: str | None = None,
    label: str | None = None,
    orientation: str = "upright",
) -> str:
    """Return the text of a task's TOML.

    Args:
        folder: Folder of the images.
        guess: Its layout.
        name: Name of the task.
        metric: Headline metric.
        title: Longer name for pages.
        test: Share of each class that is drawn for testing, unless there are test folders.
        seed: Seed of the draw.
        group: Keys of `split.group`; None without groups.
        image: Column of the images' paths.
        label: Column of the classes.
        orientation: Whether the orientation in the images' metadata is applied.
    """
    files: dict[str, Any] = {"layout": guess.layout, "root": folder.absolute().as_posix(), **guess.files}
    if image is not None:
        files["image"] = image
    if label is not None:
        files["label"] = label
    if guess.layout != "split-folders":
        files["split"] = {"kind": "drawn", "test": test, "seed": seed, **({"group": dict(group)} if group else {})}
    content = {"name": name, **({"title": title} if title else {}), "metric": metric, "orientation": orientation}
    split = files.pop("split", None)
    text = f"# {title or name}: a task of lrbench. `lrbench tasks` and the path of this file show all defaults.\n\n"
    text += tomli_w.dumps(content)
    text += "\n" + tomli_w.dumps({"files": files})
    return text if split is None else text + "split = " + _inline(split) + "\n"


def _inline(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(part)}" for key, part in value.items()) + " }"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()
