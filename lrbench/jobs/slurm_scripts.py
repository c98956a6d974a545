"""Batch scripts of a suite's jobs for Slurm."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.jobs.job import Job, PretrainJob, TransferJob

MOST_SCRIPTS = 500
"""Largest number of scripts of one submission."""
# Seconds before a time limit at which a script receives the signal to save.
_WARNING_SECONDS = 180
# A shorter time limit would leave a job hardly any time before the warning.
_LEAST_MINUTES = 10
# A job that is stopped so often makes no progress.
_MOST_RESTARTS = 20
SUBMISSION = "LRBENCH_SUBMISSION"
"""Environment variable with the folder of a job's submission."""
LEADERBOARD = "leaderboard"
"""Name of the script that writes the pages after all others."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Resources and options requested of Slurm for each script.

    Attributes:
        gpus: GPUs on which a snapshot is pretrained; other jobs get at most one. 0 for jobs on CPUs.
        cpus: CPU cores; None for the site's default.
        partition, time: As in `sbatch`; None for the site's default.
        others: Further options of `sbatch`, as `KEY=VALUE` without dashes.
    """

    gpus: int = 1
    cpus: int | None = None
    partition: str | None = None
    time: str | None = None
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in self.others:
            key, equals, value = option.partition("=")
            if not key.replace("-", "").isalnum() or key.startswith("-") or not equals or "\n" in value:
                raise InputError(
                    f"--sbatch {option!r} is not KEY=VALUE. Write an option of sbatch, as in account=vision."
                )
        if self.time is not None and _minutes(self.time) < _LEAST_MINUTES:
            raise InputError(
                f"--time {self.time} is too short, because a job saves {_WARNING_SECONDS // 60} minutes before its time limit. "
                f"Use at least {_LEAST_MINUTES} minutes."
            )

    def lines(self) -> list[str]:
        """Return the options as lines of a batch script."""
        chosen = {
            "gpus": str(self.gpus) if self.gpus else None,
            "cpus-per-task": None if self.cpus is None else str(self.cpus),
            "partition": self.partition,
            "time": self.time,
        }
        options = [f"{key}={value}" for key, value in chosen.items() if value is not None]
        return [f"#SBATCH --{option}" for option in (*options, *self.others)]


def _minutes(time: str) -> float:
    """Return a time limit as sbatch reads it: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M` or `D-H:M:S`.

    Raises:
        InputError: It is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        raise InputError(f"--time {time!r} is not a time limit. Write it as in sbatch, such as 4:00:00.")
    days, *parts = match.groups()
    first, second, third = (int(part or 0) for part in parts)
    if days is not None:
        return 1440 * int(days) + 60 * first + second + third / 60
    return first + second / 60 if parts[2] is None else 60 * first + second + third / 60


@dataclass(frozen=True, kw_only=True)
class Script:
    """One batch script.

    Attributes:
        name: Unique name, as in `lrbench plan`.
        command: Command and arguments.
        needs: Names of the scripts that must succeed before; for the leaderboard, of those that must have ended.
        job_id: Slurm's number of the job; None before it is submitted.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    job_id: str | None = None

    @property
    def kind(self) -> str:
        """`prepare`, `pretrain`, `transfer`, `leaderboard`, or the seed."""
        return self.name.partition(" ")[0]

    @property
    def file_name(self) -> str:
        """Name of its file."""
        # Slurm's patterns of log files must contain no slash.
        return f"{self.name.replace(' ', '-').replace('/', '-')}.sh"


def divide(
    jobs: Sequence[Job],
    run: Sequence[str],
    leaderboard: Sequence[str],
    *,
    gpus: int = 1,
    most: int = MOST_SCRIPTS,
) -> list[Script]:
    """Divide jobs into scripts, those needed by others first and the leaderboard last.

    Args:
        jobs: Missing jobs of a plan.
        run: Command that runs the whole suite.
        leaderboard: Command that writes its pages.
        gpus: GPUs on which a snapshot is pretrained.
        most: Largest number of scripts, above which there is one for each seed.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(f"transfer {job.key}" if isinstance(job, TransferJob) else job.name, []).append(job)
    if len(members) < most:
        scripts = [
            Script(
                name=name,
                command=(
                    *run,
                    *(part for job in group for part in ("--job", job.name)),
                    *(("--gpus", str(gpus)) if gpus > 1 and isinstance(group[0], PretrainJob) else ()),
                ),
                needs=tuple(sorted({need for job in group for need in job.needs})),
            )
            for name, group in members.items()
        ]
    else:
        seeds = sorted({job.key.seed for job in jobs if isinstance(job, PretrainJob | TransferJob)})
        several = ("--gpus", str(gpus)) if gpus > 1 else ()
        scripts = [Script(name=f"seed{seed}", command=(*run, "--seed", str(seed), *several)) for seed in seeds]
    needed = {need for script in scripts for need in script.needs}
    last = tuple(script.name for script in scripts if script.name not in needed)
    return [*scripts, Script(name=LEADERBOARD, command=tuple(leaderboard), needs=last)]


def content(
    script: Script, suite: str, folder: Path, options: SlurmOptions, environment: Mapping[str, str], current: Path
) -> str:
    """Return a batch script.

    Args:
        script: The script.
        suite: Name of the suite.
        folder: Folder of the log files.
        options: What to ask of Slurm.
        environment: Variables that the command needs, whatever the site passes on.
        current: Folder in which the command runs.
    """
    most = {"prepare": 0, LEADERBOARD: 0, "transfer": 1}.get(script.kind, options.gpus)
    chosen = replace(options, gpus=min(options.gpus, most))
    name = script.file_name.removesuffix(".sh")
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=lrbench-{suite}-{name}",
        f"#SBATCH --output={folder / 'logs' / name}-%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:USR1@{_WARNING_SECONDS}",
        *chosen.lines(),
        "",
        *(f"export {key}={shlex.quote(value)}" for key, value in {**environment, SUBMISSION: str(folder)}.items()),
        f"cd {shlex.quote(str(current))} || exit 1",
        "",
        f"{shlex.join(script.command)} &",
        "work=$!",
        "# Save and stop: shortly before the time limit, and when Slurm ends the job.",
        "trap 'warned=1; kill -TERM \"$work\" 2>/dev/null' USR1",
        "trap 'kill -TERM \"$work\" 2>/dev/null' TERM",
        "# A signal interrupts `wait`.",
        'while wait "$work"; kill -0 "$work" 2>/dev/null; do :; done',
        'wait "$work"',
        "status=$?",
        f'echo "$status" > {shlex.quote(str(folder / name))}.status',
        "# 130: stopped after saving. A job that is cancelled or preempted is Slurm's to start again.",
        f'if [ "$status" -eq 130 ] && [ -n "$warned" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_MOST_RESTARTS} ]; then',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"
