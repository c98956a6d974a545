"""Runs a suite's jobs in the processes that `torchrun` started: snapshots are made by all of them, transfers shared out."""

from collections.abc import Sequence

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.distributed import ProcessGroup
from lrbench.core.errors import InterruptedWork, LrbenchError
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.local import STOPPED, Observer


def run_jobs_together(
    jobs: Sequence[Job], suite: Suite, place: Place, control: Control, observer: Observer, ranks: ProcessGroup
) -> None:
    """Run jobs until all are done.

    Args:
        jobs: Parents before children; the same in every process.
        suite: Handed to each job.
        place: Handed to each job.
        control: Asked whether to stop.
        observer: The first process's is told of snapshots, each process's of its own transfers.
        ranks: The processes.

    Raises:
        LrbenchError: The first error that any process met.
        InterruptedWork: Asked to stop; what was in work has been saved.
    """
    for job in jobs:
        if isinstance(job, PretrainJob):
            if ranks.is_main:
                observer.started(job)
            line = job.run_together(suite, place, _Watched(job, control, observer), ranks)
            if ranks.is_main:
                observer.finished(job, line)
            # A signal may reach one process before another.
            if any(ranks.all_gather(control.stop_requested())):
                raise ranks.mark_shared(InterruptedWork(STOPPED))
    transfers = [job for job in jobs if not isinstance(job, PretrainJob)]
    met: LrbenchError | None = None
    for job in transfers[ranks.rank :: ranks.world_size]:
        if control.stop_requested():
            break
        observer.started(job)
        try:
            observer.finished(job, job.run(suite, place, _Watched(job, control, observer)))
        except LrbenchError as error:
            met = met or error
    everyones = ranks.all_gather((met, control.stop_requested()))
    if any(stopped for _, stopped in everyones):
        raise ranks.mark_shared(InterruptedWork(STOPPED))
    for failed, _ in everyones:
        if failed is not None:
            raise ranks.mark_shared(failed)


class _Watched(Control):
    """Passes a job's progress on to an observer."""

    def __init__(self, job: Job, control: Control, observer: Observer) -> None:
        super().__init__()
        self._job, self._control, self._observer = job, control, observer

    def stop_requested(self) -> bool:
        return self._control.stop_requested()

    def progress(self, done: int, total: int, unit: str) -> None:
        self._observer.progressed(self._job, done, total, unit)

    def say(self, text: str) -> None:
        self._observer.said(text)
