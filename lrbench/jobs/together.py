"""Run a suite's jobs under `torchrun`: all processes train each snapshot together; transfers are divided among them."""

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
        suite: Passed to each job.
        place: Passed to each job.
        control: Says when to stop.
        observer: Called with the progress: of snapshots in the first process only, of transfers in each.
        ranks: The processes.

    Raises:
        LrbenchError: The first error of any process.
        InterruptedWork: Stopped; unfinished work was saved.
    """
    observed = ObservedControl(control, observer)
    for job in jobs:
        if isinstance(job, PretrainJob):
            if ranks.is_main:
                observer.started(job)
            line = job.run_together(suite, place, observed.of(job), ranks)
            if ranks.is_main:
                observer.finished(job, line)
            # A signal may reach one process before another.
            if any(ranks.all_gather(control.stop_requested())):
                raise ranks.mark_shared(InterruptedWork(STOPPED))
    transfers = [job for job in jobs if not isinstance(job, PretrainJob)]
    failure: LrbenchError | None = None
    for job in transfers[ranks.rank :: ranks.world_size]:
        if control.stop_requested():
            break
        observer.started(job)
        try:
            observer.finished(job, job.run(suite, place, observed.of(job)))
        except LrbenchError as error:
            failure = failure or error
    outcomes = ranks.all_gather((failure, control.stop_requested()))
    if any(stopped for _, stopped in outcomes):
        raise ranks.mark_shared(InterruptedWork(STOPPED))
    first = next((error for error, _ in outcomes if error is not None), None)
    if first is not None:
        raise ranks.mark_shared(first)


class ObservedControl(Control):
    """Forward the progress of the current job to an observer."""

    def __init__(self, control: Control, observer: Observer) -> None:
        super().__init__()
        self._control, self._observer = control, observer
        self._job: Job | None = None

    def of(self, job: Job) -> "ObservedControl":
        """Return this control, as that of a job."""
        self._job = job
        return self

    def stop_requested(self) -> bool:
        """Return whether a stop was requested."""
        return self._control.stop_requested()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Forward the progress."""
        if self._job is not None:
            self._observer.progressed(self._job, done, total, unit)

    def say(self, text: str) -> None:
        """Forward a message."""
        self._observer.reported(text)
