"""Time a tiny suite under each engine: `PYTHONPATH=. python benchmark/speed/engine_overhead.py [REPETITIONS]` (default 1).

Each engine runs two jobs at a time on this machine: two workers, a Ray node with two cores, or two Slurm nodes with one. Ray
and Slurm are started before, in a network namespace; what is not installed is left out. Times include the start of lrbench.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers import make_home, run_process, tiny_suite_toml
from tests.jobs import ray_cluster, slurm_cluster

_SUITE = tiny_suite_toml(arms=["step"], targets=["tiny-objects"], protocols=["knn"], seeds=[0, 1])
# Stages 0 to 3 of two seeds: training, transfer and predictions of each.
_JOBS = 24


def local(home: Path, folder: Path) -> Callable[[], None]:
    """Return a function that runs the suite in two worker processes."""

    def run() -> None:
        done = run_process("run", "tiny.toml", "--workers", "2", timeout=600)
        assert done.status == 0, done.err

    return run


def ray(home: Path, folder: Path) -> Callable[[], None]:
    """Return a function that runs the suite on Ray."""
    cluster = ray_cluster.Cluster(home, cores=2)

    def run() -> None:
        with closing(cluster):
            driver = cluster.run("tiny.toml", "--gpus", "0", "--cpus", "1", log=folder / "driver.log")
            assert driver.wait(600) == 0, (folder / "driver.log").read_text()

    return run


def slurm(home: Path, folder: Path) -> Callable[[], None]:
    """Return a function that runs the suite on Slurm."""
    cluster = slurm_cluster.Cluster(folder, home)

    def run() -> None:
        with closing(cluster):
            status, _, err = cluster.lrbench("run", "tiny.toml", "--engine", "slurm", "--gpus", "0")
            assert status == 0, err
            slurm_cluster.wait_for(cluster.is_empty, 900)

    return run


def measure(start: Callable[[Path, Path], Callable[[], None]]) -> float:
    """Return the seconds of a run in a new workspace."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(Path(folder), monkeypatch)
        (home / "tiny.toml").write_text(_SUITE)
        (Path(folder) / "cluster").mkdir()
        run = start(home, Path(folder) / "cluster")
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        results = list((home / "leaderboard" / "results").rglob("*.seed*.json"))
        assert len(results) == 16, f"{len(results)} results"
        return seconds


def main() -> None:
    """Measure the engines in turn and print the medians."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"] = "1", "-1"
    engines = {"local": local}
    if find_spec("ray") is not None:
        engines["ray"] = ray
    if slurm_cluster.is_installed():
        engines["slurm"] = slurm
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repetitions):
        for name, start in engines.items():
            seconds[name].append(measure(start))
    base = statistics.median(seconds["local"])
    for name, values in seconds.items():
        taken = statistics.median(values)
        print(f"{name:6} {taken:6.1f} s, {taken / base:5.2f} times local, {2 * (taken - base) / _JOBS:+6.2f} s a job")


if __name__ == "__main__":
    main()
