"""Locks between processes that make the same file."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.files import writing

_POLL_SECONDS = 0.2
_MESSAGE_AFTER_SECONDS = 10.0


# Not filelock: it needs write access to a lock file, which another user of a shared folder may own.
@contextmanager
def locked(path: Path, control: Control) -> Iterator[bool]:
    """Hold the lock `.NAME.lock` next to `path`, waiting while another process holds it.

    Yields:
        True when the lock is held. False on a read-only file system and on one without locks, where another process may be
        writing `path`.

    Raises:
        InterruptedWork: Asked to stop while waiting.
        LrbenchError: The folder of `path` cannot be created.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle: int | None
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
        yield _acquire(handle, path, control)
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, control: Control) -> bool:
    """Wait for the lock; return False if the file system has no locks."""
    start, has_reported = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not has_reported and time.monotonic() - start > _MESSAGE_AFTER_SECONDS:
                control.say(f"waiting for another process that is writing {path}")
                has_reported = True
            if control.stop_requested():
                raise InterruptedWork("stopped while waiting for another process that does the same work.") from None
            time.sleep(_POLL_SECONDS)
        except OSError:
            # Some network file systems have no locks. Files are still written atomically, at worst twice.
            return False
