"""Creating files and folders below one folder without following links."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class SafeTree:
    """Creates files and folders below `folder` through file descriptors, so that no link is followed.

    Use it as a context manager.
    """

    def __init__(self, folder: Path) -> None:
        self._top = os.open(folder, _FOLDER)
        self._parts: list[str] = []
        self._handle = os.dup(self._top)

    def __enter__(self) -> "SafeTree":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        os.close(self._top)

    def make_folder(self, parts: list[str]) -> int:
        """Create a folder and its missing parents.

        Returns:
            A descriptor of the folder that stays open until the next call.

        Raises:
            OSError: A file or a link has its name.
        """
        if parts != self._parts:
            handle = os.dup(self._top)
            try:
                for part in parts:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                    inner = os.open(part, _FOLDER, dir_fd=handle)
                    os.close(handle)
                    handle = inner
            except OSError:
                os.close(handle)
                raise
            os.close(self._handle)
            self._parts, self._handle = parts, handle
        return self._handle

    def create_file(self, parts: list[str]) -> BinaryIO:
        """Create a file and open it for writing; an existing file or link of that name is replaced."""
        folder = self.make_folder(parts[:-1])
        try:
            handle = os.open(parts[-1], _NEW_FILE, 0o666, dir_fd=folder)
        except FileExistsError:
            os.unlink(parts[-1], dir_fd=folder)
            handle = os.open(parts[-1], _NEW_FILE, 0o666, dir_fd=folder)
        return os.fdopen(handle, "wb")
