"""Simulated time of jobs on several GPUs."""

import json
from dataclasses import dataclass

import pytest

from lrbench.jobs.job import Job
from lrbench.jobs.simulation import simulate


@dataclass(frozen=True, kw_only=True)
class Idle(Job):
    def run(self, suite, place, control):
        return ""

    def task_of(self, suite):
        return ""


def test_chains_and_workers_bound_the_time():
    jobs = [Idle(name="a", weight=3.0), Idle(name="b", needs=("a",)), *(Idle(name=f"c{number}") for number in range(4))]
    seconds = {"a": 3.0, "b": 2.0} | {f"c{number}": 1.0 for number in range(4)}
    assert simulate(jobs, seconds, 1) == 9.0
    # The longest chain starts first: a, b beside four short jobs.
    assert simulate(jobs, seconds, 2) == 5.0
    assert simulate(jobs, seconds, 8) == 5.0
    assert simulate([], {}, 3) == 0.0


def test_plan_shows_the_time_on_several_gpus(lrbench, home):
    shown = lrbench("plan", "tiny.toml", "--gpus", "6")
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    table = [line.split() for line in lines if line.split() and line.split()[0] in {"1", "2", "4", "6"}]
    assert [row[0] for row in table] == ["1", "2", "4", "6"] and table[0][-1] == "1.0"
    assert "operation counts" in shown.out and "longest chain of jobs" in " ".join(lines)
    record = json.loads(lrbench("plan", "tiny.toml", "--gpus", "6", "--json").out)
    seconds = [record["seconds_by_gpus"][count] for count in ("1", "2", "4", "6")]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] >= record["critical_path_seconds"] > 0
    assert seconds[0] / seconds[-1] == pytest.approx(float(table[-1][-1]), abs=0.051)
