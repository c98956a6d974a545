"""Pretraining on several GPUs by processes that lrbench starts itself. Processes on CPUs stand for those on GPUs."""

import multiprocessing
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork, OutOfMemory
from lrbench.core.machine import sharing_processes
from lrbench.jobs.devices import grouped_gpus
from lrbench.jobs.group import _member, pretrain_in_group
from lrbench.jobs.job import PRELOADED, Job, PretrainJob
from lrbench.jobs.local import run_jobs
from lrbench.jobs.preparation import with_preparation
from lrbench.store.suites import write_effective
from tests.helpers import make_home
from tests.jobs.helpers import Watcher
from tests.jobs.results import weights
from tests.pretraining.helpers import Ranks, key


@dataclass(frozen=True, kw_only=True)
class Sees(Job):
    """Report the GPUs of its process, once both such jobs run."""

    def run(self, suite, place, control):
        (place.workspace.root / self.name).touch()
        while not all((place.workspace.root / name).exists() for name in ("left", "right")):
            pass
        return f"GPU {os.environ['CUDA_VISIBLE_DEVICES']} of {sharing_processes()}"

    def task_of(self, suite):
        return suite.source


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs that torch cannot use. Workers are forked where torch is imported, instead of importing it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0", "1"))
    monkeypatch.setattr("lrbench.jobs.local.multiprocessing.get_context", lambda method: context)


def test_gpus_pretrain_together_and_then_work_apart(tiny, place, home, tmp_path, monkeypatch, two_gpus):
    write_effective(place.workspace, tiny)
    pretraining = [
        PretrainJob(name="first", key=key("step", 0)),
        PretrainJob(name="second", needs=("first",), key=key("step", 1)),
    ]
    others = [Sees(name=name, needs=("second",)) for name in ("left", "right")]
    watcher = Watcher()
    run_jobs(with_preparation([*pretraining, *others], tiny), tiny, place, Control(), watcher, gpus=2)
    assert watcher.lines[0] == "images of tiny-source prepared" and "source accuracy" in watcher.lines[2]
    assert sorted(watcher.lines[3:]) == ["GPU 0 of 2", "GPU 1 of 2"]
    assert watcher.messages == ["torch finds no GPU; 2 processes pretrain each snapshot on the CPUs"]
    # As under torchrun, whose processes have the numbers of a single one (tests/pretraining/test_together.py).
    (tmp_path / "torchrun").mkdir()
    other = make_home(tmp_path / "torchrun", monkeypatch)
    done = Ranks("pretrain", "tiny.toml", "--seed", "0", "--arm", "step").finished()
    assert done.status == 0, done.err
    trained = {path: digest for path, digest in weights(home).items() if path.endswith("safetensors")}
    assert len(trained) == 4 and trained.items() <= weights(other).items()


def test_groups_divide_the_gpus(lrbench, monkeypatch):
    devices = grouped_gpus(("0", "1", "2", "3", "4"), 2)
    assert [device.gpu for device in devices if device.parts] == ["0,1", "2,3"]
    # The fifth GPU runs transfers alone.
    assert [device.gpu for device in devices if not device.parts] == ["0", "1", "2", "3", "4"]
    with pytest.raises(InputError, match=r"this machine has 3 GPUs, but --gpus 4 asks for 4 .* Use at most --gpus 3"):
        grouped_gpus(("0", "1", "2"), 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    for options, message in (
        (["--gpus", "2"], "this machine has no GPU, but --gpus 2 asks for 2 for each snapshot. Leave the option out"),
        (["--gpus", "0.5"], "--gpus 0.5 is below 1"),
        (["--gpus", "inf"], "invalid value for '--gpus'"),
        (["--gpus", "2", "--workers", "2"], "--workers and --gpus cannot be combined"),
    ):
        refused = lrbench("run", "tiny.toml", *options)
        assert refused.status == 2 and message in refused.err


@dataclass(frozen=True, kw_only=True)
class Done(PretrainJob):
    def run_together(self, suite, place, control, ranks):
        return "done"


def be_member(job, suite, place, environment):
    """Work as one process of a group, and wait for its agent as torch does."""
    context = multiprocessing.get_context("fork")
    _member(job, suite, place, context.Event(), context.SimpleQueue(), environment, 1)
    (place.workspace.root / f"member{os.getpid()}").touch()
    time.sleep(600)


def have_member(*arguments):
    """Start a member as its worker process does."""
    multiprocessing.get_context("fork").Process(target=be_member, args=arguments).start()


def test_member_that_is_done_ends_with_its_worker(tiny, place, home):
    with socket.create_server(("localhost", 0)) as free:
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    job, environment = Done(name="a", key=key("step", 0)), {"RANK": "0", "WORLD_SIZE": "1", **address}
    worker = context.Process(target=have_member, args=(job, tiny, place, environment))
    worker.start()
    while not (members := list(home.glob("member*"))):
        time.sleep(0.05)
    worker.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{members[0].name[6:]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Waits(PretrainJob):
    """Ends when a stop is requested, or ends one of its processes."""

    end: str = ""

    def run_together(self, suite, place, control, ranks):
        if self.end and not ranks.is_main:
            if self.end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"memory": OutOfMemory("rank 1 has too little"), "fault": ValueError("wrong")}[self.end]
        control.say(f"{ranks.rank} of {ranks.world_size}")
        control.progress(1, 2, "updates")
        if self.end:
            # As a collective, which no signal interrupts.
            ranks.all_gather(None)
        while not control.stop_requested():
            pass
        raise ranks.mark_shared(InterruptedWork("saved"))


class Stopping(Control):
    """Requests a stop at the first progress, unless the group ends by itself."""

    def __init__(self, *, stops):
        super().__init__()
        self.stops, self.texts = stops, []

    def say(self, text):
        self.texts.append(text)

    def progress(self, done, total, unit):
        if self.stops:
            self.stop()


def test_stop_reaches_every_process_of_a_group(tiny, place, tmp_path, monkeypatch):
    # Of a launcher such as Kubeflow's, for the process that starts the group.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    control = Stopping(stops=True)
    with pytest.raises(InterruptedWork):
        pretrain_in_group(Waits(name="a", key=key("step", 0)), tiny, place, control, 2)
    assert sorted(control.texts) == ["0 of 2", "1 of 2"]
    assert not list(tmp_path.glob("torchelastic*"))


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        ("killed", FailureError, r"a process of `a` died \(exit status -?\d+\)"),
        ("memory", OutOfMemory, "rank 1 has too little"),
        ("fault", FailureError, "Unexpected error in `a`: ValueError: wrong"),
    ],
)
def test_end_of_one_process_ends_its_group(tiny, place, end, kind, message):
    with pytest.raises(kind, match=message):
        pretrain_in_group(Waits(name="a", key=key("step", 0), end=end), tiny, place, Stopping(stops=False), 2)
