"""Two processes that want to make the same file: one works, the other waits and then finds it made."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrbench.control import Control
from lrbench.errors import InterruptedWork
from lrbench.files import writing

_POLL_SECONDS = 0.2
# A short wait is nothing to speak of.
_PATIENCE_SECONDS = 10.0


@contextmanager
def locked(path: Path, control: Control) -> Iterator[None]:
    """Hold the right to make `path`; wait while another process has it. A killed process holds nothing.

    Raises:
        InterruptedWork: Asked to stop while waiting.
        LrbenchError: The folder of `path` cannot be made.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(handle, path, control)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, control: Control) -> None:
    begun, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told and time.monotonic() - begun > _PATIENCE_SECONDS:
                control.say(f"waiting for another process that is making {path}")
                told = True
            if control.stop_requested():
                raise InterruptedWork("stopped while waiting for another process that does the same work.") from None
            time.sleep(_POLL_SECONDS)
        except OSError:
            # Some network file systems have no locks; files are still written whole, only perhaps twice.
            return
