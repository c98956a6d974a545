"""Submission of a suite's jobs to Slurm as batch scripts with dependencies.

One script pretrains a snapshot, and one transfers a snapshot to all tasks. Slurm starts them in order, and starts them again
after a time limit, a preemption or the loss of a node; what was saved is not computed again. Sites bound the number of jobs
that wait, so larger suites get one script for each pretraining seed instead.
"""

import getpass
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrbench.core.errors import FailureError, InputError
from lrbench.core.files import read_json, write_json, write_text
from lrbench.core.machine import utc_now
from lrbench.core.workspace import Workspace
from lrbench.jobs.job import Job, PretrainJob, TransferJob

_MOST_SCRIPTS = 500
# Seconds before a time limit at which a script is told to save.
_WARNING_SECONDS = 180
# A job that is stopped so often makes no progress.
_MOST_RESTARTS = 20
LEADERBOARD = "leaderboard"
"""Name of the script that writes the pages after all others."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What is asked of Slurm for each script.

    Attributes:
        gpus: GPUs; 0 for a job on CPUs.
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
    def file_name(self) -> str:
        """Name of its file."""
        # Slurm's patterns of log files must contain no slash.
        return f"{self.name.replace(' ', '-').replace('/', '-')}.sh"


def divide(
    jobs: Sequence[Job], run: Sequence[str], leaderboard: Sequence[str], most: int = _MOST_SCRIPTS
) -> list[Script]:
    """Divide jobs into scripts, those needed by others first and the leaderboard last.

    Args:
        jobs: Missing jobs of a plan.
        run: Command that runs the whole suite.
        leaderboard: Command that writes its pages.
        most: Largest number of scripts, above which there is one for each seed.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        assert isinstance(job, PretrainJob | TransferJob)
        members.setdefault(job.name if isinstance(job, PretrainJob) else f"transfer {job.key}", []).append(job)
    if len(members) < most:
        scripts = [
            Script(
                name=name,
                command=(*run, *(part for job in group for part in ("--job", job.name))),
                needs=tuple(sorted({need for job in group for need in job.needs})),
            )
            for name, group in members.items()
        ]
    else:
        seeds = sorted({job.key.seed for job in jobs if isinstance(job, PretrainJob | TransferJob)})
        scripts = [Script(name=f"seed{seed}", command=(*run, "--seed", str(seed))) for seed in seeds]
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
    chosen = replace(options, gpus=0) if script.name == LEADERBOARD else options
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
        *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
        f"cd {shlex.quote(str(current))} || exit 1",
        "",
        f"{shlex.join(script.command)} &",
        "work=$!",
        "# Before the time limit and at a preemption: save and stop.",
        "trap 'kill -TERM \"$work\" 2>/dev/null' USR1 TERM",
        "# A signal interrupts `wait`.",
        'while wait "$work"; kill -0 "$work" 2>/dev/null; do :; done',
        'wait "$work"',
        "status=$?",
        "# 130: stopped after saving.",
        f'if [ "$status" -eq 130 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_MOST_RESTARTS} ]; then',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


