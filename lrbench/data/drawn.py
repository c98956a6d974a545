"""Splits that lrbench drew: written down, so that they do not rest on a seed and a version of this program."""

from pathlib import Path

from lrbench.data.examples import TaskData
from lrbench.files import sha256_bytes, write_text


def keep_drawn_split(folder: Path, data: TaskData) -> str:
    """Write the list of a drawn split's test images down, unless it is there.

    The file has the form that a `listed` split names with its hash, so that a split once drawn can be pinned.

    Args:
        folder: Where lists lie; the file is `<task>-<start of its hash>.txt`.
        data: A task whose split was drawn.

    Returns:
        The file's SHA-256.

    Raises:
        ValueError: The task brings its own split.
        FailureError: The disk is full.
    """
    content = data.drawn_list
    if content is None:
        raise ValueError(f"the split of task {data.task.name} was not drawn")
    digest = sha256_bytes(content.encode())
    path = folder / f"{data.task.name}-{digest[:16]}.txt"
    if not path.is_file():
        write_text(path, content)
    return digest
