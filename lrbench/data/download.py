"""Downloading one file: tries several addresses, resumes partial downloads, and checks the file before using it."""

import hashlib
import os
from pathlib import Path
from typing import Any

from lrbench.config.task import Archive, Task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork, as_sentence
from lrbench.core.files import sync_folder, writing
from lrbench.data.archives.extract import is_archive

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60.0
_HTTP_OK = 200
_HTTP_RANGE_NOT_SATISFIABLE = 416
# Attempts per address; each must receive more bytes than the one before.
_MAX_ATTEMPTS = 20
_RESTARTS = "the download starts again, because the task pins no hash or size to check a partial file"


def download(task: Task, archive: Archive, path: Path, control: Control) -> None:
    """Download a file to `path`, which is created only when the file is complete and checked.

    Received bytes are kept in `<name>.part`. If the task pins a hash or a size, later calls resume from them.

    Args:
        task: The task, for messages.
        archive: Addresses, and the pinned hash and size.
        path: Target path.
        control: Receives progress; may request a stop.

    Raises:
        FailureError: No address gave the right file, or the disk is full.
        InputError: A link or a folder has the name of the partial file.
        InterruptedWork: A stop was requested; received bytes are kept.
    """
    part = path.with_name(path.name + ".part")
    for partial in (part, _restart_path(part)):
        if partial.is_symlink() or (partial.exists() and not partial.is_file()):
            raise InputError(f"{partial} is not a regular file, but lrbench downloads to that name. Delete it.")
    try:
        _download(task, archive, path, part, control)
    except FileNotFoundError as error:
        # Only possible on a file system without locks.
        raise FailureError(
            f"{part} vanished during the download of task {task.name}. If another process downloads it too, wait until that "
            "has finished, then run the same command again."
        ) from error


def find_problem(path: Path, archive: Archive) -> str | None:
    """Return what is wrong with a downloaded file, as the end of a sentence; None if it is the right file."""
    if not _file_size(path):
        return "is empty"
    problem = _difference_from_pins(path, archive)
    if problem is None and (archive.md5 or archive.sha256):
        return None
    return _describe_page(path) or problem or _not_an_archive(path, archive)


def set_aside(path: Path) -> Path:
    """Rename a wrong file instead of deleting it, because it may have taken hours to download.

    Returns:
        The new path, `<name>.bad`, or `<name>.bad2` and so on if that exists.
    """
    name = path.name.removesuffix(".again").removesuffix(".part")
    bad, number = path.with_name(f"{name}.bad"), 1
    while bad.exists():
        number += 1
        bad = path.with_name(f"{name}.bad{number}")
    os.replace(path, bad)
    return bad


def _restart_path(part: Path) -> Path:
    """Return the path of a download that starts from the first byte while `part` is kept."""
    return part.with_name(f"{part.name}.again")


