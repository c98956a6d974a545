"""Helpers for tests of pretraining: snapshots of the tiny suite, small networks, single updates, and faults."""

import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lrbench.config.pretraining import Schedule, Training
from lrbench.config.schedule import SnapshotKey, find_segment
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS
from lrbench.core.errors import InterruptedWork
from lrbench.core.seeds import derive
from lrbench.core.workspace import Place, Workspace
from lrbench.data.batches import Batches
from lrbench.jobs.job import PRELOADED
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining.loop import Trainer
from lrbench.pretraining.recovery import Recovery
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.source import open_source
from lrbench.pretraining.state import Progress
from lrbench.store.snapshots import snapshot_path
from tests.helpers import Outcome

CPU = torch.device("cpu")
NORMALISE = InputNormalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU)
SCHEDULE = Schedule(epochs=2, boundaries=(1,), rates=(0.1, 0.01), batch=8)


def key(arm, stage, seed=0):
    return SnapshotKey(arm=arm, seed=seed, stage=stage)


def make(suite, wanted, place, control=None):
    """Make a snapshot and its ancestors; return its path."""
    parent = find_segment(suite.schedule, wanted).parent
    if parent is not None:
        make(suite, parent, place, control)
    make_snapshot(suite, wanted, place, control or Control())
    return snapshot_path(place.workspace.checkpoints, suite.name, wanted)


class StopsAfter(Control):
    """Asks to stop at the n-th question."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def stop_requested(self):
        self.left -= 1
        return self.left < 0


class Listens(Control):
    """Collects the warnings."""

    def __init__(self):
        super().__init__()
        self.told = []

    def say(self, text):
        self.told.append(text)


def stop(suite, wanted, place, updates=2):
    """Interrupt the making of a snapshot."""
    with pytest.raises(InterruptedWork):
        make_snapshot(suite, wanted, place, StopsAfter(updates))


def whole_and_resumed(suite, place, home):
    """Return a snapshot of one uninterrupted segment, and the same snapshot of one that was stopped and resumed."""

    class Stops(Control):
        def progress(self, done, total, unit):
            if unit == "updates" and done == 4:
                self.stop()

    elsewhere = Place(workspace=Workspace(root=home / "elsewhere"), roots=place.roots)
    whole = make(suite, key("step", 1), place)
    make(suite, key("step", 0), elsewhere)
    with pytest.raises(InterruptedWork):
        make_snapshot(suite, key("step", 1), elsewhere, Stops())
    return whole, make(suite, key("step", 1), elsewhere)


def one_after_another(jobs, suite, place, control, observer, **others):
    """Run jobs in this process, instead of `run_jobs`."""
    for job in jobs:
        job.run(suite, place, control)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


class OneBatch:
    """Training batches that are all the same: eight images of four by four pixels, unless given."""

    pixels = type("Pixels", (), {"plain": None})
    seed, augmentation = 5, "none"

    def __init__(self, images=None, labels=None, updates_per_epoch=2):
        values = np.random.default_rng(3).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
        self.images = torch.from_numpy(values) if images is None else images
        self.labels = torch.arange(8) % 3 if labels is None else labels
        self.batch, self.size, self.updates_per_epoch = len(self.labels), self.images.shape[1], updates_per_epoch

    def at(self, update):
        return self.images, self.labels


def trainer(model, schedule=SCHEDULE, batches=None, segment=None, progress=None, **others):
    """A trainer of the first stage of `step`, unless another segment is given."""
    settings = {
        "training": Training(), "normalise": NORMALISE, "device": CPU, "ranks": SINGLE_PROCESS, "micro_batch": None,
        "updates": 1, "means": (), "epochs_to_keep": {},
    } | others  # fmt: skip
    segment = segment or find_segment(schedule, key("step", 1))
    progress = progress or Progress(update=0, weights=model.state_dict())
    return Trainer(model, segment, schedule, batches=batches or OneBatch(), progress=progress, **settings)


def train(going, control=None):
    """Train without saving."""
    return going.train(control or Control(), lambda progress: None, lambda: None)


def update_once(model, **others):
    """Train one update; return the trainer."""
    going = trainer(model, **others)
    with suppress(InterruptedWork):
        train(going, StopsAfter(0))
    assert going.progress.update == 1
    return going


def gradients(model, micro_batch=None, **others):
    """The gradients, loss and correct predictions of one update, and the trainer."""
    going = update_once(model, micro_batch=micro_batch, **others)
    slopes = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return slopes, going.progress.loss, going.progress.correct, going


class Greedy(nn.Module):
    """A network that runs out of memory above so many images."""

    def __init__(self, room, inner=None):
        super().__init__()
        self.room, self.inner = room, inner or network()

    def forward(self, images):
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inner(images)


def nan_loss_at(monkeypatch, number):
    """Make the loss of an update nan, counted from 1 from now on; return a list that grows with each update."""
    cross_entropy, calls = nn.functional.cross_entropy, []

    def loss(logits, labels):
        calls.append(1)
        return cross_entropy(logits, labels) * (float("nan") if len(calls) == number else 1.0)

    monkeypatch.setattr(nn.functional, "cross_entropy", loss)
    return calls


def infinite_weights_after(monkeypatch, updates):
    """Make weights infinite after so many updates, though each loss is finite."""
    run, count = Recovery.run, itertools.count(1)

    def broken(self, *arguments):
        outcome = run(self, *arguments)
        if next(count) == updates:
            with torch.no_grad():
                next(iter(self._model.parameters())).fill_(float("inf"))
        return outcome

    monkeypatch.setattr(Recovery, "run", broken)


def bare_loop(suite, place, rates, *, every="epoch"):
    """Weights by epoch or update of an independent training loop: one SGD optimiser, the rate of each epoch set by hand."""
    source = open_source(suite.source, suite.input, place.roots, False, place.workspace.cache, Control())
    batches = Batches(
        pixels=source.train,
        labels=source.data.splits["train"].labels,
        seed=0,
        batch=suite.schedule.batch,
        size=suite.input.size,
        augmentation=suite.schedule.augmentation,
    )
    model = create_model(
        suite.model.architecture, suite.model.arguments, classes=4, seed=derive(0, "initialisation")
    ).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=suite.schedule.weight_decay)
    normalise = InputNormalisation(suite.input.mean, suite.input.std, torch.device("cpu"))
    weights, update = [], 0
    for rate in rates:
        optimiser.param_groups[0]["lr"] = rate
        model.train()
        for _ in range(batches.updates_per_epoch):
            images, labels = batches.at(update)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(normalise(images)), labels).backward()
            optimiser.step()
            update += 1
            if every == "update" or update % batches.updates_per_epoch == 0:
                weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return weights


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=2e-4, atol=2e-5)


def torchrun(*arguments: str, processes: int = 2, restarts: int = 0, entry: tuple[str, ...] = ("-m", "lrbench")):
    """Start lrbench under torchrun."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
            "--max-restarts", str(restarts), *entry, *arguments,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ), start_new_session=True,
    )  # fmt: skip


