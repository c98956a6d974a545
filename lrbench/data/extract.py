"""Extracting tar and zip files: files and folders only, each created below one folder without following links.

`tarfile` and `zipfile` of several Python releases write outside the target folder, loop, or read a header of any size into
memory (CVE-2024-12718, CVE-2025-4138, -4330, -4517, -8194). Here zipfile lists and decompresses members, tarfile parses single
headers, and no member is created by either.
"""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lrbench.config.paths import path_problem
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.data.unpacked import MARKER

_CHUNK = 1 << 18
_BLOCK = 512
# A path in an extended header; longer ones are refused anyway.
_LONGEST_HEADER = 1 << 16
LEAST_ROOM = 1 << 30
"""Bytes that an archive may unpack to however small it is."""
ROOM_RATIO = 50
"""Times its own size that an archive may unpack to beyond that; archives of images rarely exceed 5."""

_TAR_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip
_UNIX_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


class RefusedArchive(Exception):
    """An archive that is not damaged and is still not unpacked; the message says why, as a clause."""


@dataclass
class Room:
    """Bytes that an archive may still unpack to.

    Attributes:
        total: Bytes that it may unpack to in all.
        taken: Bytes that it took. A member counts as one block even where it is empty.
    """

    total: int
    taken: int = 0

    @classmethod
    def of(cls, path: Path) -> "Room":
        """The room of an archive, by its size."""
        return cls(LEAST_ROOM + ROOM_RATIO * path.stat().st_size)

    def take(self, size: int) -> None:
        """Count what was decompressed.

        Raises:
            RefusedArchive: It is too much.
        """
        self.taken += size
        if self.taken > self.total:
            raise RefusedArchive(
                f"it holds more than {self.total:,} bytes, {ROOM_RATIO} times its own size and {LEAST_ROOM:,}, as archives do "
                "that are made to fill a disk"
            )


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A file or a folder of an archive; `content` is read once, before the next member is asked for."""

    name: str
    is_folder: bool
    content: Iterator[bytes]


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar, compressed or not, or a zip, by its first header or its last bytes."""
    return _is_tar(path) or zipfile.is_zipfile(path)


def extract(path: Path, folder: Path, room: Room, control: Control) -> None:
    """Extract an archive into an empty folder.

    Permissions, owners and times are not taken from the archive. Of two members of one name the later counts.

    Args:
        path: A tar, compressed by gzip, bzip2 or xz or not, or a zip.
        folder: Where to; it is not a link.
        room: How much may be written.
        control: Told how far it is; may stop it.

    Raises:
        RefusedArchive: A link, a device, a name that leads out or that file systems do not take, or too many bytes.
        InterruptedWork: Asked to stop.
        Exception: What zipfile, tarfile and the decompressors raise for damage, and the system's own errors.
    """
    size = path.stat().st_size
    with path.open("rb") as packed, _Tree(folder) as tree:
        if _is_tar(path):
            stream = _Stream(packed, room)
            for member in _tar_members(stream):
                _extract_member(member, tree, path, control)
                control.progress(packed.tell(), size, "bytes")
            # Compressed data has its checksum at the end, after the last member.
            while stream.read(_CHUNK):
                _stop_if_asked(path, control)
            return
        with zipfile.ZipFile(packed) as archive:
            sizes = [info.compress_size for info in archive.infolist()]
            total, done = sum(sizes), 0
            for member, member_size in zip(_zip_members(archive, room), sizes, strict=True):
                _extract_member(member, tree, path, control)
                done += member_size
                control.progress(done, total, "bytes")


def refuse_other_kinds(folder: Path) -> None:
    """Refuse a tree that holds anything but files and folders.

    Raises:
        RefusedArchive: Names the first that is neither.
    """
    for parent, folders, files, handle in os.fwalk(folder):
        for name in (*folders, *files):
            mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                kind = _UNIX_KINDS.get(stat.S_IFMT(mode), "neither a file nor a folder")
                raise RefusedArchive(f"{Path(parent, name).relative_to(folder)} in it is {kind}")


def _stop_if_asked(path: Path, control: Control) -> None:
    if control.stop_requested():
        raise InterruptedWork(f"stopped while {path} was unpacked. Run the same command again to unpack it.")


