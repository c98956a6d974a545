"""Pretraining of a snapshot by several processes of this machine, which torchrun's agent starts."""

import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.distributed import init_process_group
from lrbench.core.errors import FailureError, InterruptedWork, LrbenchError, as_user_error
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.local import STOPPED, Observer
from lrbench.jobs.schedule import Schedule
from lrbench.jobs.together import ObservedControl
from lrbench.jobs.worker import outcome, plain

# Seconds between two looks at the processes.
_POLL_SECONDS = 0.2
# Seconds in which a process whose partner died may end by itself.
_SHUTDOWN_SECONDS = 5


class _MemberControl(Control):
    """Sends progress to the process that started the group, and stops with it."""

    def __init__(self, stop: Event, messages: "SimpleQueue[tuple[Any, ...]]") -> None:
        super().__init__()
        self._event, self._messages, self._parent = stop, messages, os.getppid()
        self._sent = 0.0

    def stop_requested(self) -> bool:
        return super().stop_requested() or self._event.is_set() or os.getppid() != self._parent

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if os.environ["RANK"] == "0" and (now - self._sent > _POLL_SECONDS or done == total):
            self._sent = now
            self._messages.put((done, total, unit))

    def say(self, text: str) -> None:
        self._messages.put((text,))


def _member(
    job: PretrainJob, suite: Suite, place: Place, stop: Event, messages: "SimpleQueue[tuple[Any, ...]]"
) -> tuple[str, object]:
    """Train together with the other processes; return `done` with the report, or `failed` with the error."""
    control = _MemberControl(stop, messages)
    # Ctrl-C reaches all processes of a terminal; only the first one handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: control.stop())
    try:
        with init_process_group() as ranks:
            return "done", job.run_together(suite, place, control, ranks)
    except LrbenchError as error:
        return "failed", plain(error)


def pretrain_in_group(
    job: PretrainJob, suite: Suite, place: Place, control: Control, processes: int
) -> tuple[str, object]:
    """Pretrain a snapshot with several processes; return `done` with its report, or `failed` with its error.

    Args:
        job: The job.
        suite: Passed to the job.
        place: Passed to the job.
        control: Receives progress; asked whether to stop.
        processes: Number of processes, with one GPU each if there are GPUs.
    """
    context = multiprocessing.get_context("spawn")
    stop, messages = context.Event(), context.SimpleQueue()
    results: list[tuple[str, object]] = []
    # The agent handles signals only in the main thread, where they request a stop.
    agent = threading.Thread(target=_launch, args=(job, suite, place, stop, messages, processes, results), daemon=True)
    agent.start()
    while agent.is_alive() or not messages.empty():
        if control.stop_requested():
            stop.set()
        while not messages.empty():
            message = messages.get()
            if len(message) == 1:
                control.say(*message)
            else:
                control.progress(*message)
        agent.join(_POLL_SECONDS)
    return results[0]


def _launch(
    job: PretrainJob,
    suite: Suite,
    place: Place,
    stop: Event,
    messages: "SimpleQueue[tuple[Any, ...]]",
    processes: int,
    results: list[tuple[str, object]],
) -> None:
    """Start the processes, wait for them, and append the outcome."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    configuration = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        outcomes = elastic_launch(configuration, _member)(job, suite, place, stop, messages)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        results.append(
            (
                "failed",
                FailureError(
                    f"a process of `{job.name}` died (exit status {first.exitcode}). The usual cause is that the machine ran "
                    "out of memory. Run the same command again; what was saved is kept."
                ),
            )
        )
    except Exception as error:
        results.append(("failed", plain(as_user_error(error, f"`{job.name}`"))))
    else:
        failed = [outcomes[rank] for rank in sorted(outcomes) if outcomes[rank][0] == "failed"]
        results.append(failed[0] if failed else outcomes[0])


def run_jobs_in_groups(
    jobs: Sequence[Job], suite: Suite, place: Place, control: Control, observer: Observer, processes: int
) -> None:
    """Run jobs one after another, each snapshot with several processes.

    Args:
        jobs: Parents before children.
        suite: Passed to each job.
        place: Passed to each job.
        control: Says when to stop.
        observer: Called with the progress.
        processes: Number of processes that pretrain together.

    Raises:
        LrbenchError: The first error of a job.
        InterruptedWork: Stopped; unfinished work was saved.
    """
    schedule = Schedule(jobs)
    observed = ObservedControl(control, observer)
    while not control.stop_requested() and (job := schedule.take()) is not None:
        observer.started(job)
        if isinstance(job, PretrainJob):
            kind, content = pretrain_in_group(job, suite, place, observed.of(job), processes)
        else:
            kind, content = outcome(job, suite, place, observed.of(job))
        if kind == "done":
            schedule.finish(job)
            observer.finished(job, str(content))
        else:
            assert isinstance(content, LrbenchError)
            schedule.fail(content)
    if control.stop_requested() or schedule.was_interrupted:
        raise InterruptedWork(STOPPED)
    if (error := schedule.error()) is not None:
        raise error
