"""Receiving one file: from several addresses in turn, going on from what arrived, and checked before it counts."""

import os
from pathlib import Path
from typing import Any

from lrbench.config.task import Archive, Task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork, sentence
from lrbench.core.files import sync_folder, writing
from lrbench.data.extract import is_archive

_CHUNK = 1 << 20
_TIMEOUT = 60.0
# HTTP's answers: the whole file; and to a range that begins at or after the file's end.
_WHOLE = 200
_NOTHING_AFTER = 416
# A server that cuts connections is asked again as long as each time brings more, up to so many times.
_ATTEMPTS = 20
_ANEW = "with no hash or size to hold what arrived against, it begins anew"


def receive(task: Task, archive: Archive, path: Path, control: Control) -> None:
    """Download a file to `path`, under whose name it appears whole and checked or not at all.

    What has arrived lies in `<name>.part`; where a hash or a size says later whether the whole is right, it is gone on with,
    also by a later call.

    Args:
        task: The task, for messages.
        archive: Addresses and what is known of the file.
        path: Where it should lie.
        control: Told how far the download is; may stop it.

    Raises:
        FailureError: No address gave the right file, or the disk is full.
        InputError: A link or a folder has the name under which what arrives is kept.
        InterruptedWork: Asked to stop; what arrived is kept.
    """
    part = path.with_name(path.name + ".part")
    for kept in (part, part.with_name(f"{part.name}.again")):
        if kept.is_symlink() or (kept.exists() and not kept.is_file()):
            raise InputError(
                f"{kept} is no regular file, and lrbench writes what arrives to a file of that name. Delete it."
            )
    try:
        _receive(task, archive, path, part, control)
    except FileNotFoundError as error:
        # The caller's lock forbids it, where the file system has locks.
        raise FailureError(
            f"{part} vanished while {path.name} of task {task.name} was fetched: another process may be fetching it too. When "
            "that one is done, run the same command again."
        ) from error


def _receive(task: Task, archive: Archive, path: Path, part: Path, control: Control) -> None:
    pinned = bool(archive.md5 or archive.sha256 or archive.bytes)
    problems = []
    with writing(path, then="it goes on from what is there" if pinned else _ANEW):
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in (archive.url, *archive.mirrors):
            # Nothing would tell that the start is of another file: another time's, or another address's.
            if not pinned:
                part.unlink(missing_ok=True)
            control.say(f"{'going on with' if _size(part) else 'downloading'} {url}")
            problem = _from(url, part, archive, control, pinned=pinned)
            if problem is None:
                os.replace(part, path)
                sync_folder(path.parent)
                return
            problems.append(f"{url}: {problem}")
    known = f"md5:{archive.md5}" if archive.md5 else f"sha256:{archive.sha256}" if archive.sha256 else None
    kept = (
        f" What arrived ({_size(part):,} bytes) is kept; the same command goes on from there."
        if pinned and _size(part)
        else ""
    )
    if not _size(part):
        part.unlink(missing_ok=True)
    raise FailureError(
        f"{path.name} of task {task.name} could not be fetched. {sentence('; '.join(problems))}{kept} Or fetch it by hand"
        + (f" (it has {archive.bytes:,} bytes)" if archive.bytes else "")
        + (f" (its hash is {known})" if known else "")
        + f" and put it at {path}, then run the same command again: it will be checked and unpacked."
    )


def _from(url: str, part: Path, archive: Archive, control: Control, *, pinned: bool) -> str | None:
    """Download from one address; gives what is wrong in a few words, or None when `part` is the file.

    What an earlier call or another address gave is never written over: a page that asks for a log-in is sent as if it were
    the file. What comes from the start lies beside it, in `<name>.part.again`, and takes its place when it is the file, or
    else when it is longer and no page.
    """
    again = part.with_name(f"{part.name}.again")
    _keep_longer(part, again)
    try:
        return _tried(url, part, again, archive, control, pinned)
    finally:
        _keep_longer(part, again)


def _tried(url: str, part: Path, again: Path, archive: Archive, control: Control, pinned: bool) -> str | None:
    import requests

    kept = _size(part)
    for _ in range(_ATTEMPTS):
        path = again if again.exists() else part
        before = _size(path)
        try:
            # All of it may be there: a run can end between the last byte and the file's own name.
            if not (pinned and before and wrong(path, archive) is None):
                _append(url, path, again if kept and path == part else None, control, pinned)
        # Some addresses that a server redirects to raise ValueError, which requests does not wrap.
        except (requests.RequestException, ValueError) as error:
            response = getattr(error, "response", None)
            if kept and path == part and response is not None and response.status_code == _NOTHING_AFTER:
                again.touch()
                continue
            written = again if again.exists() else part
            if not isinstance(error, requests.HTTPError) and _size(written) > (before if written == path else 0):
                continue
            return (str(error).splitlines() or [type(error).__name__])[0]
        path = again if again.exists() else part
        problem = wrong(path, archive)
        if problem is None:
            if path == again:
                os.replace(again, part)
            return None
        if kept and path == part:
            # The start may have been of another file, or the rest is; what this address gives from nothing decides.
            os.truncate(part, kept)
            again.touch()
            continue
        if _page(path) is None:
            return f"what came {problem} (kept as {set_aside(path).name})"
        path.unlink()
        return f"what came {problem}"
    return f"the connection broke {_ATTEMPTS} times"


