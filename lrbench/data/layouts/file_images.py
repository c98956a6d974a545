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
        task: The task as a command-line argument, for error messages.
        upright: Whether the orientation in the images' metadata is applied.
    """

    root: Path
    paths: tuple[str, ...]
    task: str
    upright: bool = False

    def read(self, index: int) -> Bytes:
        """Return image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: It cannot be read or decoded; names the file.
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
        """Return the SHA-256 over every file's name, size and modification time."""
        return hash_file_stats(self.root, self.paths)[0]

    def content(self) -> str:
        """Return the SHA-256 over every file's size."""
        return hash_file_stats(self.root, self.paths)[1]


def hash_file_stats(root: Path, paths: Sequence[str]) -> tuple[str, str]:
    """Hash the metadata of the files `paths` in `root` without reading them; a missing file is hashed as missing.

    Returns:
        SHA-256 over names, sizes and modification times, and SHA-256 over sizes alone, which copies share.
    """
    lines, sizes = [], []
    for path in paths:
        try:
            status = os.stat(os.path.join(root, path))
            lines.append(f"{status.st_size} {status.st_mtime_ns} {path}")
            sizes.append(str(status.st_size))
        except (OSError, ValueError):
            # ValueError: a name with a null byte.
            lines.append(f"gone {path}")
            sizes.append("gone")
    return sha256_bytes("\n".join(lines).encode(errors="surrogateescape")), sha256_bytes("\n".join(sizes).encode())
