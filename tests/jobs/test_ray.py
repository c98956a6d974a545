"""Jobs on Ray: order, failures, GPUs, lost workers and interrupts. Ray starts one node on this machine."""

import errno
import os
import secrets
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.core.locks import VARIABLE
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.nodes import Probe
from lrbench.jobs.preparation import PrepareJob
from lrbench.jobs.ray import RayOptions, run_jobs_on_ray
from lrbench.store.snapshots import snapshot_path
from tests.jobs import namespace
from tests.jobs.helpers import Watcher, notes
from tests.pretraining.helpers import key

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or os.geteuid() != 0 or not namespace.is_possible(),
    reason="Ray is not installed, or this user may not create namespaces",
)
TOKEN = secrets.token_hex(32)


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
        if self.name.startswith("full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.json")
        if self.name.startswith("dies-once") and count == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name.startswith("gpu"):
            # Both hold their GPU at the same time.
            while not {"gpu-a", "gpu-b"} <= set(path.read_text().split()):
                time.sleep(0.05)
            return f"GPU {os.environ['CUDA_VISIBLE_DEVICES']}"
        if self.name.startswith("waits"):
            control.progress(1, 2, "updates")
            while not control.stop_requested():
                time.sleep(0.05)
            raise InterruptedWork("saved")
        return f"{self.name} done after {count}"

    def task_of(self, suite):
        return ""


@dataclass(frozen=True, kw_only=True)
class Environment(PrepareJob):
    """Return what a job that prepares images sees."""

    def run(self, suite, place, control):
        return f"GPUs {os.environ['CUDA_VISIBLE_DEVICES']!r}, locks {os.environ.get(VARIABLE)}"


@pytest.fixture
def go(tiny, place, monkeypatch):
    """Run jobs on a node with two CPU cores and two GPUs, which nobody uses."""
    # Ray reads them when it is imported. Without them, it writes a token into the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    # Ray gives no GPUs that are hidden from it.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    import ray

    # Workers import the jobs of this module.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(ray, "init", partial(ray.init, num_cpus=2, num_gpus=2))

    def run(jobs, watcher, control=None, gpus=1.0):
        run_jobs_on_ray(jobs, tiny, place, control or Control(), watcher, RayOptions(cpus=1, gpus=gpus))

    # Ray's ports are open to nobody.
    with namespace.own_network():
        yield run


@needs_ray
def test_losses_are_repaired_and_errors_are_not_tried_again(go, place, monkeypatch):
    import ray

    get = ray.get

    def without_memory(reference, **options):
        answer = get(reference, **options)
        if isinstance(answer, tuple) and answer[0] == "done" and "memory" in str(answer[1]):
            raise ray.exceptions.OutOfMemoryError("the node ran low on memory")
        return answer

    monkeypatch.setattr(ray, "get", without_memory)
    watcher = Watcher()
    jobs = [
        Step(name="a"),
        Step(name="dies-once", needs=("a",)),
        Step(name="b", needs=("dies-once",)),
        Step(name="bad"),
        Step(name="needs-it", needs=("bad",)),
        Step(name="full"),
        Step(name="memory"),
        Step(name="gpu-a", weight=9.0),
        Step(name="gpu-b", weight=9.0),
        Environment(name="prepare", task="a"),
        # Two processes train it together.
        PretrainJob(name="pretrain", key=key("step", 0)),
    ]
    with pytest.raises(InputError) as caught:
        go(jobs, watcher, gpus=2.0)
    message = str(caught.value) + "".join(watcher.messages)
    # The order of independent failures is not fixed.
    assert "1 job that depends on it was not started" in message and "2 other errors" in message
    done = notes(place)
    assert [name for name in done if name in {"a", "b", "dies-once"}] == ["a", "dies-once", "dies-once", "b"]
    assert done.count("bad") == done.count("full") == 1 and "needs-it" not in done
    # Out of memory twice, it is not tried again.
    assert done.count("memory") == 2
    assert {"a done after 1", "dies-once done after 2", "b done after 1", "GPU 0", "GPU 1"} <= set(watcher.lines)
    assert "GPUs '', locks None" in watcher.lines
    assert any("dies-once starts again, because its worker or node was lost" in text for text in watcher.messages)
    assert snapshot_path(place.workspace.checkpoints, "tiny", key("step", 0)).is_file()
    assert not list(place.workspace.root.glob(".nodes-*"))


@needs_ray
def test_stop_reaches_running_jobs_and_others_do_not_start(go, place):
    control = Control()

    class Stopping(Watcher):
        def progressed(self, job, done, total, unit):
            control.stop()

    with pytest.raises(InterruptedWork, match="Run the same command again"):
        go([Step(name="waits"), Step(name="after", needs=("waits",))], Stopping(), control)
    assert notes(place) == ["waits"]


@needs_ray
def test_leases_where_locks_are_local_and_no_room_is_reported(go, place, monkeypatch):
    @contextmanager
    def with_local_locks(place):
        """As on a file system whose locks hold on one node alone: the node locks the file, too."""
        lock = place.workspace.root / "lock"
        lock.touch()
        yield Probe(nonce=str(lock), lock=str(lock), roots=())

    monkeypatch.setattr("lrbench.jobs.ray.probing", with_local_locks)
    monkeypatch.setenv(VARIABLE, "flock")

    class Impatient(Watcher):
        def finished(self, job, line):
            super().finished(job, line)
            monkeypatch.setattr("lrbench.jobs.ray._PATIENCE_SECONDS", 1.0)

    watcher = Impatient()
    with pytest.raises(
        FailureError, match=r"has had room for a job \(8 GPUs and 1 CPU cores\) .* with 2 GPUs and 2 cores"
    ):
        go([Environment(name="prepare", task="a"), PretrainJob(name="a", key=key("step", 0))], watcher, gpus=8.0)
    assert watcher.lines == ["GPUs '', locks lease"]
    assert any("leases are used instead" in text for text in watcher.messages)


def test_missing_ray_is_reported_with_its_extra(tiny, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'lrbench-transfer\[ray\]'"):
        run_jobs_on_ray([Step(name="a")], tiny, place, Control(), Watcher(), RayOptions())
