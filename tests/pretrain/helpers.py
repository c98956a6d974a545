"""Helpers of the tests of pretraining."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lrbench.config.schedule import SnapshotKey, find_segment
from lrbench.config.suite import Schedule, Training
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS
from lrbench.core.errors import InterruptedWork
from lrbench.core.seeds import derive
from lrbench.data.batches import Batches
from lrbench.models.networks import InputNormalisation, create_model
from lrbench.pretrain import trainer
from lrbench.pretrain.segments import make_snapshot
from lrbench.pretrain.source import open_source
from lrbench.pretrain.step import Step
from lrbench.store.snapshots import snapshot_path

CPU = torch.device("cpu")
NORMALISE = InputNormalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU)


def key(arm, stage, seed=0):
    return SnapshotKey(arm=arm, seed=seed, stage=stage)


def make(suite, wanted, place, control=None):
    """Make a snapshot and everything it starts from; gives its path."""
    parent = find_segment(suite.schedule, wanted).parent
    if parent is not None:
        make(suite, parent, place, control)
    make_snapshot(suite, wanted, place, control or Control())
    return snapshot_path(place.workspace.checkpoints, suite.name, wanted)


def bare_loop(suite, place, rates):
    """An independent training loop: one SGD optimiser, the rate of each epoch set by hand. Gives weights by epoch."""
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
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return weights


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=2e-4, atol=2e-5)


class StopsAfter(Control):
    """Asks to stop at the n-th question."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def stop_requested(self):
        self.left -= 1
        return self.left < 0


class Images:
    """Ten images of four by four pixels."""

    plain = None

    def __init__(self):
        self.values = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.values)

    def evaluation(self, indices):
        return self.values[indices]


BATCHES = Batches(pixels=Images(), labels=np.arange(10) % 3, seed=5, batch=3, size=4, augmentation="flip")  # type: ignore[arg-type]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


def stepper(schedule, training=None, **others):
    settings = {"micro_batch": None, "updates": 1, "say": lambda text: None} | others
    return lambda model: Step(model, schedule, training or Training(), NORMALISE, CPU, SINGLE_PROCESS, **settings)


def gradients(model, micro_batch, **others):
    schedule = Schedule(epochs=2, boundaries=(1,), rates=(0.1, 0.01), batch=8)
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8))
    step = stepper(schedule, micro_batch=micro_batch, **others)(model)
    loss, correct = step(images, torch.arange(8) % 3, 0.1, 7)
    return {name: each.grad.clone() for name, each in model.named_parameters()}, float(loss), int(correct), step


class Greedy(nn.Module):
    """A network that has memory for so many images only."""

    def __init__(self, room, inner=None):
        super().__init__()
        self.room, self.inner = room, inner or network()

    def forward(self, images):
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inner(images)


def breaks_at(monkeypatch, number):
    """Have the loss of an update be nan, counted from 1 from now on; gives a list that grows with each update."""
    cross_entropy, calls = nn.functional.cross_entropy, []

    def loss(logits, labels):
        calls.append(1)
        return cross_entropy(logits, labels) * (float("nan") if len(calls) == number else 1.0)

    monkeypatch.setattr(trainer.nn.functional, "cross_entropy", loss)
    return calls


def poisoned(monkeypatch, at):
    """The weights are not numbers after so many updates; the loss of each was fine."""
    call, count = Step.__call__, itertools.count(1)

    def step(self, *arguments):
        found = call(self, *arguments)
        if next(count) == at:
            with torch.no_grad():
                next(iter(self._model.parameters())).fill_(float("inf"))
        return found

    monkeypatch.setattr(Step, "__call__", step)


def stop(suite, wanted, place, updates=2):
    with pytest.raises(InterruptedWork):
        make_snapshot(suite, wanted, place, StopsAfter(updates))


def one_after_another(jobs, suite, place, control, observer, *, workers):
    for job in jobs:
        job.run(suite, place, control)
