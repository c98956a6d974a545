"""Finding a data set's folder under the data roots, and saying what to do when it is not there."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from lrbench.config.strict import OneOrMore
from lrbench.config.task import HubFiles, Task, TorchvisionFiles
from lrbench.core.errors import InputError
from lrbench.data.layouts.torchvision_classes import is_downloadable

# One in so many class folders may be missing where a data root is taken for half-copied data: no other data set of the suite
# has so nearly as many classes and lies in class folders (250 and 257 are the nearest).
_MISSING = 50


def candidates(value: OneOrMore) -> tuple[str, ...]:
    """One or several candidate folders of a TOML, as a tuple."""
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
    """The first candidate folder, under the first data root, that looks like the data set.

    Candidates with a name come first, under every root; `"."`, where anything may lie, comes last.

    Args:
        task: The task, for messages.
        roots: Data roots, in order.
        names: Candidate folders relative to each data root.
        wanted: What is looked for, in words.
        objection: Says why a folder is not the one, or None when it is. Must be cheap.
        classes: How many class folders are in a folder, and how many there should be, where a number is known. A data root that
            is itself taken for the data set, although neither its name nor the task's TOML says that it is, must have all of
            them; where nothing else is found, nearly all. Must be cheap.

    Raises:
        InputError: Nowhere found: names every path tried and how to get the data. Or a file stands where a folder
            should be.
    """
    given = candidates(names)
    known = {PurePath(name).name for name in given}
    places = [(root, name) for root in roots for name in given if name != "."]
    places += [(root, ".") for root in roots if "." in given]
    tried = []
    half_copied = None
    for root, name in places:
        path = root / name
        reject_file(task, path)
        reason = objection(path) if os.path.isdir(path) else "no such folder"
        if reason is None and classes and name == "." and len(given) > 1 and root.absolute().name not in known:
            found, whole = classes(path)
            if whole is not None and found < whole:
                reason = f"it has {found:,} of {whole:,} class folders{_if_it_is(given, found, whole)}"
                if found >= whole - whole // _MISSING and half_copied is None:
                    half_copied = path
        if reason is None:
            return path
        tried.append(f"{path} ({reason})")
    if half_copied is not None:
        return half_copied
    raise InputError(
        f"the data of task {task.name} was not found. Looked for {wanted} at: {'; '.join(tried)}."
        f"{_if_it_is_the_root(roots, given, objection)} {how_to_get(task)}"
    )


def _if_it_is_the_root(roots: Sequence[Path], names: Sequence[str], objection: Callable[[Path], str | None]) -> str:
    """A sentence for a data root that looks like the data set itself, in place of the folder that holds it."""
    itself = next((root for root in roots if os.path.isdir(root) and objection(root) is None), None)
    if itself is None or "." in names:
        return ""
    return f' If {itself} is that folder itself, say root = "." under [files] of the TOML, or name the folder above it.'


def _if_it_is(names: Sequence[str], found: int, whole: int) -> str:
    """What to do with a folder that holds a good part of the classes, of which only its user knows whether it is the data."""
    named = next((PurePath(name).name for name in names if name != "."), None)
    if named is None or found < whole / 2:
        return ""
    return f"; if they are a part of this data, call that folder {named}, and say --partial to use them"


def reject_file(task: Task, path: Path) -> None:
    """Refuse a path that leads to or through a file where folders are needed.

    Raises:
        InputError: Names the file.
    """
    blocking = next((str(part) for part in (path, *path.parents) if os.path.isfile(part)), None)
    if blocking:
        raise InputError(
            f"{blocking} is a file, but task {task.name} needs a folder there"
            f"{'' if blocking == str(path) else f' (it looks for {path})'}. If it is the archive, unpack it; else move "
            "it aside or name another folder with --data-root."
        )


def how_to_get(task: Task) -> str:
    """How to get a task's data, as sentences for a message."""
    elsewhere = "If you have it already, name the folder that holds it with --data-root or LRBENCH_DATA."
    if isinstance(task.files, TorchvisionFiles) and not task.archives:
        has_download = is_downloadable(task.files)
    else:
        has_download = bool(task.archives) or isinstance(task.files, HubFiles)
    if has_download:
        by_hand = f" By hand: {task.manual}" if task.manual else ""
        return f"Fetch it with `lrbench data fetch {task.argument}` (and the same --data-root).{by_hand} {elsewhere}"
    if task.manual:
        return f"{task.manual} {elsewhere}"
    toml = "" if task.path is None else f", or correct `files` in {task.path} if it is called otherwise"
    return f"Copy it there{toml}. {elsewhere}"
