"""Runs a suite's jobs on this machine: on CPUs several processes with their share of the cores, on a GPU one.

The parent imports no torch; it hands out jobs, shows progress, and collects what went wrong. A job whose work is done
already ends at once, so nothing is lost when a process or the parent is killed.
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

# More processes than this only share memory bandwidth; larger machines give each more threads.
_MOST_WORKERS = 8


STOPPED = "stopped; all work so far is saved. Run the same command again to continue."


class Observer(Protocol):
    """Is informed of a suite's work."""

    def started(self, job: Job) -> None:
        """A job was started."""

    def progressed(self, job: Job, done: int, total: int, unit: str) -> None:
        """A job has made progress."""

    def finished(self, job: Job, line: str) -> None:
        """A job is done; `line` says what came out."""

    def said(self, text: str) -> None:
        """A job reports something."""


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

    A job that fails does not stop those that do not need it; the first error is raised when they have ended.

    Args:
        jobs: Parents before children.
        suite: Handed to each job.
        place: Handed to each job.
        control: Asked whether to stop.
        observer: Told what happens.
        workers: Number of processes; None for as many as this machine does well with.

    Raises:
        LrbenchError: The first job's error.
        InterruptedWork: Asked to stop; what was in work has been saved.
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
        # Beside a GPU the first process finds out whether torch can use it; if so it works alone.
        self._first = 1 if workers is None and _gpu_in_sight() else self._wanted
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._crew: list[_Worker] = []

    def run(self) -> None:
        try:
            for _ in range(self._first):
                self._hire()
            while self._hand_out():
                if self._control.stop_requested():
                    self._ask_to_stop()
                ready: list[Any] = wait([worker.connection for worker in self._crew], timeout=0.2)
                for connection in ready:
                    self._listen(next(worker for worker in self._crew if worker.connection is connection))
            self._dismiss()
        except KeyboardInterrupt:
            # A second Ctrl-C waits for nothing: files are written whole or not at all.
            self._kill(self._crew)
            raise
        except BaseException:
            self._dismiss()
            raise
        if self._control.stop_requested() or any(isinstance(error, InterruptedWork) for error in self._errors):
            raise InterruptedWork(STOPPED)
        if self._errors:
            raise self._summary()

    def _hire(self) -> None:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._stop, self._suite, self._place, self._threads), daemon=False
        )
        # The child inherits the mask: what Ctrl-C means is the parent's to decide, which gets it when the mask is lifted.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._crew.append(_Worker(process, mine))

    def _hand_out(self) -> bool:
        """Give every idle process a job; False when nothing runs and nothing can be begun."""
        for worker in self._crew:
            if worker.job is None and not self._control.stop_requested():
                ready = [job for job in self._waiting.values() if self._done.issuperset(job.needs)]
                if ready:
                    worker.job = self._waiting.pop(max(ready, key=lambda job: self._urgency[job.name]).name)
                    # One that has ended is noticed by whoever listens.
                    with contextlib.suppress(OSError):
                        worker.connection.send(worker.job)
                    self._observer.started(worker.job)
        return any(worker.job for worker in self._crew)

    def _ask_to_stop(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._observer.said("stopping once the work so far is saved; Ctrl-C again stops at once")
        # What still imports its libraries has nothing to save, and does not listen.
        self._kill([worker for worker in self._crew if not worker.started])

    def _kill(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
        self._crew = [worker for worker in self._crew if worker not in workers]

    def _listen(self, worker: _Worker) -> None:
        try:
            kind, *rest = worker.connection.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        job = worker.job
        if kind == "device":
            worker.started = True
            while rest[0] == "cpu" and len(self._crew) < self._wanted:
                self._hire()
        elif kind == "said":
            self._observer.said(rest[0])
        elif job is not None and kind == "progress":
            self._observer.progressed(job, *rest)
        elif job is not None:
            worker.job = None
            if kind == "done":
                self._done.add(job.name)
                self._observer.finished(job, rest[0])
            else:
                self._errors.append(rest[0])

    def _lost(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.process.join()
        if worker.job is not None:
            self._errors.append(
                FailureError(
                    f"the worker process of `{worker.job.name}` died (exit status {worker.process.exitcode}), most often "
                    "because the machine ran out of memory. Results already saved are kept. Run the same command again with "
                    "fewer processes (--workers 1) or a smaller batch."
                )
            )
            if self._waiting and not self._control.stop_requested():
                self._hire()

    def _dismiss(self) -> None:
        for worker in self._crew:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        for worker in self._crew:
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
    """The weight of the longest chain that begins with each job: the one to begin first is the most urgent."""
    urgency: dict[str, float] = {}
    for job in reversed(jobs):
        children = [urgency[other.name] for other in jobs if job.name in other.needs and other.name in urgency]
        urgency[job.name] = job.weight + max(children, default=0.0)
    return urgency


def _gpu_in_sight() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in {"", "-1"}:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None