def finished(process, timeout=180) -> Outcome:
    """Wait for a process and return its outcome."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # No process is left waiting after the test.
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Outcome(process.returncode, out, err)


class Ranks:
    """The processes of one group with torchrun's environment, forked where torch is imported; torchrun takes ten times as long.

    Args:
        arguments: Of lrbench.
        processes: Number of processes.
        entry: Script to run instead of lrbench.
    """

    def __init__(self, *arguments: str, processes: int = 2, entry: str | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOADED])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
        self._errors = [Path(f"errors-{port}-{rank}") for rank in range(processes)]
        self._processes = []
        for rank, errors in enumerate(self._errors):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            environment = os.environ | {name: str(value) for name, value in (group | names).items()}
            process = context.Process(target=run_rank, args=(environment, errors, entry, arguments))
            process.start()
            self._processes.append(process)

    def terminate(self) -> None:
        for process in self._processes:
            process.terminate()

    def finished(self, timeout: float = 180) -> Outcome:
        """Wait until all have ended; return the largest status and what all wrote to stderr."""
        deadline = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        late = [process for process in self._processes if process.is_alive()]
        for process in late:
            process.kill()
        errors = "".join(path.read_text() for path in self._errors)
        assert not late, errors
        return Outcome(max(abs(process.exitcode) for process in self._processes), "", errors)


def run_rank(environment, errors, entry, arguments):
    """Run lrbench or another script in this process."""
    os.environ.clear()
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(os.open(errors if number == 2 else os.devnull, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["lrbench", *arguments]
    if entry is None:
        runpy.run_module("lrbench", run_name="__main__")
    else:
        runpy.run_path(entry, run_name="__main__")
