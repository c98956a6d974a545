"""Fine-tuning against reference loops."""

import numpy as np
import pytest
import torch
from torch import nn

from lrbench.config.protocols import Finetune
from lrbench.core.control import Control
from lrbench.core.errors import FailureError
from lrbench.models.graphs import can_capture
from lrbench.transfer.protocols import finetune_run
from lrbench.transfer.protocols.finetune import Finetuning
from lrbench.transfer.protocols.finetune_run import FinetuneContext, TrainingRun, UpdateProgress
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.selection import Choice
from lrbench.transfer.target import Development, JoinedPixels
from tests.transfer.helpers import CPU, LABELS, NORMALISE, Images, Network


def context(network, **settings):
    given = Finetune(**{"updates": 6, "batch": 8, "augmentation": "none", "rates": (0.1,), "decays": (0.0,)} | settings)
    development = Development(
        pixels=JoinedPixels([Images()]), labels=LABELS, ids=[""] * 24, given=np.array([], dtype=np.int64)
    )
    return FinetuneContext(
        model=network, development=development, classes=3, size=8, normalise=NORMALISE, settings=given, seed=0, device=CPU,
        points=Points(None),
    )  # fmt: skip


def tuning(network, **settings):
    return Finetuning(context(network, **settings))


def training_run(shared, rate=0.1, decay=0.0):
    return TrainingRun(shared, UpdateProgress((shared.settings.updates,), 0), np.arange(24), rate, decay)


@pytest.mark.parametrize(
    ("halving", "total", "seen"),
    [
        # Three networks and the final fit, 16 updates each.
        (False, 64, list(range(1, 65))),
        # Three networks until 2, two until 4, one until 8 and 16, and the final fit.
        (True, 38, list(range(1, 39))),
    ],
)
def test_progress_counts_the_grid_and_the_final_fit(halving, total, seen):
    class Watches(Control):
        def __init__(self):
            super().__init__()
            self.told = []

        def progress(self, done, total, unit):
            self.told.append((done, total, unit))

    owner, watching = tuning(Network(), updates=16, rates=(0.01, 0.02, 0.05), halving=halving), Watches()
    choice = owner.select(np.arange(18), np.arange(18, 24), metric="top1", control=watching)
    owner.fit(choice, watching)
    assert watching.told == [(done, total, "updates") for done in seen]


def batches(shared):
    """Batches of the run."""
    from lrbench.core.seeds import derive
    from lrbench.data.batches import Batches

    return Batches(
        pixels=Images(), labels=LABELS, seed=derive(0, "finetune"), batch=8, size=8,
        augmentation=shared.settings.augmentation, subset=np.arange(24),
    )  # fmt: skip


@pytest.mark.parametrize(("rate", "decay", "momentum"), [(0.05, 0.0, 0.9), (0.05, 0.002, 0.9), (0.05, 0.002, 0.0)])
def test_run_matches_torch_sgd_reference(rate, decay, momentum):
    shared = context(Network(), momentum=momentum)
    run = training_run(shared, rate, decay)
    run.train(6, Control())
    other = shared.new_model().train()
    optimiser = torch.optim.SGD(
        other.parameters(), lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay / rate
    )
    fed = batches(shared)
    for update in range(6):
        optimiser.param_groups[0]["lr"] = rate / 2 * (1 + np.cos(np.pi * update / 6))
        images, labels = fed.at(update)
        optimiser.zero_grad()
        nn.functional.cross_entropy(other(NORMALISE(images)), labels).backward()
        optimiser.step()
    before = shared.new_model().state_dict()
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-4, atol=1e-6)
        # Everything is trained, including the BatchNorm statistics.
        assert not torch.equal(tensor, before[name]), name


def test_grid_uses_the_augmentation_of_the_settings(monkeypatch):
    asked = []
    feed = finetune_run.training_batches
    monkeypatch.setattr(
        finetune_run,
        "training_batches",
        lambda batches, *rest: asked.append(batches.augmentation) or feed(batches, *rest),
    )
    training_run(context(Network(), augmentation="flip")).train(6, Control())
    assert asked == ["flip"]


def test_scores_are_computed_in_float32():
    shared = context(Network(), precision="bfloat16")
    run = training_run(shared)
    run.train(6, Control())
    with torch.inference_mode():
        expected = run.model.eval()(NORMALISE(torch.from_numpy(Images.values)))
    assert torch.equal(shared.scores(run.model, Images()), expected)
    # Scoring changes nothing in the network.
    assert torch.equal(shared.scores(run.model, Images()), expected) and not run.model.training


