"""Lists of images that lrbench drew at random, written to files so that a split does not depend on the drawing code."""

from collections.abc import Sequence
from pathlib import Path

from lrbench.core.files import sha256_bytes, sha256_file, write_text
from lrbench.data.examples import TaskData


def write_drawn_split(folder: Path, data: TaskData) -> str:
    """Write the test images of a drawn split to a list, unless the list exists.

    A task can name the list and its hash in a `listed` split, which pins the split.

    Args:
        folder: Folder of the lists.
        data: A task whose split was drawn.

    Returns:
        SHA-256 of the list.

    Raises:
        ValueError: The split was not drawn.
        FailureError: The disk is full.
    """
    if data.drawn_list is None:
        raise ValueError(f"the split of task {data.task.name} was not drawn")
    return _write_list(folder, data.task.name, data.drawn_list)


def write_image_list(folder: Path, name: str, head: str, lines: Sequence[str]) -> str:
    """Write a list of images, unless the list exists.

    Args:
        folder: Folder of the lists; the file is `<name>-<first digits of its hash>.txt`.
        name: Start of the file name.
        head: First line, which begins with `#`.
        lines: Names of the images.

    Returns:
        SHA-256 of the list.

    Raises:
        FailureError: The disk is full.
    """
    return _write_list(folder, name, "\n".join([head, *lines, ""]))


def _write_list(folder: Path, name: str, content: str) -> str:
    digest = sha256_bytes(content.encode())
    path = folder / f"{name}-{digest[:16]}.txt"
    # The name contains the hash, so a truncated or edited file is replaced.
    if not path.is_file() or sha256_file(path) != digest:
        write_text(path, content)
    return digest
