"""Two processes that want to make the same file: one works, the other waits and then finds it made."""

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
# A short wait is nothing to speak of.
_PATIENCE_SECONDS = 10.0


@contextmanager
def locked(path: Path, control: Control) -> Iterator[bool]:
    """Hold the right to make `path`; wait while another process has it. A killed process holds nothing.

    Gives whether nobody else can be making `path`: False on a file system without locks, where another process may be, so that
    what looks like a killed process's may be in use, and on a read-only one.

    Raises:
        InterruptedWork: Asked to stop while waiting.
        LrbenchError: The folder of `path` cannot be made.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle: int | None
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            # Another user's, in a shared folder: where locks are the system's own, one that is read can be held too.
            handle = os.open(lock, os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # Nothing can be made on a read-only file system; existing files can be used.
            handle = None
    if handle is None:
        yield False
        return
    try:
        yield _acquire(handle, path, control)
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, control: Control) -> bool:
    """Wait for the lock; gives whether it is held, and False where there are no locks."""
    begun, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not told and time.monotonic() - begun > _PATIENCE_SECONDS:
                control.say(f"waiting for another process that is making {path}")
                told = True
            if control.stop_requested():
                raise InterruptedWork("stopped while waiting for another process that does the same work.") from None
            time.sleep(_POLL_SECONDS)
        except OSError:
            # Some network file systems have no locks; files are still written whole, only perhaps twice.
            return False