def test_dropout_is_keyed_by_update_and_seed():
    states = []
    for state in (1, 2):
        shared = context(Network(drop=0.5))
        torch.manual_seed(state)
        run = training_run(shared)
        run.train(6, Control())
        states.append(run.model.state_dict())
        # The global generator is not disturbed.
        after = torch.rand(1)
        torch.manual_seed(state)
        assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("scores", "chosen", "edge"),
    [
        ({(0.01, 0.0): 0.5, (0.1, 0.0): 0.5}, (0.01, 0.0), False),
        ({(0.01, 0.0): 0.5}, (0.01, 0.0), True),
        ({(0.1, 1e-3): 0.6, (0.1, 0.0): 0.6}, (0.1, 1e-3), False),
        ({(0.1, 0.0): 0.9}, (0.1, 0.0), False),
        ({(1.0, 0.0): 0.9}, (1.0, 0.0), True),
        # The largest decay is an edge; a decay of 0 is not.
        ({(0.1, 1e-3): 0.9}, (0.1, 1e-3), True),
    ],
)
def test_ties_prefer_small_rates_and_large_decays(monkeypatch, scores, chosen, edge):
    monkeypatch.setattr(TrainingRun, "train", lambda self, end, control: None)
    monkeypatch.setattr(
        TrainingRun, "_evaluate", lambda self, *_: {"score": scores.get((self._rate, self._decay), 0.1)}
    )
    owner = tuning(Network(), rates=(0.01, 0.1, 1.0), decays=(0.0, 1e-3))
    choice = owner.select(np.arange(12), np.arange(12, 24), metric="top1", control=Control())
    assert (choice.chosen["learning_rate"], choice.chosen["weight_decay"]) == chosen and choice.edge is edge


def test_halving_survivor_at_the_largest_rate_is_an_edge(monkeypatch):
    monkeypatch.setattr(TrainingRun, "train", lambda self, end, control: None)
    monkeypatch.setattr(TrainingRun, "_evaluate", lambda self, *_: {"score": self._rate})
    owner = tuning(Network(), rates=(0.01, 0.1, 1.0), updates=64, halving=True)
    choice = owner.select(np.arange(12), np.arange(12, 24), metric="top1", control=Control())
    assert sum("updates" in candidate for candidate in choice.candidates) == 2
    assert choice.chosen["learning_rate"] == 1.0 and choice.edge


@pytest.mark.parametrize("updates", [1, 3])
def test_nonfinite_final_weights_count_as_diverged(updates):
    """Losses are computed before each update, so that they miss the last weights."""
    owner = tuning(Network(), updates=updates, rates=(1e38, 0.01))
    choice = owner.select(np.arange(16), np.arange(16, 24), metric="top1", control=Control())
    assert [candidate.get("diverged", False) for candidate in choice.candidates] == [False, True]
    assert choice.chosen["learning_rate"] == 0.01
    alone = tuning(Network(), updates=updates, rates=(1e38,))
    with pytest.raises(FailureError, match="diverged at every learning rate"):
        alone.select(np.arange(16), np.arange(16, 24), metric="top1", control=Control())
    frozen = Choice(chosen={"learning_rate": 1e38, "weight_decay": 0.0}, candidates=(), edge=False, metric="top1")
    with pytest.raises(
        FailureError,
        match=r"diverged on training and validation images|logits .* not finite",
    ):
        alone.fit(frozen, Control()).scores(Images())


def test_nonfinite_logits_are_an_error(monkeypatch):
    owner = tuning(Network(), updates=2)
    frozen = Choice(chosen={"learning_rate": 0.1, "weight_decay": 0.0}, candidates=(), edge=False, metric="top1")
    fitted = owner.fit(frozen, Control())
    monkeypatch.setattr(FinetuneContext, "scores", lambda *_: torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(FailureError, match="logits of the fine-tuned network are not finite"):
        fitted.scores(Images())


def test_diverged_run_stops_early(monkeypatch):
    monkeypatch.setattr(finetune_run, "_CHECK_INTERVAL", 2)
    owner = tuning(Network(), updates=9, rates=(1e30, 0.01))
    choice = owner.select(np.arange(16), np.arange(16, 24), metric="top1", control=Control())
    updates = {candidate["learning_rate"]: candidate.get("updates") for candidate in choice.candidates}
    assert updates == {0.01: None, 1e30: 2}
    assert choice.chosen["learning_rate"] == 0.01


def test_training_goes_on_without_graphs_where_capture_fails(monkeypatch):
    class Listens(Control):
        lines: list[str] = []

        def say(self, text):
            self.lines.append(text)

    shared = context(Network())
    expected = training_run(shared)
    expected.train(6, Control())
    # Capture needs a GPU, and fails here after nothing or after the passes that update statistics.
    monkeypatch.setattr(finetune_run, "can_capture", lambda model, device: True)
    run = training_run(shared)
    run.train(6, Listens())
    [line] = Listens.lines
    assert line.startswith("fine-tuning runs without CUDA graphs, with the same numbers: ")
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor), name


def test_graphs_are_refused_on_a_cpu_and_with_dropout(monkeypatch):
    monkeypatch.setenv("LRBENCH_CUDA_GRAPHS", "1")
    gpu = torch.device("cuda")
    assert can_capture(Network(), gpu)
    assert not can_capture(Network(), CPU)
    assert not can_capture(nn.Sequential(Network(), nn.Dropout(0.1)), gpu)
    monkeypatch.delenv("LRBENCH_CUDA_GRAPHS")
    assert not can_capture(Network(), gpu)
