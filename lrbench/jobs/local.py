"""Run a suite's jobs in worker processes of this machine: on GPUs, or on CPUs with a share of the cores each.

The parent imports no torch. It hands out jobs, shows progress and collects errors. A job whose work exists already ends at
once, so nothing is lost if a worker or the parent is killed.

Every GPU starts with one worker. Workers are added while they leave it idle (`gpus.more_workers`), and one is taken away
when memory runs out; the job that ran out of it starts again.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork, OutOfMemory
from lrbench.core.machine import available_cores
from lrbench.core.workspace import Place
from lrbench.jobs.gpus import Load, more_workers, visible_gpus
from lrbench.jobs.job import Job
from lrbench.jobs.schedule import Schedule
from lrbench.jobs.worker import PRELOADED, WorkerSettings, work

# More processes are limited by memory bandwidth; larger machines give each more threads.
_MOST_WORKERS = 8
# A process that launches kernels keeps a core busy, and feeding it takes another.
_CORES_PER_GPU_WORKER = 2
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


@dataclass(kw_only=True)
class _Device:
    """A GPU, or the CPUs.

    Attributes:
        gpu: Value of CUDA_VISIBLE_DEVICES; None for CPUs.
        most: Largest number of workers; lowered when memory runs out.
    """

    gpu: str | None
    most: int


@dataclass(kw_only=True)
class _Worker:
    """A worker process.

    Attributes:
        job: Its current job.
        last: The job before.
        started: Whether it has imported its libraries.
        load: What it uses of its GPU, since the GPU's last worker was added.
        had_company: Whether another worker used its device while the current job ran.
        retired: Whether it gets no more jobs.
    """

    process: BaseProcess
    connection: Connection
    device: _Device
    job: Job | None = None
    last: Job | None = None
    started: bool = False
    load: Load | None = None
    had_company: bool = False
    retired: bool = False


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
        workers: Number of processes; None to choose it for this machine, on GPUs from what the first updates leave idle.

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
        self._schedule = Schedule(jobs)
        self._suite, self._place, self._control, self._observer = suite, place, control, observer
        self._cores, self._chosen = available_cores(), workers
        self._most_jobs = len(jobs)
        self._on_cpus = _Device(
            gpu=None, most=workers or max(1, min(self._cores // suite.training.threads, _MOST_WORKERS))
        )
        gpus = visible_gpus()
        share = max(1, min(self._cores // (_CORES_PER_GPU_WORKER * max(1, len(gpus))), _MOST_WORKERS))
        self._gpus = [_Device(gpu=gpu, most=workers or share) for gpu in gpus]
        # Workers on CPUs are forked from a process that has imported their libraries. CUDA may not survive a fork.
        self._context: Any = multiprocessing.get_context("spawn" if gpus else "forkserver")
        if not gpus:
            self._context.set_forkserver_preload(list(PRELOADED))
        self._stop = self._context.Event()
        self._workers: list[_Worker] = []
        self._died: set[str] = set()

    def run(self) -> None:
        try:
            self._start_first_workers()
            while self._assign_jobs():
                if self._control.stop_requested():
                    self._stop_workers()
                ready: list[Any] = wait([worker.connection for worker in self._workers], timeout=0.2)
                for connection in ready:
                    self._receive(next(worker for worker in self._workers if worker.connection is connection))
            self._end_workers(self._workers)
        except KeyboardInterrupt:
            # A second Ctrl-C stops at once; files are written atomically.
            self._kill(self._workers)
            raise
        except BaseException:
            self._end_workers(self._workers)
            raise
        if self._control.stop_requested() or self._schedule.was_interrupted:
            raise InterruptedWork(STOPPED)
        if (error := self._schedule.error()) is not None:
            raise error

    def _start_first_workers(self) -> None:
        """Start one worker per GPU, or `workers` in turn on the GPUs; without GPUs, all on the CPUs."""
        devices = self._gpus or [self._on_cpus]
        count = self._chosen or (len(self._gpus) if self._gpus else self._on_cpus.most)
        for number in range(min(count, self._most_jobs)):
            self._start_worker(devices[number % len(devices)])

    def _start_worker(self, device: _Device) -> None:
        most = self._on_cpus.most if device.gpu is None else sum(gpu.most for gpu in self._gpus)
        settings = WorkerSettings(
            threads=max(1, self._cores // (self._chosen or most)),
            gpu=device.gpu,
            feeding=max(1, len(self._gpus)),
            environment=dict(os.environ),
        )
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._stop, self._suite, self._place, settings), daemon=False
        )
        # The child inherits the mask, so that only the parent handles Ctrl-C.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        for worker in self._on(device):
            worker.had_company, worker.load = True, None
        self._workers.append(_Worker(process=process, connection=mine, device=device))

    def _on(self, device: _Device) -> list[_Worker]:
        return [worker for worker in self._workers if worker.device is device and not worker.retired]

    def _assign_jobs(self) -> bool:
        """Assign a job to every idle worker. Return False if no job runs and none can start."""
        for worker in [worker for worker in self._workers if worker.job is None and not worker.retired]:
            if self._control.stop_requested():
                break
            running = [other.job for other in self._workers if other.job is not None]
            job = self._schedule.take(worker.last, running)
            if job is None:
                continue
            worker.job, worker.had_company = job, len(self._on(worker.device)) > 1
            # The death of a worker is handled when its pipe is read.
            with contextlib.suppress(OSError):
                worker.connection.send(job)
            self._observer.started(job)
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
            if rest[0] == "cpu":
                self._use_cpus(worker)
        elif kind == "load":
            worker.load = rest[0]
            self._add_workers(worker.device)
        elif kind == "message":
            self._observer.reported(rest[0])
        elif job is not None and kind == "progress":
            self._observer.progressed(job, *rest)
        elif job is not None:
            worker.job, worker.last = None, job
            if kind == "done":
                self._schedule.finish(job)
                self._observer.finished(job, rest[0])
            elif isinstance(rest[0], OutOfMemory) and worker.had_company:
                self._back_off(worker, job, "ran out of memory")
                self._retire(worker)
            else:
                self._schedule.fail(rest[0])

    def _use_cpus(self, worker: _Worker) -> None:
        """Count a worker as one on CPUs, and start the others that CPUs have room for."""
        self._gpus = []
        worker.device = self._on_cpus
        if not self._control.stop_requested():
            while len(self._workers) < min(self._on_cpus.most, self._most_jobs):
                self._start_worker(self._on_cpus)

    def _add_workers(self, device: _Device) -> None:
        """Add workers to a GPU that the present ones leave idle."""
        if self._chosen is not None or self._control.stop_requested():
            return
        workers = self._on(device)
        wanted = min(more_workers([worker.load for worker in workers], device.most), self._schedule.waiting)
        if wanted:
            self._observer.reported(
                f"GPU {device.gpu} is idle for most of the time; {len(workers) + wanted} worker processes share it from now on"
            )
        for _ in range(wanted):
            self._start_worker(device)

    def _back_off(self, worker: _Worker, job: Job, reason: str) -> None:
        """Let a job start again, and use one worker fewer on its device."""
        others = [other for other in self._on(worker.device) if other is not worker]
        worker.device.most = max(1, len(others))
        self._schedule.put_back(job)
        count = "one worker process" if worker.device.most == 1 else f"{worker.device.most} worker processes"
        self._observer.reported(f"{job.name} {reason}; it starts again, with {count} on this device")

    def _retire(self, worker: _Worker) -> None:
        """End a worker, which frees its memory, and keep its device in use."""
        worker.retired = True
        self._end_workers([worker])
        self._workers.remove(worker)
        if not self._on(worker.device):
            self._start_worker(worker.device)

    def _handle_death(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        job = worker.job
        if self._control.stop_requested():
            return
        if job is None:
            # It has nothing to lose.
            pass
        elif job.name not in self._died:
            self._died.add(job.name)
            self._back_off(worker, job, f"lost its worker process (exit status {worker.process.exitcode})")
        else:
            self._schedule.fail(
                FailureError(
                    f"the worker process of `{job.name}` died twice (exit status {worker.process.exitcode}). The usual cause "
                    "is that the machine ran out of memory. Run the same command again with fewer processes (--workers 1) "
                    "or a smaller batch; saved results are kept."
                )
            )
        if self._schedule.waiting and not self._on(worker.device):
            self._start_worker(worker.device)

    def _end_workers(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        for worker in workers:
            worker.process.join(timeout=10 if worker.job is None else 1)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()
