"""Fetching a task's archives: checked before they are unpacked, and written below the data root only."""

import os
from collections.abc import Sequence
from pathlib import Path

from lrbench.config.paths import download_name
from lrbench.config.task import Archive, HubFiles, Task, TorchvisionFiles
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, sentence
from lrbench.core.files import writing
from lrbench.core.locks import locked
from lrbench.data.layouts.data_folder import candidates, how_to_get, reject_file
from lrbench.data.receive import receive, set_aside, wrong
from lrbench.data.unpack import count_images, unpack
from lrbench.data.unpacked import is_marked

_PACKED = {".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"}


def fetch(task: Task, root: Path, control: Control, *, roots: Sequence[Path] = ()) -> None:
    """Download, check and unpack what a task's TOML names, unless the whole data is there.

    Args:
        task: The task.
        root: Data root to put it in.
        control: Told what happens, and how far a download is; it may stop one, which is then gone on with.
        roots: Data roots in which the data may be already, beside `root`.

    Raises:
        InputError: There is nothing to download; says how to get the data by hand.
        FailureError: A download failed from every address, or is not what it should be; or the disk is full.
        InterruptedWork: Asked to stop; what arrived is kept.
    """
    from lrbench.data.loading import find_task_data

    if isinstance(task.files, HubFiles):
        from lrbench.data.layouts.hub import read_hub

        read_hub(task, task.files, (root,))
        control.say(f"{task.name} is in the cache of `datasets`")
        return
    if isinstance(task.files, TorchvisionFiles) and not task.archives:
        from lrbench.data.layouts.torchvision import download

        reject_file(task, root)
        download(task, task.files, root)
        control.say(f"{task.name} is there, under {root}")
        return
    if task.files.layout == "synthetic":
        control.say(f"{task.name} is made on the spot: there is nothing to fetch")
        return
    if not task.archives:
        raise InputError(f"task {task.name} names nothing to download. {how_to_get(task)}")
    reject_file(task, root)
    everywhere = (root, *roots)
    # Without pinned counts nothing says what the whole is.
    if task.counts and not _missing(task, everywhere):
        control.say(f"{task.name} is there already, whole, at {find_task_data(task, everywhere)}")
        return
    for archive in task.archives:
        _one(task, archive, root, _beside(task, archive, root), control)
    # A folder of the right name may hold a part.
    if task.counts and (problems := _missing(task, everywhere)):
        goals = ", ".join(
            str(Path(archive.into, archive.unpacks_to or download_name(archive.url))) for archive in task.archives
        )
        raise FailureError(
            f"everything that task {task.name} names is there, and still its data is not whole: "
            f"{sentence('; '.join(problems))} Move {goals} under {root} away, and run the same command again."
        )


def _missing(task: Task, roots: Sequence[Path]) -> tuple[str, ...]:
    """What a reader misses in the task's data, in whatever form users have it; nothing where it is whole."""
    from lrbench.data.loading import load_task_data

    try:
        return load_task_data(task, roots, partial=True).problems
    except InputError as error:
        return (str(error).rstrip("."),)


def _beside(task: Task, archive: Archive, root: Path) -> Path:
    """The folder for an archive: where others that belong beside it lie already, by one of the names that readers know."""
    usual = root / archive.into
    beside = [each for each in task.archives if each.into == archive.into and each.unpacks_to and each.images]
    known = candidates(getattr(task.files, "root", ()))
    for folder in (usual, *(root / name for name in known)):
        # A root may be elsewhere: data is read there and not written.
        for each in beside if _is_below(folder, root) else ():
            there = folder / str(each.unpacks_to)
            if there.is_dir() and count_images(there) >= (each.images or 0):
                return folder
    return usual


def _is_below(folder: Path, root: Path) -> bool:
    """Whether a folder is the data root or in it, links followed."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _one(task: Task, archive: Archive, root: Path, folder: Path, control: Control) -> None:
    path = folder / download_name(archive.url)
    goal = folder / archive.unpacks_to if archive.unpacks_to else path
    if _is_there(task, archive, goal, control):
        return
    for target in (folder, goal.parent):
        if not _is_below(target, root):
            raise InputError(
                f"{target} is {os.path.realpath(target)}, outside the data root {root}, and lrbench writes data only below "
                "that. Replace the link that leads there with a folder, or name another data root with --data-root."
            )
    with locked(goal, control) as alone:
        # Another process may have fetched it while this one waited for the lock.
        if _is_there(task, archive, goal, control):
            return
        _set_aside_if_wrong(path, archive, control)
        if not path.is_file():
            receive(task, archive, path, control)
        if archive.unpacks_to:
            control.say(f"unpacking {path}")
            unpack(path, goal, archive, control, alone=alone)
            control.say(f"{goal} is there; {path} is no longer needed")
        elif path.suffix in _PACKED:
            control.say(
                f"{path.name} is an archive and was not unpacked: `unpacks_to` in the task's TOML names the folder in it"
            )


def _is_there(task: Task, archive: Archive, goal: Path, control: Control) -> bool:
    """Whether what an archive gives is there, as far as can be told without the archive.

    Raises:
        InputError: A file stands where a folder should be, or the other way round.
        FailureError: It was unpacked or copied in part.
    """
    if archive.unpacks_to:
        reject_file(task, goal)
    elif goal.is_dir():
        raise InputError(f"{goal} is a folder, but task {task.name} needs a file there. Move it away.")
    if not goal.exists() or (not archive.unpacks_to and wrong(goal, archive) is not None):
        return False
    _refuse_half_unpacked(task, archive, goal)
    control.say(f"{goal} is there already")
    return True


def _refuse_half_unpacked(task: Task, archive: Archive, goal: Path) -> None:
    if not archive.unpacks_to or archive.images is None or is_marked(goal):
        return
    found = count_images(goal)
    if found < archive.images:
        raise FailureError(
            f"{goal} of task {task.name} holds {found:,} images, and the whole archive {archive.images:,}: it was unpacked or "
            "copied in part. Move it away, then run the same command again; an archive that is there already is not fetched "
            "again."
        )


def _set_aside_if_wrong(path: Path, archive: Archive, control: Control) -> None:
    if not path.is_file() or (problem := wrong(path, archive)) is None:
        return
    with writing(path):
        bad = set_aside(path)
    control.say(f"{path} {problem}; it is kept as {bad.name}")
