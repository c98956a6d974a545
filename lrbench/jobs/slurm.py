"""Submission of a suite's jobs to Slurm as batch scripts with dependencies.

One script prepares the images of a task, one pretrains a snapshot, and one transfers a snapshot to all tasks. Slurm starts
them in order, and starts them again after a time limit, a preemption or the loss of a node; what was saved is not computed
again. Sites bound the number of jobs that wait, so larger suites get one script for each pretraining seed instead.
"""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrbench.core.errors import FailureError, InputError
from lrbench.core.files import read_bytes, read_json, write_json, write_text
from lrbench.core.machine import library_versions, utc_now
from lrbench.core.workspace import Place, Workspace
from lrbench.jobs.nodes import NodeReport, node_problem
from lrbench.jobs.slurm_scripts import LEADERBOARD, SUBMISSION, Script, SlurmOptions, content


class SubmitLimit(FailureError):
    """Slurm accepts fewer jobs of this user."""


class Submission:
    """Scripts of a suite in one folder, and what is known of their jobs.

    Args:
        folder: `checkpoints/SUITE/slurm/<time>`.
        scripts: The scripts, those needed by others first.
        roots: Folders of the data that every node needs.
    """

    def __init__(self, folder: Path, scripts: Sequence[Script], roots: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.scripts = list(scripts)
        self._roots = tuple(roots)

    @classmethod
    def write(
        cls,
        place: Place,
        suite: str,
        scripts: Sequence[Script],
        options: SlurmOptions,
        environment: Mapping[str, str],
    ) -> "Submission":
        """Write scripts to a new folder; nothing is submitted."""
        stamp = utc_now().replace(":", "").replace("-", "")
        folder = (place.workspace.checkpoints / suite / "slurm" / stamp).absolute()
        # Slurm does not create the folder of its log files.
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        for script in scripts:
            write_text(folder / script.file_name, content(script, suite, folder, options, environment, Path.cwd()))
        submission = cls(folder, scripts, [root.absolute() for root in place.roots if root.is_dir()])
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
        content = read_json(lists[-1], "Delete the file.", limit=64 << 20)
        try:
            scripts = [
                Script(
                    name=str(record["name"]),
                    command=(),
                    needs=tuple(map(str, record["needs"])),
                    job_id=None if record["job_id"] is None else str(int(record["job_id"])),
                )
                for record in content["jobs"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{lists[-1]} is not a list of submitted jobs. Delete the file.") from error
        return cls(lists[-1].parent, scripts)

    def submit(self) -> None:
        """Submit all scripts.

        Raises:
            InputError: There is no sbatch here.
            SubmitLimit: Slurm accepts fewer jobs; those before are cancelled.
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
                if "SubmitJob" in str(error):
                    if ids:
                        _slurm("scancel", *ids.values())
                    raise SubmitLimit(f"{error} The scripts are in {self.folder}.") from error
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

    def failures(self) -> list[tuple[Script, int]]:
        """Return the scripts that ended without success, with their exit status."""
        failed = []
        for script in self.scripts:
            path = self.folder / Path(script.file_name).with_suffix(".status")
            # An empty file is being written.
            with suppress(FileNotFoundError, ValueError):
                if status := int(read_bytes(path, limit=100)):
                    failed.append((script, status))
        return failed

    def log_of(self, script: Script) -> Path:
        """Return the path of a submitted script's log."""
        return self.folder / "logs" / f"{Path(script.file_name).stem}-{script.job_id}.log"

    def _save(self) -> None:
        records: list[dict[str, Any]] = [
            {"name": script.name, "needs": list(script.needs), "job_id": script.job_id} for script in self.scripts
        ]
        roots = [str(root) for root in self._roots]
        write_json(self.folder / "jobs.json", {"jobs": records, "roots": roots, "versions": library_versions()})


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


def check_this_node(root: Path) -> None:
    """Check that a submitted job sees what its submission saw; other processes pass.

    Args:
        root: The workspace.

    Raises:
        InputError: The node lacks a folder or has other versions; the message names it.
    """
    folder = os.environ.get(SUBMISSION)
    if folder is None:
        return
    path, name = Path(folder, "jobs.json"), socket.gethostname()
    content = read_json(path, "Submit the suite again.", limit=64 << 20) if path.is_file() else {}
    report = NodeReport(
        sees_workspace=path.is_file(),
        missing=tuple(folder for folder in content.get("roots", ()) if not Path(folder).is_dir()),
        versions=library_versions(),
        shares_locks=True,
    )
    if (problem := node_problem(name, report, root, content.get("versions", {}))) is not None:
        raise InputError(problem)


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
