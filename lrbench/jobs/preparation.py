"""Preparation of images in the pixel cache, before the jobs that read them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job


@dataclass(frozen=True, kw_only=True)
class PrepareJob(Job):
    """Prepare all images of a task for the input of a suite. It uses CPUs alone.

    Attributes:
        task: The task.
    """

    task: str

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Write the caches that are missing."""
        from lrbench.data.prepare import prepare_task

        prepare_task(
            self.task,
            suite.input,
            None,
            roots=place.roots,
            partial=place.partial,
            cache=place.pixel_cache,
            control=control,
        )
        return f"images of {self.task} prepared"

    def task_of(self, suite: Suite) -> str:
        """Return the task."""
        return self.task


def with_preparation(jobs: Sequence[Job], suite: Suite) -> list[Job]:
    """Return the jobs after those that prepare the images that they read.

    Args:
        jobs: Parents before children.
        suite: The suite of the jobs.
    """
    tasks = dict.fromkeys(job.task_of(suite) for job in jobs)
    preparations = {task: PrepareJob(name=f"prepare {task}", weight=0.25, task=task) for task in tasks}
    return [
        *preparations.values(),
        *(replace(job, needs=(*job.needs, preparations[job.task_of(suite)].name)) for job in jobs),
    ]
