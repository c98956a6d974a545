"""Run a suite's jobs under `torchrun`: all processes train each snapshot together, and each takes transfers of its own."""

from collections import deque
from collections.abc import Sequence

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.distributed import ProcessGroup
from lrbench.core.errors import LrbenchError, picklable
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.schedule import Observer, Schedule
from lrbench.jobs.worker import outcome as run_job


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
        LrbenchError: The first error of a job.
        InterruptedWork: Stopped; unfinished work was saved.
    """
    schedule, observed = Schedule(jobs), ObservedControl(control, observer)
    # Every process takes the same snapshots in the same order.
    while (job := schedule.take(fits=lambda job: isinstance(job, PretrainJob))) is not None:
        assert isinstance(job, PretrainJob)
        if ranks.is_main:
            observer.started(job)
        outcome: tuple[str, object]
        try:
            outcome = "done", job.run_together(suite, place, observed.of(job), ranks)
        except LrbenchError as error:
            # Without one of its processes the group cannot continue.
            if not error.shared:
                raise
            outcome = "failed", error
        report = schedule.end(job, outcome)
        if ranks.is_main and report is not None:
            observer.finished(job, report)
        # A signal may reach one process before another.
        if any(ranks.all_gather(control.stop_requested() or schedule.was_interrupted)):
            _raise_together(schedule, ranks, stopped=True)
    last: Job | None = None
    # The latest jobs of the other processes.
    others: deque[Job] = deque(maxlen=ranks.world_size - 1)
    while not control.stop_requested() and (job := schedule.take(last, others)) is not None:
        if not ranks.claim(job.name):
            schedule.finish(job)
            others.append(job)
            continue
        observer.started(job)
        report = schedule.end(job, run_job(job, suite, place, observed.of(job)))
        if report is not None:
            observer.finished(job, report)
        last = job
    gathered = ranks.all_gather((tuple(map(picklable, schedule.errors)), control.stop_requested()))
    known = {str(error) for error in schedule.errors}
    for failure in [failure for errors, _ in gathered for failure in errors if str(failure) not in known]:
        schedule.fail(failure)
    _raise_together(schedule, ranks, stopped=any(stopped for _, stopped in gathered))


def _raise_together(schedule: Schedule, ranks: ProcessGroup, *, stopped: bool) -> None:
    """Raise in every process what ends the run, if anything."""
    if (error := schedule.error(stopped=stopped)) is not None:
        raise ranks.mark_shared(error)


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
