"""Images that lrbench drew: written down, so that they do not rest on a seed and a version of this program."""

from collections.abc import Sequence
from pathlib import Path

from lrbench.core.files import sha256_bytes, sha256_file, write_text
from lrbench.data.examples import TaskData


def keep_drawn_split(folder: Path, data: TaskData) -> str:
    """Write the list of a drawn split's test images down, unless it is there.

    The file has the form that a `listed` split names with its hash, so that a split once drawn can be pinned.

    Args:
        folder: Where lists lie.
        data: A task whose split was drawn.

    Returns:
        The file's SHA-256.

    Raises:
        ValueError: The task brings its own split.
        FailureError: The disk is full.
    """
    if data.drawn_list is None:
        raise ValueError(f"the split of task {data.task.name} was not drawn")
    return _keep(folder, data.task.name, data.drawn_list)


def keep_list(folder: Path, name: str, head: str, lines: Sequence[str]) -> str:
    """Write a list of images down, unless it is there; gives its SHA-256.

    Args:
        folder: Where lists lie; the file is `<name>-<start of its hash>.txt`.
        name: What it is of.
        head: Its first line, which begins with `#`.
        lines: The images.

    Raises:
        FailureError: The disk is full.
    """
    return _keep(folder, name, "\n".join([head, *lines, ""]))


def _keep(folder: Path, name: str, content: str) -> str:
    digest = sha256_bytes(content.encode())
    path = folder / f"{name}-{digest[:16]}.txt"
    # A file that was cut short or edited is written again: its name says what it holds.
    if not path.is_file() or sha256_file(path) != digest:
        write_text(path, content)
    return digest
