"""Images of a split that are files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.core.files import read_bytes, sha256_bytes
from lrbench.data.decode import MOST_IMAGE_BYTES, UndecodableImage, decode
from lrbench.data.jpeg import Bytes


@dataclass(frozen=True, kw_only=True)
class FileImages:
    """An `ImageSource` over files.

    Attributes:
        root: Folder of the images.
        paths: Path of each image relative to `root`.
        task: What stands for the task on a command line, for the advice in an error.
        upright: Whether the orientation that images' metadata state is applied.
    """

    root: Path
    paths: tuple[str, ...]
    task: str
    upright: bool = False

    def read(self, index: int) -> Bytes:
        """Image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: It cannot be read or decoded; the message names the file.
        """
        path = self.root / self.paths[index]
        try:
            content = read_bytes(path, limit=MOST_IMAGE_BYTES)
        except FileNotFoundError as error:
            raise UndecodableImage(str(path), "no such file or directory", self.task) from error
        except InputError as error:
            raise UndecodableImage(str(path), f"it {str(error).removeprefix(f'{path} ')}", self.task) from error
        return decode(content, str(path), task=self.task, upright=self.upright)

    def stamp(self) -> str:
        """SHA-256 over every file's name, size and modification time; a file that is gone counts as such."""
        return hash_file_stats(self.root, self.paths)[0]

    def content(self) -> str:
        """SHA-256 over every file's size."""
        return hash_file_stats(self.root, self.paths)[1]


def hash_file_stats(root: Path, paths: Sequence[str]) -> tuple[str, str]:
    """What the files `paths` in `root` are, without reading them; one that is gone counts as such.

    Returns:
        SHA-256 over names, sizes and modification times, and SHA-256 over the sizes alone, which copies share.
    """
    lines, sizes = [], []
    for path in paths:
        try:
            status = os.stat(os.path.join(root, path))
            lines.append(f"{status.st_size} {status.st_mtime_ns} {path}")
            sizes.append(str(status.st_size))
        except (OSError, ValueError):
            # A name with a null byte is no name of a file.
            lines.append(f"gone {path}")
            sizes.append("gone")
    return sha256_bytes("\n".join(lines).encode(errors="surrogateescape")), sha256_bytes("\n".join(sizes).encode())
