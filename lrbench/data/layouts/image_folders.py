"""Listing folders of images, past what operating systems and archives leave lying about."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.unicode_names import unify_unicode_forms

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
_FILE, _FOLDER = "a file", "a folder"
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Class folders and what lies in them.

    Attributes:
        images: The names of each class's image files; both sorted as plain strings.
        beside: Images beside the class folders, whose classes nothing states.
        unused: Other content of the class folders, litter apart: `<class>/<file>`, or `<class>/<folder>/`.
        problems: What is called like an image and is no file that can be read, each a clause for a message.
    """

    images: dict[str, list[str]]
    beside: tuple[str, ...]
    unused: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """What lies in a folder, litter apart, sorted by name; `unreadable` are called like images and say what they are."""

    images: list[str]
    unreadable: list[tuple[str, str]]
    others: list[str]


def is_system_file(name: str) -> bool:
    """Whether a name is one of those that systems leave behind (`.DS_Store`, `._x`, `Thumbs.db`, …)."""
    return name.startswith(".") or name.lower() in _LITTER


def list_class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted as plain strings; files and litter are passed over."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_system_file(entry.name) and _kind(entry) == _FOLDER)


def list_images(folder: Path) -> tuple[list[str], list[str]]:
    """The image files in a folder.

    Returns:
        Their names, sorted as plain strings; endings count in upper and lower case. And, each as a clause for a message, what
        is called like an image and is no file that can be read.
    """
    scan = _scanned(folder)
    return scan.images, _unreadable(scan.unreadable)


def _scanned(folder: Path) -> _Scan:
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
    return _Scan(images=sorted(images), unreadable=sorted(unreadable), others=sorted(others))


def _kind(entry: os.DirEntry[str]) -> str:
    # A link that leads in a circle raises in place of answering.
    with suppress(OSError):
        if entry.is_file():
            return _FILE
        if entry.is_dir():
            return _FOLDER
    return "a link that leads nowhere" if entry.is_symlink() else "a pipe, socket or device"


def _unreadable(entries: Sequence[tuple[str, str]], limit: int = 3) -> list[str]:
    """A clause that names what is called like an image and is no file; none where nothing is."""
    if not entries:
        return []
    shown = "; ".join(f"{name!r} is {kind}" for name, kind in entries[:limit]) + ("; …" if len(entries) > limit else "")
    return [f"{len(entries):,} called like {'an image' if len(entries) == 1 else 'images'} cannot be read ({shown})"]


def has_images(folder: Path) -> bool:
    """Whether at least one image file lies directly in `folder`."""
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(IMAGE_ENDINGS) and not is_system_file(entry.name) for entry in entries)


def find_nested_images(folder: Path) -> Path | None:
    """The first folder in `folder` that holds images; None where none does."""
    return next((folder / name for name in list_class_folders(folder) if has_images(folder / name)), None)


def describe_unsorted_images(task: Task, folder: Path, split: str, beside: Sequence[str]) -> list[str]:
    """A clause on images beside class folders; none where there are none, or where a count says that the split is whole."""
    if not beside or split in task.counts:
        return []
    return [
        f"{len(beside):,} images lie beside the class folders in {folder} ({first_few(beside)}), so that their classes are "
        "unknown: move each into the folder of its class, or away"
    ]


def scan_class_folders(
    task: Task, folder: Path, exclude: Sequence[str] | None = None, passed_over: Sequence[str] = ()
) -> ClassFolders:
    """The image files of each class folder in `folder`.

    Args:
        task: The task, for messages.
        folder: Holds the class folders.
        exclude: Folders that are no classes; None for a layout that knows no such key.
        passed_over: Classes that the caller has said something about.

    Raises:
        InputError: A class folder without an image, no class folder at all, two of one name in different Unicode forms, or a
            misspelt folder to exclude.
    """
    there = list_class_folders(folder)
    skipped = {*(exclude or ()), *passed_over}
    classes = [name for name in there if name not in skipped]
    letters = {each.casefold(): each for each in there}
    for name in exclude or ():
        # Data may lack what is excluded; but a name that is all but there was meant to be it.
        near = [] if name in there else get_close_matches(name.casefold(), letters, n=1, cutoff=0.85)
        if near:
            raise InputError(
                f"files.exclude of task {task.name} names {name!r}, and no folder in {folder} is called so. Did you mean "
                f"{letters[near[0]]!r}?"
            )
    if not classes:
        raise InputError(
            f"{folder} holds no class folders, so the data of task {task.name} cannot be read: it should hold one "
            f"folder for each class, with that class's images in it.{_flat_advice(folder)}"
        )
    for name, first in unify_unicode_forms(classes).items():
        if name != first:
            raise InputError(
                f"{folder} of task {task.name} has two class folders called {name!r}, in different Unicode forms ({first!a} "
                f"and {name!a}). Move the images of both into one."
            )
    found = {name: _scanned(folder / name) for name in classes}
    empty = [name for name, scan in found.items() if not scan.images]
    if empty:
        deeper = find_nested_images(folder / empty[0])
        if deeper is not None:
            raise InputError(
                f"the images of task {task.name} are one folder deeper than expected: {deeper} holds images, and "
                f"{folder / empty[0]} none ({len(empty):,} of {len(found):,} class folders are so). Move the images of each "
                "class into the folder that is called by the class."
            )
        one, held = len(empty) == 1, _instead(folder / empty[0])
        listed = f"class folder {empty[0]!r}" if one else f"{len(empty)} class folders ({first_few(empty)})"
        leave_out = (
            "" if exclude is None else f" or leave it out (files.exclude = [{json.dumps(empty[0])}] in its TOML)"
        )
        raise InputError(
            f"{listed} in {folder} of task {task.name} {'is' if one else 'are'} without any image{held}. Copy the class again; "
            f"if it is no class, delete the folder{leave_out}."
        )
    return ClassFolders(
        images={name: scan.images for name, scan in found.items()},
        beside=tuple(_scanned(folder).images),
        unused=tuple(f"{name}/{other}" for name, scan in found.items() for other in scan.others),
        problems=tuple(
            _unreadable([(f"{name}/{entry}", kind) for name, scan in found.items() for entry, kind in scan.unreadable])
        ),
    )


def _instead(folder: Path) -> str:
    """What a folder without images holds, to go after the words; nothing where it is empty."""
    _, unreadable = list_images(folder)
    if unreadable:
        return f": in {folder.name!r}, {'; '.join(unreadable)}"
    nested = list_class_folders(folder)
    if nested:
        return f" ({folder.name!r} holds only folders: {first_few(nested)})"
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if not is_system_file(entry.name))
    endings = ", ".join(ending.removeprefix(".") for ending in IMAGE_ENDINGS)
    return f" ({folder.name!r} holds {first_few(files)}; images have the endings {endings})" if files else ""


def _flat_advice(folder: Path) -> str:
    if not has_images(folder):
        return ""
    return " It holds images directly; move each into the folder of its class."
