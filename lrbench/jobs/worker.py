"""A worker process: runs jobs from its parent, and ends with its parent."""

import contextlib
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from threading import Lock

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import LrbenchError, as_user_error
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job

# Seconds between two messages of progress.
_PROGRESS_SECONDS = 0.2


class _WorkerControl(Control):
    """Send progress through the pipe, and stop when the parent is gone."""

    def __init__(self, connection: Connection, stop: Event) -> None:
        super().__init__()
        self._connection = connection
        self._event = stop
        self._parent = os.getppid()
        self._sent = 0.0
        # Background threads send messages, too.
        self._lock = Lock()

    def stop_requested(self) -> bool:
        return super().stop_requested() or self._event.is_set() or os.getppid() != self._parent

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._sent > _PROGRESS_SECONDS or done == total:
            self._sent = now
            self._send("progress", done, total, unit)

    def say(self, text: str) -> None:
        self._send("message", text)

    def _send(self, *message: object) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            # The parent is gone.
            self.stop()


def work(connection: Connection, stop: Event, suite: Suite, place: Place, threads: int) -> None:
    """Run jobs until the parent sends None or is gone.

    Args:
        connection: Receives jobs and sends messages.
        stop: Set when the work should be saved and ended.
        suite: Passed to each job.
        place: Passed to each job.
        threads: CPU threads for computing.
    """
    control = _WorkerControl(connection, stop)
    # Ctrl-C reaches all processes of the terminal; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, lambda number, frame: control.stop())
    # Numerical libraries read it when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from lrbench.models.devices import pick_device, set_cpu_threads

    device = pick_device()
    set_cpu_threads(device, threads)
    # The pipe breaks when the parent is gone.
    with contextlib.suppress(EOFError, OSError):
        connection.send(("device", device.type))
        job: Job | None
        while (job := connection.recv()) is not None:
            connection.send(_outcome(job, suite, place, control))


def _outcome(job: Job, suite: Suite, place: Place, control: Control) -> tuple[str, object]:
    try:
        return "done", job.run(suite, place, control)
    except Exception as error:
        return "failed", _plain(as_user_error(error, f"`{job.name}`"))


def _plain(error: LrbenchError) -> LrbenchError:
    """Return the error without what cannot be pickled: traceback, cause and extra attributes."""
    kind = next(base for base in type(error).__mro__ if base.__module__ == "lrbench.core.errors")
    plain: LrbenchError = kind(str(error))
    return plain