def _keep_longer(part: Path, again: Path) -> None:
    if _size(again) > _size(part) and _page(again) is None:
        os.replace(again, part)
    again.unlink(missing_ok=True)


def _append(url: str, path: Path, again: Path | None, control: Control, pinned: bool) -> None:
    """Download what follows on `path`; into `again`, where one is given, if the server sends the whole instead."""
    from pooch import HTTPDownloader

    receiving = _Receiving(path, again, control, pinned)
    try:
        # Archives must not be unpacked on the way, nor counted packed.
        headers = {"Accept-Encoding": "identity"}
        if receiving.done:
            headers["Range"] = f"bytes={receiving.done}-"
        download = HTTPDownloader(
            chunk_size=_CHUNK, timeout=_TIMEOUT, headers=headers, hooks={"response": receiving.begin}
        )
        download(url, receiving, None)
        receiving.sync()
    finally:
        receiving.close()


class _Receiving:
    """The file being received, as pooch writes to it.

    Attributes:
        done: Bytes in the file.
    """

    def __init__(self, path: Path, again: Path | None, control: Control, pinned: bool) -> None:
        self._file = path.open("ab")
        self._again = again
        self._pinned = pinned
        self._control = control
        self._total = 0
        self.done = os.fstat(self._file.fileno()).st_size
        self._kept = self.done if again is not None else 0

    def begin(self, response: Any, **_: Any) -> None:
        """See whether the server goes on from where the file ends, or starts again."""
        if response.is_redirect:
            return
        # 206 is the rest; 200 the whole from the start.
        if response.status_code == _WHOLE and self.done:
            if self._again is None:
                self._file.truncate(0)
            else:
                self._file.close()
                self._file = self._again.open("wb")
            self.done = 0
        length = response.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            # pooch would take it for a number.
            response.headers.pop("Content-Length", None)
            length = "0"
        self._total = self.done + int(length)

    def write(self, chunk: bytes) -> None:
        """Add what arrived."""
        if self._control.stop_requested():
            raise InterruptedWork(
                f"stopped after {max(self.done, self._kept):,} bytes"
                + (
                    ", which are kept. Run the same command again to go on from there."
                    if self._pinned
                    else f". Run the same command again: {_ANEW}."
                )
            )
        self._file.write(chunk)
        self.done += len(chunk)
        self._control.progress(self.done, max(self._total, self.done), "bytes")

    def sync(self) -> None:
        """Flush what was written to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, whatever came."""
        self._file.close()

    def flush(self) -> None:
        """The system writes when it likes; what counts is synced at the end."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def wrong(path: Path, archive: Archive) -> str | None:
    """What is wrong with a downloaded file, in a few words; None when it is as it should be."""
    if not _size(path):
        return "is empty"
    problem = _differs(path, archive)
    if problem is None and (archive.md5 or archive.sha256):
        return None
    return _page(path) or problem or _no_archive(path, archive)


def _no_archive(path: Path, archive: Archive) -> str | None:
    if archive.unpacks_to is None or is_archive(path):
        return None
    return "is no tar or zip file, or only the beginning of one"


def set_aside(path: Path) -> Path:
    """Give a file that is not what it should be another name: it may have cost somebody an hour, so it is not deleted.

    Returns:
        That name: `<name>.bad`, or `.bad2` and so on where others are there.
    """
    name = path.name.removesuffix(".again").removesuffix(".part")
    bad, number = path.with_name(f"{name}.bad"), 1
    while bad.exists():
        number += 1
        bad = path.with_name(f"{name}.bad{number}")
    os.replace(path, bad)
    return bad


def _page(path: Path) -> str | None:
    """Says that a file is what a server shows in its place, where it begins as such."""
    with path.open("rb") as file:
        start = file.read(512)
    # Past byte-order marks, and past every other byte of UTF-16.
    start = start.lstrip(b"\xef\xbb\xbf\xff\xfe").replace(b"\0", b"").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<!--")):
        return "is a web page, not the file (a page that asks for a log-in or says that the file has moved)"
    if start.startswith((b"<?xml", b"<error")):
        return "is a page in XML, not the file (as servers send to say that access is denied or the file is gone)"
    return None


def _differs(path: Path, archive: Archive) -> str | None:
    import pooch

    if archive.bytes is not None and path.stat().st_size != archive.bytes:
        return f"has {path.stat().st_size:,} bytes, not {archive.bytes:,}"
    for algorithm, expected in (("md5", archive.md5), ("sha256", archive.sha256)):
        if expected and (found := pooch.file_hash(str(path), alg=algorithm)) != expected:
            return f"has the {algorithm} {found}, not {expected}"
    return None
