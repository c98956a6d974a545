"""Members of an archive, and the limits on what an archive may unpack to."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 18
"""Bytes that are decompressed and written at a time."""
BLOCK_BYTES = 512
"""Block size of a tar file, also charged for each zip member so that empty members are not free."""
BASE_BYTES = 1 << 30
"""Bytes that an archive of any size may unpack to."""
EXPANSION_RATIO = 50
"""Additional bytes that an archive may unpack to, as a multiple of its size; archives of images rarely exceed 5."""

SPECIAL_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip
"""Names of the Unix file types that are not extracted."""


class RefusedArchive(Exception):
    """An archive that is readable but not extracted; the message gives the reason as a clause."""


@dataclass
class SizeBudget:
    """Number of bytes that an archive may unpack to.

    Attributes:
        total: Largest number of bytes.
        used: Bytes decompressed so far.
    """

    total: int
    used: int = 0

    @classmethod
    def for_archive(cls, path: Path) -> "SizeBudget":
        """Return the budget of an archive file, which grows with its size."""
        return cls(BASE_BYTES + EXPANSION_RATIO * path.stat().st_size)

    def spend(self, size: int) -> None:
        """Count decompressed bytes.

        Raises:
            RefusedArchive: The archive exceeds the budget.
        """
        self.used += size
        if self.used > self.total:
            raise RefusedArchive(
                f"it unpacks to more than {self.total:,} bytes ({BASE_BYTES:,} plus {EXPANSION_RATIO} times its size), "
                "as a decompression bomb does"
            )


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file or folder in an archive. `content` can be read once, before the next member is requested."""

    name: str
    is_folder: bool
    content: Iterator[bytes]
