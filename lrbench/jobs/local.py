"""Run a suite's jobs in worker processes of this machine: on GPUs, or on CPUs with a share of the cores each.

The parent imports no torch. It hands out jobs, shows progress and collects errors. A job whose work exists already ends at
once, so nothing is lost if a worker or the parent is killed.

Every GPU starts with one worker. Workers are added while they leave it idle (`gpus.more_workers`), and one is taken away
when memory runs out; the job that ran out of it starts again. Beside GPUs, one worker prepares images on the CPUs.

With several GPUs for each snapshot, the worker of a group of GPUs pretrains, and workers on its GPUs run other jobs while no
snapshot waits.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, OutOfMemory
from lrbench.core.machine import available_cores
from lrbench.core.workspace import Place
from lrbench.jobs.devices import Device, evaluates, grouped_gpus, preparing_device, single_gpus
from lrbench.jobs.gpus import Load, more_workers, visible_gpus
from lrbench.jobs.job import PRELOADED, Job
from lrbench.jobs.schedule import Observer, Schedule
from lrbench.jobs.worker import WorkerSettings, work

# More processes are limited by memory bandwidth; larger machines give each more threads.
_MOST_WORKERS = 8
# A process that launches kernels keeps a core busy, and feeding it takes another.
_CORES_PER_GPU_WORKER = 2
# Seconds in which a worker without a job ends.
_EXIT_SECONDS = 10


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
    device: Device
    job: Job | None = None
    last: Job | None = None
    started: bool = False
    load: Load | None = None
    had_company: bool = False
    retired: bool = False


def run_jobs(
    jobs: Sequence[Job],
    suite: Suite,
    place: Place,
    control: Control,
    observer: Observer,
    *,
    workers: int | None = None,
    gpus: int = 1,
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
        gpus: GPUs on which a snapshot is pretrained. With more than one, other jobs get one worker on each GPU.

    Raises:
        InputError: This machine has fewer GPUs.
        LrbenchError: The first error of a job.
        InterruptedWork: Stopped; unfinished work was saved.
    """
    if jobs:
        _Run(jobs, suite, place, control, observer, workers, gpus).run()


