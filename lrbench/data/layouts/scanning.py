"""Listing folders of images, past what operating systems and archives leave lying about."""

import os
from collections.abc import Sequence
from pathlib import Path

from lrbench.data.layouts.reading import first_few
from lrbench.errors import InputError
from lrbench.registry.task import Task

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


def is_litter(name: str) -> bool:
    """Whether a name is one of those that systems leave behind (`.DS_Store`, `._x`, `Thumbs.db`, …)."""
    return name.startswith(".") or name.lower() in _LITTER


def class_names(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted as plain strings; files and litter are passed over."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_litter(entry.name) and entry.is_dir())


def image_names(folder: Path) -> list[str]:
    """Names of the image files in `folder`, sorted as plain strings; endings count in upper and lower case."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not is_litter(entry.name) and entry.name.lower().endswith(IMAGE_ENDINGS) and entry.is_file()
        )


def holds_images(folder: Path) -> bool:
    """Whether at least one image file lies directly in `folder`."""
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(IMAGE_ENDINGS) and not is_litter(entry.name) for entry in entries)


def images_by_class(task: Task, folder: Path, exclude: Sequence[str] = ()) -> dict[str, list[str]]:
    """The image files of each class folder in `folder` but those to `exclude`, both sorted as plain strings.

    Raises:
        InputError: A class folder without an image, or no class folder at all.
    """
    classes = [name for name in class_names(folder) if name not in exclude]
    if not classes:
        raise InputError(
            f"{folder} holds no class folders, so the data of task {task.name} cannot be read: it should hold one "
            f"folder for each class, with that class's images in it.{_flat_advice(folder)}"
        )
    found = {name: image_names(folder / name) for name in classes}
    empty = [name for name, images in found.items() if not images]
    if empty:
        listed = f"class folder {empty[0]!r}" if len(empty) == 1 else f"{len(empty)} class folders ({first_few(empty)})"
        nested = class_names(folder / empty[0])
        hint = f" ({empty[0]!r} holds only folders: {first_few(nested)})" if nested else ""
        raise InputError(
            f"{listed} in {folder} of task {task.name} without any image{hint}. Copy the class again, or delete the "
            "empty folder if it is no class."
        )
    return found


def _flat_advice(folder: Path) -> str:
    if not holds_images(folder):
        return ""
    return " It holds images directly; move each into the folder of its class."
