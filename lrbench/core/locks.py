"""Locks between processes that make the same file.

Locks of the operating system (`flock`) end with their process. Some shared file systems have none, or keep them on one
machine, such as Lustre with `localflock`. There, processes hold leases: files that their holder touches every few seconds,
and that another process may take over when they are no longer touched.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.files import writing

_POLL_SECONDS = 0.2
_MESSAGE_AFTER_SECONDS = 10.0
# A holder that does not answer for so long has lost its lease. All processes must agree.
_LEASE_SECONDS = 60.0
_LEASES = "lease"
VARIABLE = "LRBENCH_LOCKS"
"""Environment variable that chooses leases with the value `lease`."""


def use_leases() -> None:
    """Let this process and those that it starts hold leases instead of locks."""
    os.environ[VARIABLE] = _LEASES


def has_only_local_locks(folder: Path) -> bool:
    """Return whether the file system of a folder is mounted so that locks hold on one machine alone.

    Mount options decide for NFS, Lustre and BeeGFS. Other file systems are assumed to lock.
    """
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    real = Path(os.path.realpath(folder))
    # The last mount of the longest path is the visible one.
    kind, chosen = "", ""
    longest = -1
    for line in mounts:
        _, point, this_kind, options, *_ = line.split(" ")
        # Spaces are written as octal numbers.
        path = Path(point.encode().decode("unicode_escape"))
        if real.is_relative_to(path) and len(path.parts) >= longest:
            longest, kind, chosen = len(path.parts), this_kind, options
    return _is_local(kind, set(chosen.split(",")))


def _is_local(kind: str, options: set[str]) -> bool:
    """Return whether locks of a file system with these mount options hold on one machine alone."""
    if kind.startswith("nfs"):
        return bool(options & {"nolock", "local_lock=flock", "local_lock=all"})
    if kind == "lustre":
        return "flock" not in options
    # BeeGFS states its setting elsewhere; its default is local.
    return kind == "beegfs"


# Not filelock: it needs write access to a lock file, which another user of a shared folder may own.
@contextmanager
def locked(path: Path, control: Control) -> Iterator[bool]:
    """Hold the lock `.NAME.lock` next to `path`, waiting while another process holds it.

    Yields:
        True when the lock is held. False with a lease and on a read-only file system: another process may be writing `path`.

    Raises:
        InterruptedWork: Asked to stop while waiting.
        LrbenchError: The folder of `path` cannot be created.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle: int | None
    if os.environ.get(VARIABLE) == _LEASES:
        with _leased(path, control):
            yield False
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            # Another user's lock file: on local file systems a file opened for reading can be locked, too.
            handle = os.open(lock, os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            handle = None
    if handle is None:
        yield False
        return
    try:
        has_lock = _acquire(handle, path, control)
        if has_lock:
            yield True
    finally:
        os.close(handle)
    if not has_lock:
        with _leased(path, control):
            yield False


def _acquire(handle: int, path: Path, control: Control) -> bool:
    """Wait for the lock; return False if the file system has no locks."""
    start, has_reported = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            has_reported = _wait(start, has_reported, path, control)
        except OSError:
            return False


@contextmanager
def _leased(path: Path, control: Control) -> Iterator[None]:
    """Hold the lease `.NAME.lease` next to `path`, waiting while another process holds it."""
    from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

    def report(loss: object) -> None:
        control.say(f"the lease of {path} was lost; another process may do the same work")

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(
            path.with_name(f".{path.name}.lease"),
            lease_duration=_LEASE_SECONDS,
            on_compromise=report,
            thread_local=False,
        )
        start, has_reported = time.monotonic(), False
        while True:
            try:
                lease.acquire(timeout=0)
                break
            except LeaseSettingsMismatch as error:
                raise InputError(f"{error}. Use the same version of lrbench on every node.") from error
            except Timeout:
                has_reported = _wait(start, has_reported, path, control)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                break
    try:
        yield
    finally:
        lease.release()


def _wait(start: float, has_reported: bool, path: Path, control: Control) -> bool:
    """Wait a moment for another process, and return whether this was reported.

    Raises:
        InterruptedWork: Asked to stop.
    """
    if not has_reported and time.monotonic() - start > _MESSAGE_AFTER_SECONDS:
        control.say(f"waiting for another process that is writing {path}")
        has_reported = True
    if control.stop_requested():
        raise InterruptedWork("stopped while waiting for another process that does the same work.")
    time.sleep(_POLL_SECONDS)
    return has_reported
