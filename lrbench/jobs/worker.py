"""A worker process: runs jobs from its parent, and ends with its parent."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from threading import Lock

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import as_user_error, picklable
from lrbench.core.machine import share_cores
from lrbench.core.workspace import Place
from lrbench.jobs.gpus import Load
from lrbench.jobs.group import pretrain_in_group
from lrbench.jobs.job import Job, PretrainJob

# Seconds between two messages of progress, and between two looks at whether the parent is alive.
_PROGRESS_SECONDS = 0.2
# Seconds of training over which the load of a GPU is measured.
_LOAD_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings that a worker process receives at its start.

    Attributes:
        threads: CPU threads for computing.
        gpu: Value of CUDA_VISIBLE_DEVICES; None to leave it as it is.
        processes: Processes that pretrain a snapshot together, one on each of its GPUs.
        feeding: Number of processes that feed GPUs on this machine, each one GPU.
        environment: Environment variables; None to keep those that the process was started with.
    """

    threads: int
    gpu: str | None = None
    processes: int = 1
    feeding: int = 1
    environment: Mapping[str, str] | None = None


class _WorkerControl(Control):
    """Send progress through the pipe, and stop when the parent is gone."""

    def __init__(self, connection: Connection, stop: Event) -> None:
        super().__init__()
        self._connection = connection
        self._event = stop
        self._parent = multiprocessing.parent_process()
        self._sent = self._looked = 0.0
        self._waiting = _WaitingShare()
        self.measures_load = False
        # Background threads send messages, too.
        self._lock = Lock()

    def stop_requested(self) -> bool:
        now = time.monotonic()
        if now - self._looked > _PROGRESS_SECONDS:
            self._looked = now
            if self._parent is not None and not self._parent.is_alive():
                self.stop()
        return super().stop_requested() or self._event.is_set()

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if self.measures_load and (share := self._waiting.share(done, total, unit, now)) is not None:
            self._send("load", measured_load(share))
        if now - self._sent > _PROGRESS_SECONDS or done == total:
            self._sent = now
            self._send("progress", done, total, unit)

    def say(self, text: str) -> None:
        self._send("message", text)

    def waiting(self) -> AbstractContextManager[None]:
        return self._waiting

    def _send(self, *message: object) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            # The parent is gone.
            self.stop()


class _WaitingShare(AbstractContextManager[None]):
    """Measures the share of its training time in which a process waits, over a few seconds; entered while it waits."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._began = self._entered = self._waited = 0.0

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._waited += time.monotonic() - self._entered

    def share(self, done: int, total: int, unit: str, now: float) -> float | None:
        """Return the share of the time since the last result, or None before enough consecutive updates were seen."""
        continues = unit == "updates" and self._last is not None and self._last[1] == total and self._last[0] < done
        self._last = (done, total) if unit == "updates" else None
        if not continues:
            # The time between was not training: evaluation, saving, another job.
            self._began, self._waited = now, 0.0
            return None
        if (elapsed := now - self._began) < _LOAD_SECONDS:
            return None
        share = self._waited / elapsed
        self._began, self._waited = now, 0.0
        return share


def measured_load(waiting: float) -> Load:
    """Return what this process uses of its GPU.

    Args:
        waiting: Share of the training time in which it waits.
    """
    import torch

    return Load(waiting=waiting, reserved=torch.cuda.max_memory_reserved(), free=torch.cuda.mem_get_info()[0])


def work(connection: Connection, stop: Event, suite: Suite, place: Place, settings: WorkerSettings) -> None:
    """Run jobs until the parent sends None or is gone.

    Args:
        connection: Receives jobs and sends messages.
        stop: Set when the work should be saved and ended.
        suite: Passed to each job.
        place: Passed to each job.
        settings: Threads and GPU of the process.
    """
    control = _WorkerControl(connection, stop)
    # Ctrl-C reaches all processes of the terminal; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, lambda number, frame: control.stop())
    device = prepare_process(settings)
    control.measures_load = device == "cuda" and settings.processes == 1
    # The pipe breaks when the parent is gone.
    with contextlib.suppress(EOFError, OSError):
        connection.send(("device", device))
        job: Job | None
        while (job := connection.recv()) is not None:
            connection.send(outcome(job, suite, place, control, settings.processes))


def prepare_process(settings: WorkerSettings) -> str:
    """Set the environment, threads and GPU of this process before it uses them; return the type of its device."""
    if settings.environment is not None:
        os.environ.clear()
        os.environ.update(settings.environment)
    # Numerical libraries read the threads when they are loaded, and CUDA the GPU when it is first used.
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpu
    share_cores(settings.feeding)
    from threadpoolctl import threadpool_limits

    from lrbench.models.devices import pick_device, set_cpu_threads

    # For libraries that were loaded before.
    threadpool_limits(settings.threads)
    device = pick_device()
    set_cpu_threads(device, settings.threads)
    return device.type


def outcome(job: Job, suite: Suite, place: Place, control: Control, processes: int = 1) -> tuple[str, object]:
    """Run a job; return `done` with its report, or `failed` with its error, which can be pickled.

    Args:
        job: The job.
        suite: Passed to the job.
        place: Passed to the job.
        control: Passed to the job.
        processes: Processes that pretrain a snapshot together.
    """
    try:
        if processes > 1 and isinstance(job, PretrainJob):
            return "done", pretrain_in_group(job, suite, place, control, processes)
        return "done", job.run(suite, place, control)
    except Exception as error:
        return "failed", picklable(as_user_error(error, f"`{job.name}`"))
