"""Members of a tar file, compressed or not.

tarfile parses single headers only. Several Python releases of it write outside the target folder, loop, or read a header of
any size into memory (CVE-2024-12718, CVE-2025-4138, -4330, -4517, -8194).
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lrbench.data.archives.members import BLOCK_BYTES, CHUNK_BYTES, Member, RefusedArchive, SizeBudget

# Longer paths are refused anyway.
_MAX_HEADER_BYTES = 1 << 16
# The xz format allows a file to request 4 GiB; the strongest preset needs 65 MiB.
_MAX_XZ_MEMORY = 1 << 28
_SPARSE = "a sparse file"
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: _SPARSE,
}  # fmt: skip


class TarStream:
    """Decompressed bytes of a tar file, read in order.

    Args:
        packed: The file.
        budget: Number of bytes that it may unpack to.
        chunk_bytes: Bytes that are decompressed at a time.
    """

    def __init__(self, packed: BinaryIO, budget: SizeBudget, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunks = _decompress(packed, chunk_bytes)
        self._budget = budget
        self._chunk = b""
        self._offset = 0

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer only at the end."""
        content = self._chunk[self._offset : self._offset + size]
        self._offset += len(content)
        while len(content) < size and (chunk := next(self._chunks, b"")):
            self._budget.spend(len(chunk))
            self._chunk, self._offset = chunk, size - len(content)
            content += chunk[: self._offset]
        return content

    def read_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            EOFError: Fewer bytes are left.
        """
        content = self.read(size)
        if len(content) < size:
            raise EOFError("it ends within a member")
        return content

    def read_chunks(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in chunks, then skip the padding to a whole block."""
        padding = -size % BLOCK_BYTES
        while size:
            chunk = self.read_exactly(min(size, CHUNK_BYTES))
            size -= len(chunk)
            yield chunk
        self.read_exactly(padding)


def is_tar(path: Path) -> bool:
    """Return whether the first header of a file, compressed or not, is that of a tar file."""
    with (
        suppress(tarfile.TarError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error),
        path.open("rb") as packed,
    ):
        # One block at a time, so that a truncated archive is recognised too.
        stream = TarStream(packed, SizeBudget.for_archive(path), chunk_bytes=BLOCK_BYTES)
        block = stream.read_exactly(BLOCK_BYTES)
        return not any(block) or bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"))
    return False


def tar_members(stream: TarStream) -> Iterator[Member]:
    """Yield the members of a tar file in order.

    Raises:
        RefusedArchive: A member is neither a file nor a folder.
        tarfile.TarError, EOFError: The archive is damaged.
    """
    next_records: dict[str, str] = {}
    global_records: dict[str, str] = {}
    while block := stream.read(BLOCK_BYTES):
        if len(block) < BLOCK_BYTES:
            raise EOFError("it ends within a header")
        if not any(block):
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.size < 0:
            raise tarfile.ReadError("a header has a negative size")
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            long_name = _read_extended_header(stream, header.size).partition(b"\0")[0]
            if header.type == tarfile.GNUTYPE_LONGNAME:
                next_records["path"] = long_name.decode(errors="surrogateescape")
            continue
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            records = _parse_pax(_read_extended_header(stream, header.size))
            (global_records if header.type == tarfile.XGLTYPE else next_records).update(records)
            continue
        records, next_records = {**global_records, **next_records}, {}
        name = records.get("path", header.name)
        is_folder = header.isdir() or name.endswith("/")
        is_sparse = "sparse" in records
        if is_sparse or not (is_folder or header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)):
            kind = _SPARSE if is_sparse else _KINDS.get(header.type, "of an unknown type")
            raise RefusedArchive(f"its member {name[:80]!r} is {kind}")
        content: Iterator[bytes] = (
            iter(()) if header.isdir() else stream.read_chunks(_content_size(records, header.size))
        )
        yield Member(name=name, is_folder=is_folder, content=content)
        # Skip what the caller did not read.
        for _ in content:
            pass


def _content_size(records: dict[str, str], header_size: int) -> int:
    size = records.get("size", str(header_size))
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise tarfile.ReadError("an extended header has an invalid size")
    return int(size)


def _read_extended_header(stream: TarStream, size: int) -> bytes:
    if size > _MAX_HEADER_BYTES:
        raise tarfile.ReadError(f"it has an extended header of {size:,} bytes")
    content = stream.read_exactly(size)
    stream.read_exactly(-size % BLOCK_BYTES)
    return content


def _parse_pax(content: bytes) -> dict[str, str]:
    """Return `path`, `size` and, for a sparse member, `sparse` from a pax header of `length key=value` lines."""
    records, start = {}, 0
    content = content.rstrip(b"\0")
    while start < len(content):
        digits, space, _ = content[start : start + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = content[start + len(digits) + 1 : start + length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise tarfile.ReadError("an extended header is damaged")
        if key in (b"path", b"size"):
            records[key.decode()] = value.decode(errors="surrogateescape")
        elif key.startswith(b"GNU.sparse."):
            records["sparse"] = ""
        start += length
    return records


def _decompress(packed: BinaryIO, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a gzip, bzip2, xz or uncompressed file, at most `chunk_bytes` at a time."""
    start = packed.read(6)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=packed) as unzipped:
            yield from iter(lambda: unzipped.read(chunk_bytes), b"")
    elif start.startswith(b"BZh"):
        yield from _decompress_streams(packed, chunk_bytes, bz2.BZ2Decompressor)
    elif start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        yield from _decompress_streams(packed, chunk_bytes, lambda: lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY))
    else:
        yield from iter(lambda: packed.read(chunk_bytes), b"")


def _decompress_streams(packed: BinaryIO, chunk_bytes: int, make: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress concatenated streams, as parallel bzip2 and xz write them."""
    decompressor, data = make(), b""
    while True:
        if decompressor.eof:
            data = decompressor.unused_data or packed.read(CHUNK_BYTES)
            if not data.strip(b"\0"):
                return
            decompressor = make()
        elif decompressor.needs_input and not (data := packed.read(CHUNK_BYTES)):
            raise EOFError("its compressed data is truncated")
        decompressed, data = decompressor.decompress(data, chunk_bytes), b""
        if decompressed:
            yield decompressed
