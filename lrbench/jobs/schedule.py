"""Order of a suite's jobs: which can start, which are done, and what failed. Every engine runs jobs by it."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from lrbench.core.errors import FailureError, InputError, InterruptedWork, LrbenchError
from lrbench.jobs.job import Job

_STOPPED = "stopped; all work so far is saved. Run the same command again to continue."


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


class Schedule:
    """State of the jobs of one run.

    Args:
        jobs: Parents before children.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = {job.name: job for job in jobs}
        self._urgency = longest_chains(jobs)
        self._done: set[str] = set()
        self._errors: list[LrbenchError] = []

    @property
    def waiting(self) -> int:
        """Number of jobs that have not started."""
        return len(self._waiting)

    def take(
        self,
        last: Job | None = None,
        running: Collection[Job] = (),
        fits: Callable[[Job], bool] = lambda job: True,
    ) -> Job | None:
        """Remove and return the most urgent job that can start, or None.

        Of equally urgent jobs, the one that reuses most of what its process has loaded is returned, then the one that other
        processes can reuse least of.

        Args:
            last: The previous job of the same process.
            running: The jobs of other processes.
            fits: Whether there is room for a job.
        """
        ready = [job for job in self._waiting.values() if self._done.issuperset(job.needs) and fits(job)]
        if not ready:
            return None

        def preference(job: Job) -> tuple[float, int, int]:
            return (
                self._urgency[job.name],
                0 if last is None else job.reuse(last),
                -sum(job.reuse(other) for other in running),
            )

        return self._waiting.pop(max(ready, key=preference).name)

    def has_ready(self, fits: Callable[[Job], bool] = lambda job: True) -> bool:
        """Return whether a waiting job needs no other."""
        return any(self._done.issuperset(job.needs) and fits(job) for job in self._waiting.values())

    def has_waiting(self, fits: Callable[[Job], bool]) -> bool:
        """Return whether one of these jobs has not started."""
        return any(map(fits, self._waiting.values()))

    def put_back(self, job: Job) -> None:
        """Let a job that was taken start again."""
        self._waiting[job.name] = job

    def finish(self, job: Job) -> None:
        """Record that a job is done, so that jobs that need it can start."""
        self._done.add(job.name)

    def fail(self, error: LrbenchError) -> None:
        """Record the error of a job; jobs that need it never start."""
        self._errors.append(error)

    def end(self, job: Job, outcome: tuple[str, object]) -> str | None:
        """Record the outcome of a job, `done` with its report or `failed` with its error; return the report."""
        kind, content = outcome
        if kind == "done":
            self.finish(job)
            return str(content)
        assert isinstance(content, LrbenchError)
        self.fail(content)
        return None

    @property
    def errors(self) -> tuple[LrbenchError, ...]:
        """The errors of jobs so far."""
        return tuple(self._errors)

    @property
    def was_interrupted(self) -> bool:
        """True if a job ended because a stop was requested."""
        return any(isinstance(error, InterruptedWork) for error in self._errors)

    def error(self, *, stopped: bool) -> LrbenchError | None:
        """Return what a run should raise at its end, or None.

        Args:
            stopped: Whether a stop was requested.

        Returns:
            The interruption; else the first error with the number of other errors and of jobs that could not start.
        """
        if stopped or self.was_interrupted:
            return InterruptedWork(_STOPPED)
        if not self._errors:
            return None
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


def longest_chains(jobs: Sequence[Job], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return for each job the weight of the longest chain that starts with it.

    Args:
        jobs: Parents before children.
        weights: Weight of each job, by name; None for their own.
    """
    urgency: dict[str, float] = {}
    below: defaultdict[str, float] = defaultdict(float)
    for job in reversed(jobs):
        urgency[job.name] = (job.weight if weights is None else weights[job.name]) + below[job.name]
        for need in job.needs:
            below[need] = max(below[need], urgency[job.name])
    return urgency
