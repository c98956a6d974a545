"""Preparation of images in the pixel cache, before the jobs that read them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job

if TYPE_CHECKING:
    from lrbench.data.examples import SplitName


@dataclass(frozen=True, kw_only=True)
class PrepareJob(Job):
    """Prepare images of a task for the input of a suite. It uses CPUs alone.

    Attributes:
        task: The task.
        splits: Splits to prepare, of those that the task has; None for all.
    """

    task: str
    splits: "tuple[SplitName, ...] | None" = None

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Write the caches that are missing."""
        from lrbench.data.prepare import fill_caches

        assert place.pixel_cache is not None
        fill_caches(
            self.task,
            suite.input,
            self.splits,
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
    read: dict[str, set[tuple[SplitName, ...] | None]] = {}
    for job in jobs:
        read.setdefault(job.task_of(suite), set()).add(job.splits_read())
    preparations = {
        task: PrepareJob(
            name=f"prepare {task}",
            weight=0.25,
            task=task,
            splits=None if None in parts else tuple(sorted({split for part in parts if part for split in part})),
        )
        for task, parts in read.items()
    }
    return [
        *preparations.values(),
        *(replace(job, needs=(*job.needs, preparations[job.task_of(suite)].name)) for job in jobs),
    ]