class Submission:
    """Scripts of a suite in one folder, and what is known of their jobs.

    Args:
        folder: `checkpoints/SUITE/slurm/<time>`.
        scripts: The scripts, those needed by others first.
    """

    def __init__(self, folder: Path, scripts: Sequence[Script]) -> None:
        self.folder = folder
        self.scripts = list(scripts)

    @classmethod
    def write(
        cls,
        workspace: Workspace,
        suite: str,
        scripts: Sequence[Script],
        options: SlurmOptions,
        environment: Mapping[str, str],
    ) -> "Submission":
        """Write scripts to a new folder; nothing is submitted."""
        stamp = utc_now().replace(":", "").replace("-", "")
        folder = (workspace.checkpoints / suite / "slurm" / stamp).absolute()
        # Slurm does not create the folder of its log files.
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        for script in scripts:
            write_text(folder / script.file_name, content(script, suite, folder, options, environment, Path.cwd()))
        submission = cls(folder, scripts)
        submission._save()
        return submission

    @classmethod
    def latest(cls, workspace: Workspace, suite: str) -> "Submission | None":
        """Return the latest submission of a suite, or None.

        Raises:
            InputError: Its list of jobs is damaged.
        """
        lists = sorted((workspace.checkpoints / suite / "slurm").glob("*/jobs.json"))
        if not lists:
            return None
        records = read_json(lists[-1], "Delete the file.", limit=64 << 20)
        try:
            scripts = [
                Script(
                    name=str(record["name"]),
                    command=(),
                    needs=tuple(map(str, record["needs"])),
                    job_id=None if record["job_id"] is None else str(int(record["job_id"])),
                )
                for record in records
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{lists[-1]} is not a list of submitted jobs. Delete the file.") from error
        return cls(lists[-1].parent, scripts)

    def submit(self) -> None:
        """Submit all scripts.

        Raises:
            InputError: There is no sbatch here.
            FailureError: Slurm refused a script; those before it are submitted.
        """
        ids: dict[str, str] = {}
        for number, script in enumerate(self.scripts):
            kind = "afterany" if script.name == LEADERBOARD else "afterok"
            needs = ":".join(ids[need] for need in script.needs)
            dependency = [f"--dependency={kind}:{needs}", "--kill-on-invalid-dep=yes"] if needs else []
            try:
                answer = _slurm("sbatch", "--parsable", *dependency, str(self.folder / script.file_name))
            except FailureError as error:
                started = (
                    f" {number:,} of {len(self.scripts):,} scripts are submitted" if number else " Nothing is submitted"
                )
                cancel = f"; `scancel {' '.join(ids.values())}` ends them" if ids else ""
                raise FailureError(f"{error}{started}{cancel}. The scripts are in {self.folder}.") from error
            # With several clusters: `number;cluster`.
            ids[script.name] = answer.strip().partition(";")[0]
            self.scripts[number] = replace(script, job_id=ids[script.name])
            self._save()

    def states(self) -> dict[str, str]:
        """Return the state of every job that Slurm still has, such as PENDING or RUNNING, by name of the script.

        Raises:
            InputError: There is no squeue here.
            FailureError: Slurm does not answer.
        """
        names = {script.job_id: script.name for script in self.scripts if script.job_id is not None}
        if not names:
            return {}
        listed = _slurm("squeue", "--noheader", "--format=%i %T", f"--user={getpass.getuser()}")
        rows = [line.split(maxsplit=1) for line in listed.splitlines() if " " in line]
        return {names[number]: state for number, state in rows if number in names}

    def _save(self) -> None:
        records: list[dict[str, Any]] = [
            {"name": script.name, "needs": list(script.needs), "job_id": script.job_id} for script in self.scripts
        ]
        write_json(self.folder / "jobs.json", records)


def refuse_if_waiting(workspace: Workspace, suite: str) -> None:
    """Refuse to submit a suite whose earlier submission has not ended.

    Raises:
        InputError: Jobs of it are waiting or running; or there is no Slurm here.
        FailureError: Slurm does not answer.
    """
    submission = Submission.latest(workspace, suite)
    states = submission.states() if submission is not None else {}
    if submission is None or not states:
        return
    ids = " ".join(script.job_id for script in submission.scripts if script.name in states and script.job_id)
    raise InputError(
        f"{len(states):,} jobs of suite {suite} are still waiting or running in Slurm (`lrbench plan {suite}` lists them). "
        f"Wait for them, or cancel them with `scancel {ids}`."
    )


def is_available() -> bool:
    """Return whether this machine can ask Slurm for the state of jobs."""
    return shutil.which("squeue") is not None


def _slurm(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise InputError(
            f"there is no {program} on this machine. Run `lrbench run --engine slurm` on a log-in node of a Slurm cluster; "
            "with --dry-run it writes the scripts without submitting them."
        )
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailureError(f"{program} failed: {error}.") from error
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
        raise FailureError(f"{program} failed: {reason}.")
    return done.stdout
