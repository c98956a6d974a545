"""Many references at once: folders of snapshots, and files with one reference on each line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes, user_path
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.store.references import OTHER_FORMATS, Reference, resolve_reference
from lrbench.store.snapshots import snapshot_files

LIST = ".txt"
"""Ending of a file of references."""
_LARGEST_LIST = 1 << 20


def resolve_references(
    texts: Sequence[str], workspace: Workspace, *, suite: str | None = None, arm: str | None = None
) -> dict[str, Reference]:
    """Resolve references, folders and lists; nothing is loaded.

    Args:
        texts: References as in `resolve_reference`; folders, which stand for all snapshots in them; `foreign` for all imported
            snapshots; and `.txt` files with one of these on each line. Empty lines and those that start with `#` are skipped.
        workspace: Workspace of the snapshots.
        suite: Suite of references that name none; None for the suite pretrained last.
        arm: Arm of references that name none; None for `step`.

    Returns:
        The references by the text that first named them, each reference once.

    Raises:
        InputError: A text is not a reference, or a folder or list has none.
    """
    named: dict[str, Reference] = {}
    known = set()
    for text in texts:
        for inner, reference in _expand(text, workspace, suite, arm):
            if reference.text not in known:
                known.add(reference.text)
                named[inner] = reference
    return named


def _expand(text: str, workspace: Workspace, suite: str | None, arm: str | None) -> Iterator[tuple[str, Reference]]:
    if not is_list(text):
        yield from _expand_entry(text, workspace, suite, arm)
        return
    path = user_path(text)
    try:
        lines = read_bytes(path, limit=_LARGEST_LIST).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text. Write one reference on each line.") from None
    entries = {number: line.strip() for number, line in enumerate(lines, start=1)}
    entries = {number: entry for number, entry in entries.items() if entry and not entry.startswith("#")}
    if not entries:
        raise InputError(f"{path} names no snapshots. Write one reference on each line.")
    for number, entry in entries.items():
        try:
            yield from _expand_entry(entry, workspace, suite, arm)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error


def _expand_entry(
    text: str, workspace: Workspace, suite: str | None, arm: str | None
) -> Iterator[tuple[str, Reference]]:
    folder = snapshot_folder(text, workspace)
    if folder is None:
        yield text, resolve_reference(text, workspace, suite=suite, arm=arm)
    else:
        for reference in references_in(folder, workspace):
            yield reference.text, reference


def is_list(text: str) -> bool:
    """Return whether a text names a file of references."""
    return text.lower().endswith(LIST)


def is_several(text: str, workspace: Workspace) -> bool:
    """Return whether a text stands for several references, be it a folder or a list, however many are in it."""
    return is_list(text) or snapshot_folder(text, workspace) is not None


def snapshot_folder(text: str, workspace: Workspace) -> Path | None:
    """Return the folder that a text names, or None if it names none.

    Args:
        text: A path relative to the current folder or to the workspace, or `foreign`.
        workspace: Holds the snapshots.
    """
    path = user_path(text)
    candidates = [path, workspace.root / path] if path.parts else []
    if text.rstrip("/") == FOREIGN:
        candidates.append(workspace.checkpoints / FOREIGN)
    return next((folder for folder in candidates if folder.is_dir()), None)


def references_in(folder: Path, workspace: Workspace) -> list[Reference]:
    """Resolve the snapshots in a folder and its subfolders, sorted by path.

    Raises:
        InputError: There is none.
    """
    paths = snapshot_files(folder)
    if not paths:
        raise InputError(f"{folder} holds no .safetensors file. Add other weights with `lrbench snapshots add`.")
    return [resolve_reference(str(path), workspace) for path in paths]


def other_weights_in(folder: Path) -> list[str]:
    """Paths of the files in a folder and its subfolders that look like weights in another format than safetensors."""
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in OTHER_FORMATS)
