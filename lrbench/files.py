"""Whole files or none: atomic writes, canonical JSON and hashes."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrbench.errors import FailureError, InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What moves the files that lrbench writes.
_WHERE = "data with --data-root or LRBENCH_DATA, all else with LRBENCH_HOME"


@contextmanager
def writing(path: Path, *, then: str = "it goes on from what is there") -> Iterator[None]:
    """Turn an operating-system error met while writing `path` into one clear paragraph.

    Args:
        path: What is written.
        then: What the same command does when there is room again.

    Raises:
        FailureError: The disk is full or the write failed; what was there before is untouched.
        InputError: Something that is not a folder stands where a folder is needed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise FailureError(
                f"{path} could not be written: {os.strerror(error.errno or 0).lower()}. Nothing already saved was "
                f"touched. Free some space, or choose a larger disk ({_WHERE}), and run the same command again; {then}."
            ) from error
        if error.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
            blocked = next((p for p in [path, *path.parents] if p.exists() and not p.is_dir()), path)
            raise InputError(
                f"{path} cannot be written: {blocked} stands in the way ({os.strerror(error.errno).lower()}). Move it "
                f"aside, or choose another folder ({_WHERE})."
            ) from error
        if error.errno == errno.ENOENT and not path.parent.exists():
            stands = next(p for p in path.absolute().parents if p.exists())
            raise InputError(
                f"{path} cannot be written: no folder can be made in {stands}. Choose another place ({_WHERE})."
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise InputError(
                f"{path} cannot be written: {os.strerror(error.errno).lower()}. Change its permissions, or choose "
                f"another folder ({_WHERE})."
            ) from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it into place.

    A reader sees the old file or the whole new one, also after a power cut: the file is synced before the rename and
    the folder after it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes files only their owner can read; results are meant to be shared.
            os.chmod(temporary, 0o666 & ~_UMASK)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8 with the line ends it has."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def canonical_json(value: Any) -> str:
    """The one JSON spelling of `value`: sorted keys, no spaces, so that equal content has equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of `value`."""
    return sha256_bytes(canonical_json(value).encode())


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


# Asked once, while there is one thread: asking sets it for a moment.
_UMASK = _umask()
