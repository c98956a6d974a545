"""Fetching a task's data: download, check and unpack its archives below the data root."""

import os
from collections.abc import Sequence
from pathlib import Path

from lrbench.config.files import HubFiles, TorchvisionFiles
from lrbench.config.paths import download_name
from lrbench.config.task import Archive, Task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, as_sentence
from lrbench.core.files import writing
from lrbench.core.locks import locked
from lrbench.data.archives.marker import is_marked
from lrbench.data.archives.unpack import count_images, unpack
from lrbench.data.download import download, find_problem, set_aside
from lrbench.data.layouts.data_folder import candidates, how_to_get, reject_file

_ARCHIVE_ENDINGS = {".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"}


def fetch(task: Task, root: Path, control: Control, *, roots: Sequence[Path] = ()) -> None:
    """Download, check and unpack a task's archives, unless its data is already complete.

    Args:
        task: The task.
        root: Data root to write to.
        control: Receives messages and progress; may request a stop, after which a later call resumes.
        roots: Further data roots that may already hold the data.

    Raises:
        InputError: The task has no download; the message says how to get the data.
        FailureError: No address gave the right file, the data is incomplete afterwards, or the disk is full.
        InterruptedWork: A stop was requested; received bytes are kept.
    """
    from lrbench.data.loading import find_task_data

    if isinstance(task.files, HubFiles):
        from lrbench.data.layouts.hub import read_hub

        read_hub(task, task.files, (root,))
        control.say(f"{task.name} is in the cache of `datasets`")
        return
    if isinstance(task.files, TorchvisionFiles) and not task.archives:
        from lrbench.data.layouts.torchvision import download as download_with_torchvision

        reject_file(task, root)
        download_with_torchvision(task, task.files, root)
        control.say(f"{task.name} is complete in {root}")
        return
    if task.files.layout == "synthetic":
        control.say(f"{task.name} is generated: there is nothing to fetch")
        return
    if not task.archives:
        raise InputError(f"task {task.name} has no download address. {how_to_get(task)}")
    reject_file(task, root)
    all_roots = (root, *roots)
    # Without pinned counts, complete and partial data cannot be distinguished.
    if task.counts and not _missing(task, all_roots):
        control.say(f"{task.name} is already complete in {find_task_data(task, all_roots)}")
        return
    for archive in task.archives:
        _fetch_archive(task, archive, root, _choose_folder(task, archive, root), control)
    # An existing folder with the right name may be incomplete.
    if task.counts and (problems := _missing(task, all_roots)):
        targets = ", ".join(
            str(Path(archive.into, archive.unpacks_to or download_name(archive.url))) for archive in task.archives
        )
        raise FailureError(
            f"all files of task {task.name} are in {root}, but its data is incomplete: {as_sentence('; '.join(problems))} "
            f"Move {targets} out of {root} and run the same command again."
        )


def _missing(task: Task, roots: Sequence[Path]) -> tuple[str, ...]:
    """Return the problems that a reader finds in the task's data; empty if it is complete."""
    from lrbench.data.loading import load_task_data

    try:
        return load_task_data(task, roots, partial=True).problems
    except InputError as error:
        return (str(error).rstrip("."),)


def _choose_folder(task: Task, archive: Archive, root: Path) -> Path:
    """Return the folder for an archive: one that already holds the task's images, under any name that readers accept."""
    default = root / archive.into
    siblings = [other for other in task.archives if other.into == archive.into and other.unpacks_to and other.images]
    known = candidates(getattr(task.files, "root", ()))
    for folder in (default, *(root / name for name in known)):
        # `root` of a task may be outside the data root, where lrbench does not write.
        if not _is_below(folder, root):
            continue
        for sibling in siblings:
            images = folder / str(sibling.unpacks_to)
            if images.is_dir() and count_images(images) >= (sibling.images or 0):
                return folder
    return default


def _is_below(folder: Path, root: Path) -> bool:
    """Return whether a folder is the data root or in it, with links resolved."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _fetch_archive(task: Task, archive: Archive, root: Path, folder: Path, control: Control) -> None:
    path = folder / download_name(archive.url)
    target = folder / archive.unpacks_to if archive.unpacks_to else path
    if _is_fetched(task, archive, target, control):
        return
    for written in (folder, target.parent):
        if not _is_below(written, root):
            raise InputError(
                f"{written} is {os.path.realpath(written)}, outside the data root {root}, where lrbench does not write. "
                "Replace the link with a folder, or choose another data root with --data-root."
            )
    with locked(target, control) as has_lock:
        # Another process may have fetched it while this one waited for the lock.
        if _is_fetched(task, archive, target, control):
            return
        if path.is_file() and (problem := find_problem(path, archive)) is not None:
            with writing(path):
                bad = set_aside(path)
            control.say(f"{path} {problem}; renamed to {bad.name}")
        if not path.is_file():
            download(task, archive, path, control)
        if archive.unpacks_to:
            control.say(f"unpacking {path}")
            unpack(path, target, archive, control, has_lock=has_lock)
            control.say(f"unpacked to {target}; {path} may be deleted")
        elif path.suffix in _ARCHIVE_ENDINGS:
            control.say(f"{path.name} is an archive, but was not unpacked: the task's TOML does not set `unpacks_to`")


def _is_fetched(task: Task, archive: Archive, target: Path, control: Control) -> bool:
    """Return whether the file or folder of an archive exists and, as far as can be checked, is complete.

    Raises:
        InputError: A file has the name of a folder, or the reverse.
        FailureError: The folder is incomplete.
    """
    if archive.unpacks_to:
        reject_file(task, target)
    elif target.is_dir():
        raise InputError(f"{target} is a folder, but task {task.name} needs a file there. Move it away.")
    if not target.exists() or (not archive.unpacks_to and find_problem(target, archive) is not None):
        return False
    if archive.unpacks_to and archive.images is not None and not is_marked(target):
        images = count_images(target)
        if images < archive.images:
            raise FailureError(
                f"{target} of task {task.name} is incomplete: it contains {images:,} images, expected {archive.images:,}. "
                "Move it away and run the same command again; a complete archive is not downloaded again."
            )
    control.say(f"{target} already exists")
    return True