def _extract_member(member: _Member, tree: "_Tree", path: Path, control: Control) -> None:
    _stop_if_asked(path, control)
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.is_folder and not parts and member.name:
        return
    problem = path_problem("/".join(["", *parts] if member.name.startswith("/") else parts))
    # macOS keeps a folder's icon in a file of this name.
    if parts[-1:] == ["Icon\r"]:
        return
    if problem:
        raise RefusedArchive(f"its member {member.name[:80]!r} {problem}")
    # The mark says what lrbench itself unpacked.
    if MARKER in parts:
        return
    if member.is_folder:
        tree.make_folder(parts)
        return
    with tree.create(parts) as file:
        for piece in member.content:
            _stop_if_asked(path, control)
            file.write(piece)


class _Tree:
    """Creates files and folders below a folder, through descriptors, so that no link is followed."""

    def __init__(self, folder: Path) -> None:
        self._top = os.open(folder, _FOLDER)
        self._parts: list[str] = []
        self._handle = os.dup(self._top)

    def __enter__(self) -> "_Tree":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        os.close(self._top)

    def make_folder(self, parts: list[str]) -> int:
        """Make a folder and those above it where they are missing; return a descriptor that stays open until the next call.

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

    def create(self, parts: list[str]) -> BinaryIO:
        """Create a file, in place of one of the same name."""
        folder = self.make_folder(parts[:-1])
        try:
            handle = os.open(parts[-1], _NEW_FILE, 0o666, dir_fd=folder)
        except FileExistsError:
            os.unlink(parts[-1], dir_fd=folder)
            handle = os.open(parts[-1], _NEW_FILE, 0o666, dir_fd=folder)
        return os.fdopen(handle, "wb")


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Stream:
    """The bytes of a tar, decompressed piece by piece."""

    def __init__(self, packed: BinaryIO, room: Room, *, piece: int = _CHUNK) -> None:
        self._pieces = _decompressed(packed, piece)
        self._room = room
        self._piece = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end. Callers bound `size`."""
        taken = self._piece[self._at : self._at + size]
        self._at += len(taken)
        while len(taken) < size and (piece := next(self._pieces, b"")):
            self._room.take(len(piece))
            self._piece, self._at = piece, size - len(taken)
            taken += piece[: self._at]
        return taken

    def exactly(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            EOFError: There are fewer.
        """
        taken = self.read(size)
        if len(taken) < size:
            raise EOFError("it ends in the midst of a member")
        return taken

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next bytes in pieces, and the padding to a whole block after them left out."""
        padding = -size % _BLOCK
        while size:
            piece = self.exactly(min(size, _CHUNK))
            size -= len(piece)
            yield piece
        self.exactly(padding)


def _decompressed(packed: BinaryIO, piece: int) -> Iterator[bytes]:
    """The pieces of a compressed file, or of one that is not compressed; each has at most `piece` bytes."""
    start = packed.read(6)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=packed) as unzipped:
            yield from iter(lambda: unzipped.read(piece), b"")
    elif start.startswith(b"BZh"):
        yield from _streams(packed, piece, bz2.BZ2Decompressor)
    elif start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        # The memory that the format lets a file ask for is 4 GiB; the strongest preset takes 65 MiB.
        yield from _streams(packed, piece, lambda: lzma.LZMADecompressor(memlimit=1 << 28))
    else:
        yield from iter(lambda: packed.read(piece), b"")


def _streams(packed: BinaryIO, piece: int, make: Callable[[], Any]) -> Iterator[bytes]:
    """The pieces of one compressed stream after another, as bzip2 and xz write where they compress in parallel."""
    decompressor, data = make(), b""
    while True:
        if decompressor.eof:
            data = decompressor.unused_data or packed.read(_CHUNK)
            if not data.strip(b"\0"):
                return
            decompressor = make()
        elif decompressor.needs_input and not (data := packed.read(_CHUNK)):
            raise EOFError("its compressed data ended before their end was marked")
        decompressed, data = decompressor.decompress(data, piece), b""
        if decompressed:
            yield decompressed


