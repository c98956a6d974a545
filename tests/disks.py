"""A small file system of its own for a test, and faults of storage at the moment when one file is written."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MEGABYTES = 16


class Disk:
    """A folder on a small file system that can be filled and made read-only, also for root.

    Where nothing can be mounted (no root, no privilege), the errors that a full or read-only disk gives are raised
    instead at the opening of files in it for writing.

    Attributes:
        folder: The file system's root.
        mounted: Whether it is really a file system.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        size = f"size={_MEGABYTES}m"
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
        self.mounted = subprocess.run(command, capture_output=True).returncode == 0
        self.refuses: int | None = None

    def fill(self) -> None:
        """Leave no free byte."""
        if not self.mounted:
            self.refuses = errno.ENOSPC
            return
        block = bytes(1 << 16)
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(block):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def read_only(self) -> None:
        """Refuse every change."""
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(self.folder)], check=True)
        else:
            self.refuses = errno.EROFS

    def restore(self) -> None:
        """Make it writable and free its space."""
        self.refuses = None
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,bind,rw", str(self.folder)], check=True)
            (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Give it back, also while it is the current folder."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


# An audit hook cannot be removed, so that one serves all tests.
_ON_OPENING: list[Callable[[str], None]] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _ON_OPENING:
        path, _, flags = arguments
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            for seen in tuple(_ON_OPENING):
                seen(os.fsdecode(path))


sys.addaudithook(_audit)


@contextmanager
def on_opening(seen: Callable[[str], None]) -> Iterator[None]:
    """Call `seen` with the path of every file that is about to be opened for writing."""
    _ON_OPENING.append(seen)
    try:
        yield
    finally:
        _ON_OPENING.remove(seen)


def final_name(path: str) -> str:
    """The name that a temporary file will have."""
    name = Path(path).name
    return re.sub(r"^\.(.*)\.[0-9a-f]{8}-\d+-\d+-[0-9a-f]{8}\.part$", r"\1", name)
