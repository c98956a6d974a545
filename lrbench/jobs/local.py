"""Run a suite's jobs in worker processes: several on CPUs, each with a share of the cores, or one on a GPU.

The parent imports no torch. It hands out jobs, shows progress and collects errors. A job whose work exists already ends at
once, so nothing is lost if a worker or the parent is killed.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork, LrbenchError
from lrbench.core.machine import available_cores
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job
from lrbench.jobs.worker import work

# More processes are limited by memory bandwidth; larger machines give each more threads.
_MOST_WORKERS = 8
STOPPED = "stopped; all work so far is saved. Run the same command again to continue."


class Observer(Protocol):
    """Callbacks for the progress of a suite's jobs."""

    def started(self, job: Job) -> None:
        """Called when a job starts."""

    def progressed(self, job: Job, done: int, total: int, unit: str) -> None:
        """Called when a job has made progress."""

    def finished(self, job: Job, line: str) -> None:
        """Called when a job is done, with its one-line report."""

    def reported(self, text: str) -> None:
        """Called with a message of a job."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    started: bool = False


def run_jobs(
    jobs: Sequence[Job], suite: Suite, place: Place, control: Control, observer: Observer, *, workers: int | None = None
) -> None:
    """Run jobs until all are done.

    A failed job does not stop jobs that do not need it; the first error is raised after they have ended.

    Args:
        jobs: Parents before children.
        suite: Passed to each job.
        place: Passed to each job.
        control: Says when to stop.
        observer: Called with the progress.
        workers: Number of processes; None to choose it for this machine.

    Raises:
        LrbenchError: The first error of a job.
        InterruptedWork: Stopped; unfinished work was saved.
    """
    if jobs:
        _Run(jobs, suite, place, control, observer, workers).run()


class _Run:
    def __init__(
        self,
        jobs: Sequence[Job],
        suite: Suite,
        place: Place,
        control: Control,
        observer: Observer,
        workers: int | None,
    ) -> None:
        self._waiting = {job.name: job for job in jobs}
        self._urgency = _urgency(jobs)
        self._done: set[str] = set()
        self._errors: list[LrbenchError] = []
        self._suite, self._place, self._control, self._observer = suite, place, control, observer
        cores = available_cores()
        most = workers or max(1, min(cores // suite.training.threads, _MOST_WORKERS))
        self._threads = max(1, cores // most)
        self._wanted = min(most, len(jobs))
        # If there is a GPU, the first worker finds out whether torch can use it; if so, it works alone.
        self._first = 1 if workers is None and _may_have_gpu() else self._wanted
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._workers: list[_Worker] = []

    def run(self) -> None:
        try:
            for _ in range(self._first):
                self._start_worker()
            while self._assign_jobs():
                if self._control.stop_requested():
                    self._stop_workers()
                ready: list[Any] = wait([worker.connection for worker in self._workers], timeout=0.2)
                for connection in ready:
                    self._receive(next(worker for worker in self._workers if worker.connection is connection))
            self._end_workers()
        except KeyboardInterrupt:
            # A second Ctrl-C stops at once; files are written atomically.
            self._kill(self._workers)
            raise
        except BaseException:
            self._end_workers()
            raise
        if self._control.stop_requested() or any(isinstance(error, InterruptedWork) for error in self._errors):
            raise InterruptedWork(STOPPED)
        if self._errors:
            raise self._summary()

    def _start_worker(self) -> None:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._stop, self._suite, self._place, self._threads), daemon=False
        )
        # The child inherits the mask, so that only the parent handles Ctrl-C.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._workers.append(_Worker(process, mine))

    def _assign_jobs(self) -> bool:
        """Assign a job to every idle worker. Return False if no job runs and none can start."""
        for worker in self._workers:
            if worker.job is None and not self._control.stop_requested():
                ready = [job for job in self._waiting.values() if self._done.issuperset(job.needs)]
                if ready:
                    worker.job = self._waiting.pop(max(ready, key=lambda job: self._urgency[job.name]).name)
                    # The death of a worker is handled when its pipe is read.
                    with contextlib.suppress(OSError):
                        worker.connection.send(worker.job)
                    self._observer.started(worker.job)
        return any(worker.job for worker in self._workers)

    def _stop_workers(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._observer.reported("stopping as soon as the work is saved; Ctrl-C again stops at once")
        # A worker that still imports libraries has nothing to save and does not react.
        self._kill([worker for worker in self._workers if not worker.started])

    def _kill(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
        self._workers = [worker for worker in self._workers if worker not in workers]

    def _receive(self, worker: _Worker) -> None:
        try:
            kind, *rest = worker.connection.recv()
        except (EOFError, OSError):
            self._handle_death(worker)
            return
        job = worker.job
        if kind == "device":
            worker.started = True
            while rest[0] == "cpu" and len(self._workers) < self._wanted:
                self._start_worker()
        elif kind == "message":
            self._observer.reported(rest[0])
        elif job is not None and kind == "progress":
            self._observer.progressed(job, *rest)
        elif job is not None:
            worker.job = None
            if kind == "done":
                self._done.add(job.name)
                self._observer.finished(job, rest[0])
            else:
                self._errors.append(rest[0])

    def _handle_death(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        if worker.job is not None:
            self._errors.append(
                FailureError(
                    f"the worker process of `{worker.job.name}` died (exit status {worker.process.exitcode}). The usual cause "
                    "is that the machine ran out of memory. Run the same command again with fewer processes (--workers 1) "
                    "or a smaller batch; saved results are kept."
                )
            )
            if self._waiting and not self._control.stop_requested():
                self._start_worker()

    def _end_workers(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        for worker in self._workers:
            worker.process.join(timeout=10 if worker.job is None else 1)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()

    def _summary(self) -> LrbenchError:
        first = self._errors[0]
        others = len({str(error) for error in self._errors} - {str(first)})
        more = f" Other jobs failed with {others} other error{'s' if others > 1 else ''}." if others else ""
        if self._waiting:
            count = len(self._waiting)
            jobs = "1 job that depends on it was" if count == 1 else f"{count} jobs that depend on it were"
            more += f" {jobs} not started; all other jobs are done and saved."
        kind = type(first) if type(first) in (InputError, FailureError) else FailureError
        summary = kind(f"{first}{more}")
        summary.exit_status = first.exit_status
        return summary


def _urgency(jobs: Sequence[Job]) -> dict[str, float]:
    """Return for each job the weight of the longest chain that starts with it; the largest starts first."""
    urgency: dict[str, float] = {}
    for job in reversed(jobs):
        children = [urgency[other.name] for other in jobs if job.name in other.needs and other.name in urgency]
        urgency[job.name] = job.weight + max(children, default=0.0)
    return urgency


def _may_have_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in {"", "-1"}:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None