def _is_tar(path: Path) -> bool:
    with (
        suppress(tarfile.TarError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error),
        path.open("rb") as packed,
    ):
        # No further than that, so that an archive whose end is missing is one.
        block = _Stream(packed, Room.of(path), piece=_BLOCK).exactly(_BLOCK)
        return not any(block) or bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"))
    return False


def _tar_members(stream: _Stream) -> Iterator[_Member]:
    """The members of a tar, in order.

    Raises:
        RefusedArchive: One is neither a file nor a folder.
        tarfile.TarError, EOFError: It is damaged.
    """
    extended: dict[str, str] = {}
    for_all: dict[str, str] = {}
    while block := stream.read(_BLOCK):
        if len(block) < _BLOCK:
            raise EOFError("it ends in the midst of a header")
        if not any(block):
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.size < 0:
            raise tarfile.ReadError("a header has a negative size")
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            long_name = _extension(stream, header.size).partition(b"\0")[0]
            if header.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = long_name.decode(errors="surrogateescape")
            continue
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            records = _records(_extension(stream, header.size))
            (for_all if header.type == tarfile.XGLTYPE else extended).update(records)
            continue
        told, extended = {**for_all, **extended}, {}
        name = told.get("path", header.name)
        is_folder = header.isdir() or name.endswith("/")
        sparse = "sparse" in told
        if sparse or not (is_folder or header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)):
            kind = _TAR_KINDS[tarfile.GNUTYPE_SPARSE] if sparse else _TAR_KINDS.get(header.type, "of an unknown type")
            raise RefusedArchive(f"its member {name[:80]!r} is {kind}")
        if not header.isdir():
            content = stream.pieces(_size(told, header.size))
            yield _Member(name=name, is_folder=is_folder, content=content)
            # Whoever did not want it.
            for _ in content:
                pass
        else:
            yield _Member(name=name, is_folder=True, content=iter(()))


def _size(told: dict[str, str], size: int) -> int:
    written = told.get("size", str(size))
    if not (written.isascii() and written.isdigit() and len(written) < 20):
        raise tarfile.ReadError("an extended header tells no size that can be")
    return int(written)


def _extension(stream: _Stream, size: int) -> bytes:
    """The content of a header that extends the one after it."""
    if size > _LONGEST_HEADER:
        raise tarfile.ReadError(f"it has an extended header of {size:,} bytes")
    content = stream.exactly(size)
    stream.exactly(-size % _BLOCK)
    return content


def _records(content: bytes) -> dict[str, str]:
    """Path, size and whether a member is sparse, from a pax header: records of `length key=value` and a line feed."""
    records, start = {}, 0
    content = content.rstrip(b"\0")
    while start < len(content):
        written, space, _ = content[start : start + 20].partition(b" ")
        length = int(written) if space and written.isdigit() else 0
        record = content[start + len(written) + 1 : start + length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise tarfile.ReadError("an extended header is damaged")
        if key in (b"path", b"size"):
            records[key.decode()] = value.decode(errors="surrogateescape")
        elif key.startswith(b"GNU.sparse."):
            records["sparse"] = ""
        start += length
    return records


def _zip_members(archive: zipfile.ZipFile, room: Room) -> Iterator[_Member]:
    """The members of a zip, in order.

    Raises:
        RefusedArchive: One is neither a file nor a folder, or compressed in a way that needs memory without bound.
    """
    for info in archive.infolist():
        # Windows programs write backslashes, which the format does not allow; zipfile cuts a name at a null byte.
        name = info.orig_filename.replace("\\", "/")
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system in _UNIX_SYSTEMS else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise RefusedArchive(f"its member {name[:80]!r} is {_UNIX_KINDS.get(kind, 'of an unknown type')}")
        is_folder = kind == stat.S_IFDIR or name.endswith("/")
        if not is_folder and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedArchive(f"its member {name[:80]!r} is compressed by method {info.compress_type}")
        room.take(_BLOCK)
        yield _Member(name=name, is_folder=is_folder, content=_zip_content(archive, info, room))


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: Room) -> Iterator[bytes]:
    with archive.open(info) as content:
        while piece := content.read(_CHUNK):
            room.take(len(piece))
            yield piece


# Unix, and macOS.
_UNIX_SYSTEMS = (3, 19)