class _Run:
    def __init__(
        self,
        jobs: Sequence[Job],
        suite: Suite,
        place: Place,
        control: Control,
        observer: Observer,
        workers: int | None,
        gpus: int,
    ) -> None:
        self._schedule = Schedule(jobs)
        self._suite, self._place, self._control, self._observer = suite, place, control, observer
        self._cores, self._chosen = available_cores(), workers
        self._most_jobs = len(jobs)
        self._on_cpus = Device(
            gpu=None, most=workers or max(1, min(self._cores // suite.training.threads, _MOST_WORKERS))
        )
        visible = visible_gpus()
        share = max(1, min(self._cores // (_CORES_PER_GPU_WORKER * max(1, len(visible))), _MOST_WORKERS))
        self._gpus = grouped_gpus(visible, gpus) if gpus > 1 else single_gpus(visible, workers or share)
        self._preparing = preparing_device()
        # Workers on CPUs are forked from a process that has imported their libraries. CUDA may not survive a fork.
        self._context: Any = multiprocessing.get_context("spawn" if visible else "forkserver")
        if not visible:
            self._context.set_forkserver_preload([PRELOADED])
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
        if (error := self._schedule.error(stopped=self._control.stop_requested())) is not None:
            raise error

    def _start_first_workers(self) -> None:
        """Start one worker per GPU, or `workers` in turn on the GPUs; without GPUs, all on the CPUs."""
        devices = [gpu for gpu in self._gpus if gpu.is_plain]
        if not self._gpus:
            devices = [self._on_cpus] * self._on_cpus.most
        count = self._chosen or len(devices)
        for number in range(min(count, self._most_jobs) if devices else 0):
            self._start_worker(devices[number % len(devices)])

    def _staff(self) -> None:
        """Start the workers of groups, of their GPUs and for preparation when their jobs wait, and end those without jobs."""
        for device in [device for device in (*self._gpus, self._preparing) if not device.is_plain]:
            workers = self._on(device)
            if not self._gpus or not self._schedule.has_waiting(device.takes):
                self._end([worker for worker in workers if worker.job is None])
            elif not workers and self._can_start_worker(device):
                self._start_worker(device)

    def _can_start_worker(self, device: Device) -> bool:
        """Return whether a device for one kind of job may have a worker; on one GPU of a group, only while a job can start."""
        return device.takes is not evaluates or (self._schedule.has_ready(evaluates) and self._is_free(device))

    def _is_free(self, device: Device) -> bool:
        """Return whether no job runs on the device's GPUs, and no snapshot waits for them."""
        if device.group is not None and self._schedule.has_ready(device.group.takes):
            return False
        others = device.parts if device.group is None else [device.group]
        return not any(worker.job for other in others for worker in self._on(other))

    def _start_worker(self, device: Device) -> None:
        most = self._on_cpus.most if device.gpu is None else sum(gpu.most for gpu in self._gpus if not gpu.parts)
        settings = WorkerSettings(
            threads=max(1, self._cores // (self._chosen or most)),
            gpu=device.gpu,
            processes=device.processes,
            feeding=max(1, sum(not gpu.parts for gpu in self._gpus)),
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

    def _on(self, device: Device) -> list[_Worker]:
        return [worker for worker in self._workers if worker.device is device and not worker.retired]

    def _assign_jobs(self) -> bool:
        """Assign a job to every idle worker. Return False if no job runs and none can start."""
        if not self._control.stop_requested():
            self._staff()
        for worker in [worker for worker in self._workers if worker.job is None and not worker.retired]:
            if self._control.stop_requested():
                break
            if not self._is_free(worker.device):
                continue
            running = [other.job for other in self._workers if other.job is not None]
            job = self._schedule.take(worker.last, running, worker.device.takes)
            if job is None:
                continue
            # Their memory is needed.
            for part in worker.device.parts:
                self._end(self._on(part))
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
            if rest[0] == "cpu" and worker.device.is_plain:
                self._use_cpus(worker)
            elif rest[0] == "cpu" and worker.device.parts:
                self._observer.reported(
                    f"torch finds no GPU; {worker.device.processes} processes pretrain each snapshot on the CPUs"
                )
        elif kind == "load":
            worker.load = rest[0]
            self._add_workers(worker.device)
        elif kind == "message":
            self._observer.reported(rest[0])
        elif job is not None and kind == "progress":
            self._observer.progressed(job, *rest)
        elif job is not None:
            worker.job, worker.last = None, job
            if isinstance(rest[0], OutOfMemory) and worker.had_company:
                self._back_off(worker, job, "ran out of memory")
                self._retire(worker)
            elif (report := self._schedule.end(job, (kind, rest[0]))) is not None:
                self._observer.finished(job, report)

    def _use_cpus(self, worker: _Worker) -> None:
        """Count a worker as one on CPUs, and start the others that CPUs have room for."""
        self._gpus = []
        worker.device = self._on_cpus
        if not self._control.stop_requested():
            while len(self._workers) < min(self._on_cpus.most, self._most_jobs):
                self._start_worker(self._on_cpus)

    def _add_workers(self, device: Device) -> None:
        """Add workers to a GPU that the present ones leave idle."""
        if self._chosen is not None or not device.is_plain or self._control.stop_requested():
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
        self._end([worker])
        if not self._on(worker.device):
            self._start_worker(worker.device)

    def _handle_death(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        job = worker.job
        if self._control.stop_requested():
            return
        if job is None:
            # An idle worker has no job to repeat.
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
        # Where torch finds no GPU, the CPUs take over from GPUs whose worker has not reported that yet.
        runs_all_jobs = worker.device is self._on_cpus or (worker.device.is_plain and bool(self._gpus))
        if self._schedule.waiting and runs_all_jobs and not self._on(worker.device):
            self._start_worker(worker.device)

    def _end(self, workers: Sequence[_Worker]) -> None:
        """End idle workers."""
        self._end_workers(workers)
        self._workers = [worker for worker in self._workers if worker not in workers]

    def _end_workers(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        for worker in workers:
            worker.process.join(timeout=_EXIT_SECONDS if worker.job is None else 1)
            if worker.process.is_alive():
                if worker.job is None:
                    # It has nothing to save. A library's thread may keep it, where no job looks for a request to stop.
                    worker.process.kill()
                else:
                    worker.process.terminate()
                worker.process.join()
