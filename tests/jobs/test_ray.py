"""Jobs on Ray: order, failures, lost workers and interrupts. The cluster is one node that Ray starts on this machine."""

import os
import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.core.machine import library_versions
from lrbench.jobs.job import Job
from lrbench.jobs.ray import RayOptions, node_problem, run_jobs_on_ray
from tests.jobs.test_local import Watcher, notes

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@dataclass(frozen=True, kw_only=True)
class Step(Job):
    """Append its name to a file of the workspace; then do as it is called."""

    def run(self, suite, place, control):
        path = place.workspace.root / "notes.txt"
        with path.open("a") as file:
            file.write(f"{self.name}\n")
        count = path.read_text().split().count(self.name)
        if self.name.startswith("bad"):
            raise InputError(f"{self.name} has bad input")
        if self.name.startswith("dies-once") and count == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name.startswith("waits"):
            control.progress(1, 2, "updates")
            while not control.stop_requested():
                pass
            raise InterruptedWork("saved")
        return f"{self.name} done after {count}"

    def task_of(self, suite):
        return ""


@pytest.fixture
def go(tiny, place):
    def run(jobs, control=None, watcher=None):
        watcher = watcher or Watcher()
        run_jobs_on_ray(jobs, tiny, place, control or Control(), watcher, RayOptions(cpus=1))
        return watcher

    return run


@needs_ray
def test_jobs_run_once_after_their_needs_and_lost_ones_again(go, place):
    jobs = [Step(name="a"), Step(name="dies-once", needs=("a",)), Step(name="b", needs=("dies-once",))]
    watcher = go(jobs)
    assert notes(place) == ["a", "dies-once", "dies-once", "b"]
    assert watcher.lines == ["a done after 1", "dies-once done after 2", "b done after 1"]
    assert any("dies-once starts again, because its worker or node was lost" in text for text in watcher.messages)
    assert not list(place.workspace.root.glob(".ray-*"))


@needs_ray
def test_errors_of_jobs_are_not_tried_again(go, place):
    jobs = [Step(name="bad"), Step(name="needs-it", needs=("bad",)), Step(name="other")]
    with pytest.raises(InputError, match="bad has bad input 1 job that depends on it was not started"):
        go(jobs)
    assert sorted(notes(place)) == ["bad", "other"]


@needs_ray
def test_stop_reaches_running_jobs_and_others_do_not_start(go, place):
    control = Control()

    class Stopping(Watcher):
        def progressed(self, job, done, total, unit):
            control.stop()

    with pytest.raises(InterruptedWork, match="Run the same command again"):
        go([Step(name="waits"), Step(name="after", needs=("waits",))], control, Stopping())
    assert notes(place) == ["waits"]


@needs_ray
def test_job_for_which_there_is_no_room_is_reported(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.ray._PATIENCE_SECONDS", 3.0)
    with pytest.raises(
        FailureError, match=r"no node of the Ray cluster has had room for a job \(8 GPUs and 1 CPU cores\)"
    ):
        run_jobs_on_ray([Step(name="a")], tiny, place, Control(), Watcher(), RayOptions(gpus=8))


def test_missing_ray_is_reported_with_its_extra(go, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'lrbench-transfer\[ray\]'"):
        go([Step(name="a")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"sees_workspace": False}, "node7 does not see /shared. Mount LRBENCH_HOME"),
        ({"missing": ["/data"]}, "node7 has no folder /data"),
        ({"versions": library_versions() | {"torch": "1.0"}}, "node7 has torch 1.0 instead of"),
        ({"locked_twice": True}, "is free on the Ray node node7"),
    ],
)
def test_unfit_nodes_are_named(change, message):
    report = {"sees_workspace": True, "missing": [], "versions": library_versions(), "locked_twice": False} | change
    problem = node_problem("node7", report, Path("/shared"))
    assert problem is None if message is None else message in problem