def _download(task: Task, archive: Archive, path: Path, part: Path, control: Control) -> None:
    is_pinned = bool(archive.md5 or archive.sha256 or archive.bytes)
    problems = []
    with writing(path, then="the download continues" if is_pinned else _RESTARTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in (archive.url, *archive.mirrors):
            # Without a pin, nothing shows that a partial file is of the same version and address.
            if not is_pinned:
                part.unlink(missing_ok=True)
            control.say(f"{'resuming' if _file_size(part) else 'downloading'} {url}")
            problem = _download_from(url, part, archive, control, is_pinned=is_pinned)
            if problem is None:
                os.replace(part, path)
                sync_folder(path.parent)
                return
            problems.append(f"{url}: {problem}")
    pins = [f"{archive.bytes:,} bytes"] if archive.bytes else []
    pins += [f"{name} {value}" for name, value in (("md5", archive.md5), ("sha256", archive.sha256)) if value]
    expected = f" ({', '.join(pins)})" if pins else ""
    received = _file_size(part)
    if not received:
        part.unlink(missing_ok=True)
    resume = f" The same command continues from the {received:,} bytes received." if is_pinned and received else ""
    raise FailureError(
        f"{path.name} of task {task.name} could not be downloaded. {as_sentence('; '.join(problems))}{resume} You can also "
        f"download it yourself{expected} to {path} and run the same command again."
    )


def _download_from(url: str, part: Path, archive: Archive, control: Control, *, is_pinned: bool) -> str | None:
    """Download from one address; return what went wrong, or None when `part` is the right file.

    Bytes received earlier are never overwritten, because a server may send a log-in page instead of the file. A download from
    the first byte goes to `<name>.part.again`. It replaces `part` if it is the right file, or if it is longer and no page.
    """
    restart = _restart_path(part)
    _keep_longer(part, restart)
    try:
        return _attempt(url, part, restart, archive, control, is_pinned)
    finally:
        _keep_longer(part, restart)


def _attempt(url: str, part: Path, restart: Path, archive: Archive, control: Control, is_pinned: bool) -> str | None:
    import requests

    earlier = _file_size(part)
    for _ in range(_MAX_ATTEMPTS):
        path = restart if restart.exists() else part
        size_before = _file_size(path)
        try:
            # The file may be complete: an earlier run can end just before it is renamed.
            if not (is_pinned and size_before and find_problem(path, archive) is None):
                _append(url, path, restart if earlier and path == part else None, control, is_pinned)
        # requests does not wrap the ValueError of some invalid redirects.
        except (requests.RequestException, ValueError) as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if earlier and path == part and status == _HTTP_RANGE_NOT_SATISFIABLE:
                restart.touch()
                continue
            written = restart if restart.exists() else part
            if not isinstance(error, requests.HTTPError) and _file_size(written) > (
                size_before if written == path else 0
            ):
                continue
            return (str(error).splitlines() or [type(error).__name__])[0]
        path = restart if restart.exists() else part
        problem = find_problem(path, archive)
        if problem is None:
            if path == restart:
                os.replace(restart, part)
            return None
        if earlier and path == part:
            # The first part and the rest may be of different files, so download all of it.
            os.truncate(part, earlier)
            restart.touch()
            continue
        if _describe_page(path) is None:
            return f"the received file {problem} (kept as {set_aside(path).name})"
        path.unlink()
        return f"the received file {problem}"
    return f"the connection broke {_MAX_ATTEMPTS} times"


def _keep_longer(part: Path, restart: Path) -> None:
    if _file_size(restart) > _file_size(part) and _describe_page(restart) is None:
        os.replace(restart, part)
    restart.unlink(missing_ok=True)


def _append(url: str, path: Path, restart: Path | None, control: Control, is_pinned: bool) -> None:
    """Download the rest of `path`; if the server sends the whole file instead, write that to `restart` if given."""
    import requests

    partial = _PartialFile(path, restart, control, is_pinned)
    try:
        # The bytes of the archive itself are needed, without a transfer encoding.
        headers = {"Accept-Encoding": "identity"}
        if partial.size:
            headers["Range"] = f"bytes={partial.size}-"
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            partial.begin(response)
            for chunk in response.iter_content(_CHUNK_BYTES):
                partial.write(chunk)
        partial.sync()
    finally:
        partial.close()


class _PartialFile:
    """The file that a download is appended to.

    Args:
        path: File to append to.
        restart: File to write instead if the server sends the whole file; None to truncate `path`.
        control: Receives progress; may request a stop.
        is_pinned: Whether a later call can resume the download.

    Attributes:
        size: Bytes in the file.
    """

    def __init__(self, path: Path, restart: Path | None, control: Control, is_pinned: bool) -> None:
        self._file = path.open("ab")
        self._restart = restart
        self._is_pinned = is_pinned
        self._control = control
        self._total = 0
        self.size = os.fstat(self._file.fileno()).st_size
        self._earlier = self.size if restart is not None else 0

    def begin(self, response: Any) -> None:
        """Prepare for the body of a response: the rest of the file (206) or all of it (200)."""
        if response.status_code == _HTTP_OK and self.size:
            if self._restart is None:
                self._file.truncate(0)
            else:
                self._file.close()
                self._file = self._restart.open("wb")
            self.size = 0
        length = response.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) < 20
        self._total = self.size + (int(length) if is_number else 0)

    def write(self, chunk: bytes) -> None:
        """Write received bytes."""
        if self._control.stop_requested():
            then = "to continue the download." if self._is_pinned else f"({_RESTARTS})."
            raise InterruptedWork(
                f"stopped after {max(self.size, self._earlier):,} bytes. Run the same command again {then}"
            )
        self._file.write(chunk)
        self.size += len(chunk)
        self._control.progress(self.size, max(self._total, self.size), "bytes")

    def sync(self) -> None:
        """Flush the file to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _not_an_archive(path: Path, archive: Archive) -> str | None:
    if archive.unpacks_to is None or is_archive(path):
        return None
    return "is not a tar or zip file, or is truncated"


def _describe_page(path: Path) -> str | None:
    """Return a description of a web page or XML error that a server sent instead of the file; None for other content."""
    with path.open("rb") as file:
        start = file.read(512)
    # Byte-order marks, and the zero bytes of UTF-16.
    start = start.lstrip(b"\xef\xbb\xbf\xff\xfe").replace(b"\0", b"").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<!--")):
        return "is a web page instead of the file, such as a log-in page"
    if start.startswith((b"<?xml", b"<error")):
        return "is an XML page instead of the file, such as an error message"
    return None


def _difference_from_pins(path: Path, archive: Archive) -> str | None:
    if archive.bytes is not None and path.stat().st_size != archive.bytes:
        return f"has {path.stat().st_size:,} bytes, expected {archive.bytes:,}"
    for algorithm, expected in (("md5", archive.md5), ("sha256", archive.sha256)):
        if not expected:
            continue
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
        if actual != expected:
            return f"has {algorithm} {actual}, expected {expected}"
    return None
