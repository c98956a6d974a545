"""One worker process: takes jobs from its parent, does them, and ends when the parent is gone."""

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

# Progress is for people: a message more often than this is noise.
_PROGRESS_SECONDS = 0.2


class _WorkerControl(Control):
    """Sends progress through the pipe; stops with its parent."""

    def __init__(self, connection: Connection, stop: Event) -> None:
        super().__init__()
        self._connection = connection
        self._event = stop
        self._parent = os.getppid()
        self._sent = 0.0
        # What is saved or logged beside the training has things to say, too.
        self._telling = Lock()

    def stop_requested(self) -> bool:
        return super().stop_requested() or self._event.is_set() or os.getppid() != self._parent

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._sent > _PROGRESS_SECONDS or done == total:
            self._sent = now
            self._tell("progress", done, total, unit)

    def say(self, text: str) -> None:
        self._tell("said", text)

    def _tell(self, *message: object) -> None:
        try:
            with self._telling:
                self._connection.send(message)
        except OSError:
            # The parent is gone; the work saves what it has and ends.
            self.stop()


def work(connection: Connection, stop: Event, suite: Suite, place: Place, threads: int) -> None:
    """The life of a worker process.

    Args:
        connection: Jobs come in, messages go out; None instead of a job ends it.
        stop: Set when the work should be saved and ended.
        suite: Handed to each job.
        place: Handed to each job.
        threads: Threads for computing on the CPU.
    """
    control = _WorkerControl(connection, stop)
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, lambda number, frame: control.stop())
    # Before numerical libraries are loaded, which read it once.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from lrbench.models.networks import cpu_threads, pick_device

    device = pick_device()
    cpu_threads(device, threads)
    # A pipe that breaks says that the parent is gone.
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
    """The same error without what cannot travel between processes (tracebacks, causes, extra attributes)."""
    kind = next(each for each in type(error).__mro__ if each.__module__ == "lrbench.core.errors")
    plain: LrbenchError = kind(str(error))
    return plain
