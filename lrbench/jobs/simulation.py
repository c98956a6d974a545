"""Simulated time of a plan's missing jobs on several GPUs."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrbench.config import load_task
from lrbench.config.protocols import PROTOCOLS
from lrbench.core.workspace import Place
from lrbench.jobs.cost import Network, TaskSize, protocol_seconds, update_seconds
from lrbench.jobs.job import Job, PretrainJob, TransferJob
from lrbench.jobs.plan import Plan
from lrbench.jobs.schedule import Schedule, longest_chains


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Time of a plan's missing jobs, one job at a time on each GPU.

    Attributes:
        seconds: Time of all jobs, by number of GPUs.
        critical_path: Time of the longest chain of jobs, which no number of GPUs shortens.
        is_measured: Whether the times of jobs are earlier timings of this suite, instead of operation counts.
        unknown: Tasks of unknown size, whose transfers count as no time.
    """

    seconds: Mapping[int, float]
    critical_path: float
    is_measured: bool
    unknown: tuple[str, ...] = ()


def simulate_plan(plan: Plan, place: Place, gpus: Sequence[int]) -> Simulation | None:
    """Simulate the missing jobs of a plan as `lrbench run` orders them.

    Without earlier timings, a job takes the time of its operations on an A100-class GPU at the rate of `lrbench plan`.

    Args:
        plan: The plan.
        place: Holds the suite's timings, and the data of tasks whose size is not stated.
        gpus: Numbers of GPUs.

    Returns:
        None if the source's size is unknown.
    """
    jobs = plan.jobs()
    times = _Times.of(plan, place)
    if times is None:
        return None
    seconds = {job.name: times.of_job(job) for job in jobs}
    return Simulation(
        seconds={count: simulate(jobs, seconds, count) for count in gpus},
        critical_path=max(longest_chains(jobs, seconds).values(), default=0.0),
        is_measured=times.is_measured,
        unknown=times.unknown,
    )


def simulate(jobs: Sequence[Job], seconds: Mapping[str, float], workers: int) -> float:
    """Return the time until all jobs are done.

    Args:
        jobs: Parents before children.
        seconds: Time of each job, by name.
        workers: Number of jobs that run at the same time.
    """
    schedule = Schedule(jobs)
    now = 0.0
    running: list[tuple[float, int, Job]] = []
    # Breaks ties between jobs that end together.
    started = 0
    while True:
        while len(running) < workers and (job := schedule.take(running=[other for _, _, other in running])):
            heapq.heappush(running, (now + seconds[job.name], started, job))
            started += 1
        if not running:
            return now
        now, _, job = heapq.heappop(running)
        schedule.finish(job)


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Times of jobs."""

    plan: Plan
    update: float
    protocols: Mapping[str, float]
    images: Mapping[str, int]
    updates_per_epoch: int
    image: float
    tuning_update: float
    is_measured: bool
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan, place: Place) -> "_Times | None":
        suite, workspace = plan.suite, plan.workspace
        sizes = {name: TaskSize.of(load_task(name), place) for name in dict.fromkeys((*suite.sources, *suite.targets))}
        trained = sizes[suite.sources[0]].images.get("train")
        if trained is None:
            return None
        network = Network.of(suite, sizes[suite.sources[0]].classes or 1000)
        pace = update_seconds(workspace.checkpoints / suite.name)
        measured = protocol_seconds(workspace, plan)
        needed = {planned.cell.protocol for planned in plan.cells if not planned.done}
        is_measured = (pace is not None or not plan.trains) and needed <= measured.keys()
        batch = suite.schedule.batch_of(trained)
        return cls(
            plan=plan,
            update=pace if is_measured and pace is not None else network.update_seconds(batch),
            protocols=measured if is_measured else {},
            images={name: size.whole or 0 for name, size in sizes.items()},
            updates_per_epoch=trained // batch,
            image=network.image_seconds(),
            tuning_update=network.update_seconds(suite.finetune.batch),
            is_measured=is_measured,
            unknown=tuple(name for name, size in sizes.items() if size.whole is None),
        )

    def of_job(self, job: Job) -> float:
        """Return the time of a job in seconds."""
        if isinstance(job, PretrainJob):
            epochs = next(snapshot.epochs for snapshot in self.plan.snapshots if snapshot.key == job.key)
            return self.update * self.updates_per_epoch * epochs
        assert isinstance(job, TransferJob)
        # A forward pass has about a third of the operations of an update.
        extraction = self.image * self.images[job.task] / 3
        grid = self.plan.suite.finetune
        # All grid points, then once more on all training images.
        tuning = self.tuning_update * grid.updates * (len(grid.rates) * len(grid.decays) + 1)
        if not self.is_measured:
            trains = [PROTOCOLS[cell.protocol].trains for cell in job.cells if cell.protocol in PROTOCOLS]
            return extraction + tuning * sum(trains)
        return sum(self.protocols.get(cell.protocol, extraction) for cell in job.cells)
