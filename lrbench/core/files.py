"""Atomic writes, bounded reads, canonical JSON and hashes."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lrbench.core.errors import FailureError, InputError, as_sentence
from lrbench.core.leftovers import remove_leftovers, temporary_name

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A file where a folder is needed, or the reverse.
_BLOCKED = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY}
# Options that choose another folder.
_OPTIONS = "--data-root or LRBENCH_DATA for data, LRBENCH_HOME for everything else"


@contextmanager
def writing(path: Path, *, then: str = "it continues from what is saved") -> Iterator[None]:
    """Convert a system error raised while `path` is written to an error for users.

    Args:
        path: File or folder that is written.
        then: What the same command does when it is run again.

    Raises:
        FailureError: The disk is full or the write failed. Existing files are unchanged.
        InputError: `path` cannot be written: a file instead of a folder, missing permissions, a name that is too long.
    """
    try:
        yield
    except OSError as error:
        # Raised by a library, for example by a download.
        if error.errno is None:
            raise
        reason = os.strerror(error.errno).lower()
        if error.errno in _NO_ROOM:
            raise FailureError(
                f"{path} could not be written: {reason}. Existing files are unchanged. Free some space or choose a larger disk "
                f"({_OPTIONS}), and run the same command again; {then}."
            ) from error
        if error.errno in _BLOCKED:
            blocked = next((p for p in [path, *path.parents] if os.path.lexists(p) and not p.is_dir()), path)
            raise InputError(
                f"{path} cannot be written: {blocked} is in the way ({reason}). Move it, or choose another folder "
                f"({_OPTIONS})."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"{path} cannot be written: {reason}. Choose a shorter name or folder ({_OPTIONS})."
            ) from error
        if error.errno == errno.ENOENT and not path.parent.exists():
            parent = next(p for p in path.absolute().parents if p.exists())
            raise InputError(
                f"{path} cannot be written: no folder can be created in {parent}. Choose another folder ({_OPTIONS})."
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise InputError(
                f"{path} cannot be written: {reason}. Change its permissions, or choose another folder ({_OPTIONS})."
            ) from error
        if error.errno == errno.ENOENT:
            # Another process removed a file.
            raise
        many = error.errno in {errno.EMFILE, errno.ENFILE}
        remedy = "Raise the limit (`ulimit -n`)" if many else "Check the disk or the network file system"
        raise FailureError(
            f"{path} could not be written: {reason}. Existing files are unchanged. {remedy}, and run the same command again; "
            f"{then}."
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success, flush it to disk and rename it to `path`.

    A reader sees the old file or the complete new one, also after a power cut: the file is synced before the rename and
    the folder after it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except FileNotFoundError as error:
            # The error may come from the body of the `with` block.
            if temporary.exists():
                raise
            raise _vanished(path, temporary) from error
        finally:
            # The next command removes a file that stays.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success, move its content to `path`, which must be missing or empty."""
    with writing(path, then="it starts again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers([path.parent], below=False)
        temporary = temporary_name(path)
        temporary.mkdir()
        try:
            yield temporary
            if path.is_dir():
                # A shell may have it as its current folder, so it is not replaced.
                for content in sorted(temporary.iterdir()):
                    os.replace(content, path / content.name)
            else:
                os.replace(temporary, path)
            sync_folder(path.parent)
        except FileNotFoundError as error:
            if temporary.exists():
                raise
            raise _vanished(path, temporary) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _vanished(path: Path, temporary: Path) -> FailureError:
    return FailureError(
        f"{path} could not be written: its temporary {temporary.name} vanished. Either a program cleans up the folder, or this "
        "command was stopped for more than a day. Run it again."
    )


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new folder that is removed at the end, or by a later command if this process is killed.

    Args:
        parent: Folder that is created if it is missing.
        name: Start of the folder's name.
    """
    with writing(parent, then="it starts again"):
        parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(parent / name)
        temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def user_path(text: str | Path) -> Path:
    """Return the path that a user typed, with `~` and `~NAME` expanded.

    Raises:
        InputError: The path is not UTF-8, which lrbench's files and several libraries need.
    """
    path = Path(os.path.expanduser(text))
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the path {path} is not valid UTF-8. Rename the file or folder, or use another one."
        ) from None
    return path


class DamagedFile(InputError):
    """A file whose content cannot be used.

    Args:
        path: The file.
        reason: What is wrong, as a clause.
        remedy: What to do, as a sentence.
    """

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged: {as_sentence(reason)} {remedy}")
        self.path, self.reason, self.remedy = path, reason, remedy

    def __reduce__(self) -> tuple[type["DamagedFile"], tuple[Path, str, str]]:
        return DamagedFile, (self.path, self.reason, self.remedy)


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting for a pipe or device.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is not a regular one, or it cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(_unreadable(path, error)) from error
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise _not_regular(path, kind)
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, *, limit: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        limit: Largest accepted size in bytes; None for no limit.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is not a regular one, is larger than the limit, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise InputError(f"{path} has {size:,} bytes, more than the {limit:,} that lrbench reads.")
        try:
            return file.read()
        except OSError as error:
            raise InputError(_unreadable(path, error)) from error


def read_json(path: Path, remedy: str, *, limit: int = 256 << 20) -> Any:
    """Return the content of a UTF-8 JSON file.

    Args:
        path: The file.
        remedy: What to do when the file is damaged, as a sentence.
        limit: Largest accepted size in bytes.

    Raises:
        FileNotFoundError: The file does not exist.
        DamagedFile: The file is not JSON in UTF-8, or its content cannot be represented (nesting, huge numbers, lone
            surrogates).
        InputError: The file is not a regular one, is too large, or cannot be read.
    """
    try:
        return parse_json(read_bytes(path, limit=limit))
    except ValueError as error:
        raise DamagedFile(path, str(error), remedy) from error


def parse_json(content: bytes | str) -> Any:
    """Parse JSON without NaN, infinities and lone surrogates.

    Raises:
        ValueError: The text is not such JSON. The message is one clause.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE.search(text):
            # A pair of escaped surrogates is valid; a lone one cannot be encoded as UTF-8.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):
            raise ValueError("it holds a number of thousands of digits") from error
        raise
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not a JSON number")


def _not_regular(path: Path, kind: int) -> InputError:
    return InputError(f"{path} is {_KINDS.get(kind, 'a special file')}, not a regular file. Replace it with a file.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"it holds {text[:40]}, which is too large a number")
    return value


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {(error.strerror or str(error)).lower()}. Check the file and its folder, then try again."


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8 with unchanged line ends."""
    write_bytes(path, content.encode())


def append_line(path: Path, line: str) -> None:
    """Append a line to a regular file, creating it if needed, without waiting for a pipe.

    Raises:
        LrbenchError: The file is not a regular one, or it cannot be written.
    """
    with writing(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise _not_regular(path, stat.S_IFIFO) from error
            raise
        with os.fdopen(handle, "ab") as file:
            kind = stat.S_IFMT(os.fstat(handle).st_mode)
            if kind != stat.S_IFREG:
                raise _not_regular(path, kind)
            file.write(f"{line}\n".encode())


def remove_file(path: Path) -> None:
    """Remove a file if it exists. Unlike `unlink`, accept a missing file on a read-only file system."""
    with writing(path):
        if os.path.lexists(path):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces, so that equal content has equal bytes."""
    return _CANONICAL.encode(value)


# `json.dumps` would create an encoder in each call.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def sha256_bytes(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hexadecimal SHA-256 of the canonical JSON of `value`."""
    return sha256_bytes(canonical_json(value).encode())


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
