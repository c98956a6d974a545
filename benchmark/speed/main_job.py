"""Compare the processor time of the main job with that of another commit: `python main_job.py COMMIT [all]`.

Runs `lrbench run quick --seed 0`, with `all` every seed, in new workspaces, in one worker: the commit once, and this tree twice
at the same time. They share one core, so that changes of the machine's speed are the same for both. Prints user and system
time of all processes. Both use the libraries of this interpreter. Takes six to twenty minutes. Linux only.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from lrbench.core.files import parse_json

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_CHILD_SUBREAPER = 36
# Folders of data by the package as which they are installed.
_DATA = {"tasks": "tasks", "suites": "benchmark/suites", "study_files": "benchmark/studies"}


def processor_seconds(tree: Path, workspace: Path, arguments: list[str]) -> float:
    """Run the main job of a source tree; return the seconds that its processes computed."""
    environment = os.environ | {"PYTHONPATH": str(tree), "LRBENCH_HOME": str(workspace), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lrbench", "run", "quick", "--workers", "1", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=tree, env=environment, stdout=subprocess.DEVNULL)
    try:
        # Only processes that are waited for are counted.
        while True:
            os.wait()
    except ChildProcessError:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def parts(workspace: Path) -> dict[str, float]:
    """Return the elapsed seconds of training and of each protocol's steps."""
    seconds: Counter[str] = Counter()
    for path in workspace.glob("checkpoints/quick/**/timings.jsonl"):
        seconds["training"] += sum(parse_json(line)["seconds"] for line in path.read_text().splitlines())
    for path in workspace.glob("leaderboard/results/quick/*.seed0.json"):
        record = parse_json(path.read_bytes())
        for step, duration in record["timings"].items():
            # Protocols of one snapshot and task share its features.
            if record["protocol"] == "probe" or step not in ("features", "diagnostics"):
                seconds[f"{record['protocol']} {step}"] += duration
    return dict(seconds)


def adopt_orphans() -> None:
    """Let processes that outlive their parents come to this one."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def measure(name: str, tree: Path, workspace: Path, arguments: list[str]) -> float:
    """Run and print the main job of a source tree; return its processor seconds."""
    seconds = processor_seconds(tree, workspace, arguments)
    elapsed = ", ".join(f"{part} {duration:.1f}" for part, duration in parts(workspace).items() if duration >= 0.5)
    print(f"{name}: {seconds:.0f} s of processor time; elapsed: {elapsed}", flush=True)
    return seconds


def main() -> None:
    """Measure both trees."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    arguments = [] if "all" in sys.argv else ["--seed", "0"]
    with tempfile.TemporaryDirectory() as folder:
        former = Path(folder) / "former"
        former.mkdir()
        archive = subprocess.run(["git", "archive", sys.argv[1]], cwd=_ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", str(former)], input=archive, check=True)
        # An installed lrbench would give it the files of this tree.
        for package, data in _DATA.items():
            if (former / data).is_dir() and not (former / "lrbench" / package).exists():
                (former / "lrbench" / package).symlink_to(former / data)
        with (
            ProcessPoolExecutor(1, initializer=adopt_orphans) as one,
            ProcessPoolExecutor(1, initializer=adopt_orphans) as other,
        ):
            before = one.submit(measure, sys.argv[1], former, Path(folder) / "workspace", arguments)
            now = [
                other.submit(measure, "this tree", _ROOT, Path(folder) / f"workspace-{run}", arguments)
                for run in range(2)
            ]
            ratio = sum(run.result() for run in now) / len(now) / before.result()
    print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
