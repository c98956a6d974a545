"""`lrbench run --engine`: options of the engines, and submission of a suite to Slurm."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import note, show

if TYPE_CHECKING:
    from lrbench.core.workspace import Place
    from lrbench.jobs.plan import Plan
    from lrbench.jobs.ray import RayOptions
    from lrbench.jobs.slurm_scripts import SlurmOptions

_PANEL = "Clusters (--engine ray or slurm)"
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="What runs the jobs: `local`, this machine; `ray`, a Ray cluster; or `slurm`, which submits them and returns.",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        "--gpus-per-job",
        metavar="N",
        min=0,
        max=4096,
        help="GPUs of each job; with 2 or more, they pretrain a snapshot together. [default: 1]",
    ),
]
CpusOption = Annotated[
    int | None,
    typer.Option("--cpus", "--cpus-per-job", metavar="N", min=1, help="CPU cores of each job.", rich_help_panel=_PANEL),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="A",
        help="Ray: address of a running cluster, or `auto`. [default: start Ray on this machine]",
        rich_help_panel=_PANEL,
    ),
]
PartitionOption = Annotated[
    str | None, typer.Option("--partition", metavar="P", help="Slurm: partition of the jobs.", rich_help_panel=_PANEL)
]
TimeOption = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="T",
        help="Slurm: time limit of each job, as in sbatch. A job that reaches it saves and starts again.",
        rich_help_panel=_PANEL,
    ),
]
SbatchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sbatch",
        metavar="KEY=VALUE",
        help="Slurm: a further option of sbatch, such as account=vision. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Slurm: write the scripts, and submit nothing.", rich_help_panel=_PANEL)
]
JobOption = Annotated[
    list[str] | None,
    # For the scripts: only the jobs of these names.
    typer.Option("--job", metavar="NAME", hidden=True),
]

# Variables whose value on the log-in node the jobs need, whatever the site passes on.
_VARIABLES = ("LRBENCH_TASKS", "LRBENCH_CACHE", "LRBENCH_DEBUG", "LRBENCH_LOCKS", "PYTHONPATH", "HF_HOME", "TORCH_HOME")


def engine_options(
    engine: str,
    *,
    gpus: float | None,
    cpus: int | None,
    address: str | None,
    partition: str | None,
    time: str | None,
    sbatch: Sequence[str],
    dry_run: bool,
    workers: int | None,
) -> "RayOptions | SlurmOptions | int":
    """Return the options of an engine; for the local one, the GPUs on which a snapshot is pretrained.

    Raises:
        InputError: An unknown engine, an option of another one, a wrong value, or torchrun started this process.
    """
    from lrbench.core.distributed import launched_by_torchrun
    from lrbench.core.errors import InputError
    from lrbench.jobs.devices import grouped_gpus
    from lrbench.jobs.gpus import visible_gpus
    from lrbench.jobs.slurm_scripts import SlurmOptions

    if engine not in ("local", "ray", "slurm"):
        raise InputError(f"there is no engine {engine!r}. Use local, ray or slurm.")
    if launched_by_torchrun() and (engine != "local" or (gpus or 1) > 1):
        raise InputError(
            f"torchrun started this process, so that {'--gpus' if engine == 'local' else f'--engine {engine}'} cannot start "
            "others. Run lrbench without torchrun, or omit the option: its processes pretrain each snapshot together."
        )
    given = {
        "--cpus": (cpus is not None, ("ray", "slurm")),
        "--address": (address is not None, ("ray",)),
        "--partition": (partition is not None, ("slurm",)),
        "--time": (time is not None, ("slurm",)),
        "--sbatch": (bool(sbatch), ("slurm",)),
        "--dry-run": (dry_run, ("slurm",)),
    }
    for name, (is_given, engines) in given.items():
        if is_given and engine not in engines:
            raise InputError(f"{name} needs --engine {' or --engine '.join(engines)}.")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise InputError(f"--gpus {gpus:g} is not a whole number. A fraction must be below 1.")
    if gpus is not None and gpus > 1 and workers is not None and engine != "ray":
        raise InputError("--workers and --gpus cannot be combined: with --gpus, other jobs get one worker on each GPU.")
    if engine == "ray":
        from lrbench.jobs.ray import RayOptions

        return RayOptions(address=address, gpus=gpus, cpus=cpus)
    if engine == "slurm":
        if gpus is not None and gpus != int(gpus):
            raise InputError(f"--gpus {gpus:g} is not a whole number, which Slurm needs.")
        return SlurmOptions(
            gpus=1 if gpus is None else int(gpus), cpus=cpus, partition=partition, time=time, others=tuple(sbatch)
        )
    if gpus is not None and gpus < 1:
        raise InputError(
            f"--gpus {gpus:g} is below 1. Without the option, jobs share a GPU that they leave idle; to use no GPU, set "
            "CUDA_VISIBLE_DEVICES=-1."
        )
    if gpus is not None and gpus > 1:
        # A refusal comes before any work.
        grouped_gpus(visible_gpus(), int(gpus))
    return int(gpus or 1)


def submit(
    plan: "Plan", suite: str, arguments: Sequence[str], place: "Place", options: "SlurmOptions", *, dry_run: bool
) -> None:
    """Write the scripts of a plan's missing jobs and submit them.

    Args:
        plan: The plan.
        suite: The suite as typed.
        arguments: Options of `lrbench run` that the jobs repeat.
        place: Folders and options.
        options: What to ask of Slurm.
        dry_run: Write the scripts only.

    Raises:
        InputError: There is no Slurm here, or an earlier submission has not ended.
        FailureError: Slurm refused a script.
    """
    from lrbench.core.locks import has_only_local_locks, use_leases
    from lrbench.jobs.preparation import with_preparation
    from lrbench.jobs.slurm import Submission, SubmitLimit, refuse_if_waiting
    from lrbench.jobs.slurm_scripts import LEADERBOARD, MOST_SCRIPTS, divide

    workspace, name = plan.workspace, plan.suite.name
    if not dry_run:
        refuse_if_waiting(workspace, name)
    program = (sys.executable, "-m", "lrbench")
    run = (*program, "run", suite, *arguments)
    jobs = plan.jobs()
    if not jobs:
        note(f"suite {name}: nothing is missing, so nothing is submitted")
        return
    if place.cached:
        jobs = with_preparation(jobs, plan.suite)
    if has_only_local_locks(workspace.root):
        note(f"{workspace.root} is mounted without locks between nodes; leases are used")
        use_leases()
    environment = {key: os.environ[key] for key in _VARIABLES if os.environ.get(key)}
    environment["LRBENCH_HOME"] = str(workspace.root.absolute())
    environment["LRBENCH_DATA"] = os.pathsep.join(str(root.absolute()) for root in place.roots)

    def write(most: int) -> Submission:
        scripts = divide(jobs, run, (*program, "leaderboard", name), gpus=options.gpus, most=most)
        return Submission.write(place, name, scripts, options, environment)

    submission = write(MOST_SCRIPTS)
    if dry_run:
        note(f"{len(submission.scripts):,} scripts are written; nothing is submitted")
        show(str(submission.folder))
        return
    try:
        submission.submit()
    except SubmitLimit as error:
        note(f"{error} One job is submitted for each pretraining seed instead.")
        submission = write(0)
        submission.submit()
    ids = [script.job_id for script in submission.scripts]
    note(
        f"{len(ids):,} jobs are submitted ({ids[0]} to {ids[-1]}); the last one, {LEADERBOARD}, writes the pages. "
        f"`lrbench plan {suite}` shows their state, and `scancel` ends them. Scripts and logs:"
    )
    show(str(submission.folder))
