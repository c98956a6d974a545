"""Folders of images, listed without the files that operating systems and archives leave behind."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.wording import counted
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.unicode_names import unify_unicode_forms

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff", ".avif")
_FILE, _FOLDER = "a file", "a folder"
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Class folders and their contents.

    Attributes:
        images: Names of each class's image files; classes and files sorted as plain strings.
        unsorted: Images next to the class folders; their classes are unknown.
        unused: Other contents of the class folders, as `<class>/<file>` or `<class>/<folder>/`.
        problems: Entries with an image's name that are not readable files, each a clause for a message.
    """

    images: dict[str, list[str]]
    unsorted: tuple[str, ...]
    unused: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """Contents of a folder, sorted by name. `unreadable` holds (name, kind of entry)."""

    images: list[str]
    unreadable: list[tuple[str, str]]
    others: list[str]


def is_system_file(name: str) -> bool:
    """Return whether a name is one that operating systems and archives leave behind (`.DS_Store`, `._x`, `Thumbs.db`)."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def list_class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted as plain strings."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_system_file(entry.name) and _kind(entry) == _FOLDER)


def list_images(folder: Path) -> tuple[list[str], list[str]]:
    """List the image files in a folder; their endings may be in upper or lower case.

    Returns:
        Names of the images, sorted as plain strings, and problems with entries that cannot be read, each a clause.
    """
    listing = _list_folder(folder)
    return listing.images, _describe_unreadable(listing.unreadable)


def _list_folder(folder: Path) -> _Listing:
    images: list[str] = []
    unreadable: list[tuple[str, str]] = []
    others: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system_file(entry.name):
                continue
            kind = _kind(entry)
            if kind == _FOLDER:
                others.append(f"{entry.name}/")
            elif not entry.name.lower().endswith(IMAGE_ENDINGS):
                others.append(entry.name)
            elif kind == _FILE:
                images.append(entry.name)
            else:
                unreadable.append((entry.name, kind))
    return _Listing(images=sorted(images), unreadable=sorted(unreadable), others=sorted(others))


def _kind(entry: os.DirEntry[str]) -> str:
    # A circular link raises OSError.
    with suppress(OSError):
        if entry.is_file():
            return _FILE
        if entry.is_dir():
            return _FOLDER
    return "a broken link" if entry.is_symlink() else "a pipe, socket or device"


def _describe_unreadable(entries: Sequence[tuple[str, str]], limit: int = 3) -> list[str]:
    if not entries:
        return []
    shown = "; ".join(f"{name!r} is {kind}" for name, kind in entries[:limit]) + ("; …" if len(entries) > limit else "")
    noun = "1 entry with an image's name" if len(entries) == 1 else f"{len(entries):,} entries with images' names"
    return [f"{noun} cannot be read ({shown})"]


def has_images(folder: Path) -> bool:
    """Return whether at least one image file is directly in `folder`."""
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(IMAGE_ENDINGS) and not is_system_file(entry.name) for entry in entries)


def find_nested_images(folder: Path) -> Path | None:
    """Return the first folder in `folder` that has images, or None."""
    return next((folder / name for name in list_class_folders(folder) if has_images(folder / name)), None)


def describe_unsorted_images(task: Task, folder: Path, split: str, unsorted: Sequence[str]) -> list[str]:
    """Return a clause about images next to class folders, unless there are none or the task pins the split's count."""
    if not unsorted or split in task.counts:
        return []
    return [
        f"it has {counted(len(unsorted), 'image')} next to the class folders in {folder} ({first_few(unsorted)}), whose "
        "classes are unknown: move each into the folder of its class, or remove it"
    ]


def scan_class_folders(
    task: Task, folder: Path, exclude: Sequence[str] | None = None, skip: Sequence[str] = ()
) -> ClassFolders:
    """List the image files of each class folder in `folder`.

    Args:
        task: The task, for messages.
        folder: Folder of the class folders.
        exclude: Folders that are not classes; None if the layout has no such key.
        skip: Classes that the caller has already reported.

    Raises:
        InputError: A class folder has no images, there is no class folder, two have one name in different Unicode forms, or a
            folder to exclude is misspelt.
    """
    existing = list_class_folders(folder)
    skipped = {*(exclude or ()), *skip}
    classes = [name for name in existing if name not in skipped]
    name_of = {name.casefold(): name for name in existing}
    for name in exclude or ():
        # The data may lack an excluded folder; a name close to an existing one is a misspelling.
        near = [] if name in existing else get_close_matches(name.casefold(), name_of, n=1, cutoff=0.85)
        if near:
            raise InputError(
                f"files.exclude of task {task.name} names {name!r}, but {folder} has no such folder. Did you mean "
                f"{name_of[near[0]]!r}?"
            )
    if not classes:
        advice = " Move each image into the folder of its class." if has_images(folder) else ""
        raise InputError(
            f"{folder} has no class folders. Task {task.name} needs one folder for each class, with that class's images in "
            f"it.{advice}"
        )
    for name, first in unify_unicode_forms(classes).items():
        if name != first:
            raise InputError(
                f"{folder} of task {task.name} has two class folders named {name!r}, in different Unicode forms ({first!a} "
                f"and {name!a}). Move the images of both into one."
            )
    listings = {name: _list_folder(folder / name) for name in classes}
    empty = [name for name, listing in listings.items() if not listing.images]
    if empty:
        nested = find_nested_images(folder / empty[0])
        if nested is not None:
            raise InputError(
                f"the images of task {task.name} are one folder too deep: {nested} has images, but {folder / empty[0]} has "
                f"none ({len(empty):,} of {len(listings):,} class folders have none). Move the images of each class up into "
                "its class folder."
            )
        names = f"class folder {empty[0]!r}" if len(empty) == 1 else f"{len(empty)} class folders ({first_few(empty)})"
        verb = "has" if len(empty) == 1 else "have"
        leave_out = (
            ""
            if exclude is None
            else f" or leave it out with files.exclude = [{json.dumps(empty[0])}] in the task's TOML"
        )
        raise InputError(
            f"{names} in {folder} of task {task.name} {verb} no images{_describe_contents(folder / empty[0])}. Copy the class "
            f"again; if it is not a class, delete the folder{leave_out}."
        )
    return ClassFolders(
        images={name: listing.images for name, listing in listings.items()},
        unsorted=tuple(_list_folder(folder).images),
        unused=tuple(f"{name}/{other}" for name, listing in listings.items() for other in listing.others),
        problems=tuple(
            _describe_unreadable(
                [(f"{name}/{entry}", kind) for name, listing in listings.items() for entry, kind in listing.unreadable]
            )
        ),
    )


def _describe_contents(folder: Path) -> str:
    """Return a phrase for the contents of a folder without images; empty if the folder is empty."""
    _, unreadable = list_images(folder)
    if unreadable:
        return f" ({folder.name!r}: {'; '.join(unreadable)})"
    nested = list_class_folders(folder)
    if nested:
        return f" ({folder.name!r} has only folders: {first_few(nested)})"
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if not is_system_file(entry.name))
    endings = ", ".join(ending.removeprefix(".") for ending in IMAGE_ENDINGS)
    return f" ({folder.name!r} has {first_few(files)}; images have the endings {endings})" if files else ""
