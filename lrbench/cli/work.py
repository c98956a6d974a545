"""Running of a suite's jobs, shared by `run` and `pretrain`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrbench.core.distributed import ProcessGroup
    from lrbench.core.workspace import Place
    from lrbench.jobs.job import Job
    from lrbench.jobs.plan import Plan
    from lrbench.jobs.ray import RayOptions

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Worker processes. Trained weights do not depend on their number. "
        "[default: one on each GPU, and more while they leave it idle; else one per core, at most 8]",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Also record training curves and results of transfers with tensorboard, wandb or trackio (extras). "
        "Repeatable.",
    ),
]


@contextmanager
def together() -> "Iterator[ProcessGroup]":
    """Yield the processes that torchrun started; this one alone without torchrun."""
    from lrbench.core.distributed import SINGLE_PROCESS, init_process_group, launched_by_torchrun

    if not launched_by_torchrun():
        yield SINGLE_PROCESS
        return
    with init_process_group() as ranks:
        yield ranks


def prepared_first(jobs: "Sequence[Job]", plan: "Plan", place: "Place", ranks: "ProcessGroup") -> "list[Job]":
    """Return the jobs after those that prepare the images that they read.

    Processes of `torchrun` prepare images when they need them.
    """
    from lrbench.jobs.preparation import with_preparation

    return with_preparation(jobs, plan.suite) if place.cached and ranks.is_single else list(jobs)


def do_jobs(
    jobs: "Sequence[Job]",
    plan: "Plan",
    place: "Place",
    *,
    workers: int | None,
    ranks: "ProcessGroup",
    ray: "RayOptions | None" = None,
    gpus: int = 1,
) -> None:
    """Run jobs of a plan with progress on stderr; Ctrl-C and SIGTERM save and stop them at the next step.

    Args:
        jobs: Parents before children.
        plan: The plan.
        place: Folders and options.
        workers: Number of local processes; None to choose it.
        ranks: The processes of `torchrun`.
        ray: What to ask of Ray; None to run on this machine.
        gpus: GPUs of this machine on which a snapshot is pretrained.

    Raises:
        LrbenchError: The first job's error; or an existing snapshot comes from weights that its parent no longer has.
    """
    from lrbench.cli.progress import Display
    from lrbench.core.control import Control, stopping_on_signals
    from lrbench.core.files import remove_file
    from lrbench.core.machine import set_cublas_workspace
    from lrbench.jobs.local import run_jobs
    from lrbench.jobs.together import run_jobs_together
    from lrbench.store.lineage import snapshot_exists
    from lrbench.store.snapshots import progress_path, snapshot_path

    suite = plan.suite
    if suite.training.deterministic:
        # Before any worker's first transfer.
        set_cublas_workspace()
    for snapshot in plan.snapshots:
        if snapshot.exists and ranks.is_main:
            # Left by a process killed after writing the snapshot. It must not revive a snapshot that is deleted later.
            remove_file(progress_path(snapshot_path(place.workspace.checkpoints, suite.name, snapshot.key)))
    control = Control()
    with stopping_on_signals(control), Display(len(jobs), quiet=not ranks.is_main) as display:
        if ray is not None:
            from lrbench.jobs.ray import run_jobs_on_ray

            run_jobs_on_ray(jobs, suite, place, control, display, ray)
        elif ranks.is_single:
            run_jobs(jobs, suite, place, control, display, workers=workers, gpus=gpus)
        else:
            run_jobs_together(jobs, suite, place, control, display, ranks)
    if ranks.is_main and any(not snapshot.exists for snapshot in plan.snapshots):
        # A stage that was deleted and retrained may have different weights than its children started from.
        for snapshot in plan.snapshots:
            snapshot_exists(suite, snapshot.key, place.workspace)
