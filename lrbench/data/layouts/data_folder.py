"""Find a data set's folder under the data roots, or report where it was looked for and how to get it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from lrbench.config.files import HubFiles, TorchvisionFiles
from lrbench.config.strict import OneOrMore
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.data.layouts.torchvision_classes import is_downloadable

# A data root that lacks at most one in 50 class folders is taken for an incomplete copy of the data set. The
# registered data sets of class folders that are nearest in size differ by more: 250 and 257 classes.
_MISSING = 50


def candidates(value: OneOrMore) -> tuple[str, ...]:
    """Return the one or several names that a key of a TOML file holds, as a tuple."""
    return (value,) if isinstance(value, str) else value


def find_data_folder(
    task: Task,
    roots: Sequence[Path],
    names: OneOrMore,
    *,
    wanted: str,
    objection: Callable[[Path], str | None],
    classes: Callable[[Path], tuple[int, int | None]] | None = None,
) -> Path:
    """Return the first candidate folder, under the first data root, that looks like the data set.

    Named candidates are tried first, under every root. The candidate `"."`, the data root itself, is tried last.

    Args:
        task: The task, for messages.
        roots: Data roots, in order.
        names: Candidate folders relative to each data root.
        wanted: Description of the folder, for messages.
        objection: Returns why a folder is not the data set, or None if it is. Must be cheap.
        classes: Returns the number of class folders in a folder and the expected number, or None if the task pins none.
            A data root that neither its name nor the task's TOML identifies as the data set must have all of them; if no
            other folder qualifies, nearly all. Must be cheap.

    Raises:
        InputError: No candidate qualifies, or a path leads through a file. Names every path tried and how to get the data.
    """
    given = candidates(names)
    known = {PurePath(name).name for name in given}
    places = [(root, name) for root in roots for name in given if name != "."]
    places += [(root, ".") for root in roots if "." in given]
    tried = []
    incomplete = None
    for root, name in places:
        path = root / name
        reject_file(task, path)
        reason = objection(path) if os.path.isdir(path) else "no such folder"
        if reason is None and classes and name == "." and len(given) > 1 and root.absolute().name not in known:
            count, expected = classes(path)
            if expected is not None and count < expected:
                reason = f"it has {count:,} of {expected:,} class folders"
                folder_name = next((PurePath(other).name for other in given if other != "."), None)
                if folder_name is not None and count >= expected / 2:
                    reason += f"; if this is part of the data set, rename it to {folder_name} and pass --partial"
                if count >= expected - expected // _MISSING and incomplete is None:
                    incomplete = path
        if reason is None:
            return path
        tried.append(f"{path} ({reason})")
    if incomplete is not None:
        return incomplete
    itself = next((root for root in roots if os.path.isdir(root) and objection(root) is None), None)
    hint = (
        ""
        if itself is None or "." in given
        else f' If {itself} is that folder, set root = "." under [files] of the TOML, or pass its parent folder.'
    )
    raise InputError(
        f"the data of task {task.name} was not found. Looked for {wanted} at: {'; '.join(tried)}.{hint} {how_to_get(task)}"
    )


def reject_file(task: Task, path: Path) -> None:
    """Reject a path that is a file, or leads through one, where a folder is needed.

    Raises:
        InputError: Names the file.
    """
    blocking = next((str(part) for part in (path, *path.parents) if os.path.isfile(part)), None)
    if blocking:
        raise InputError(
            f"{blocking} is a file, but task {task.name} needs a folder at {path}. If it is the archive, unpack it; otherwise "
            "move it or pass another folder with --data-root."
        )


def how_to_get(task: Task) -> str:
    """Return how to get a task's data, as sentences for a message."""
    elsewhere = "If you already have it, pass its folder with --data-root or LRBENCH_DATA."
    if isinstance(task.files, TorchvisionFiles) and not task.archives:
        has_download = is_downloadable(task.files)
    else:
        has_download = bool(task.archives) or isinstance(task.files, HubFiles)
    if has_download:
        by_hand = f" By hand: {task.manual}" if task.manual else ""
        return f"Download it with `lrbench data fetch {task.argument}` (and the same --data-root).{by_hand} {elsewhere}"
    if task.manual:
        return f"{task.manual} {elsewhere}"
    toml = "" if task.path is None else f", or correct `files` in {task.path}"
    return f"Copy it there{toml}. {elsewhere}"
