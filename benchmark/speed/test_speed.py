"""What lrbench adds to, and saves over, the plain way of doing the same."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from lrbench.arms import SnapshotKey, segment
from lrbench.control import Control
from lrbench.data.batches import Batches
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.models import InputNormalisation, create_model, forward_all, penultimate, pick_device
from lrbench.pretrain.trainer import Progress, Trainer
from lrbench.registry import load_suite, load_task
from lrbench.registry.suite import Probe
from lrbench.transfer.probe import Standardiser, solve

_EPOCHS = 2


def _network(suite, classes):
    return create_model(suite.model.architecture, suite.model.arguments, classes=classes, seed=0)


def test_pretraining_against_a_bare_loop(against, tmp_path):
    """The same network and batches: the engine against a loop that only trains."""
    suite, device = (
        load_suite("quick", [f"schedule.epochs={_EPOCHS + 2}", f"schedule.boundaries=[{_EPOCHS}, 3]"]),
        pick_device(),
    )
    data = load_task_data(load_task("toy-source"), [])
    pixels = prepare(data, "train", EvaluationTransform.of(suite.input), cache=tmp_path, control=Control())
    labels = data.splits["train"].labels
    normalise = InputNormalisation(suite.input.mean, suite.input.std, device)
    schedule = suite.schedule
    images = torch.from_numpy(pixels.evaluation(np.arange(len(pixels))))
    targets = torch.from_numpy(labels)

    def ours():
        model = _network(suite, len(data.classes))
        batches = Batches(
            pixels=pixels,
            labels=labels,
            seed=0,
            batch=schedule.batch,
            size=suite.input.size,
            augmentation=schedule.augmentation,
        )
        trainer = Trainer(
            model,
            segment(schedule, SnapshotKey(arm="step", seed=0, stage=1)),
            schedule,
            batches,
            normalise,
            Progress(update=0, weights=model.state_dict()),
            keep_mean=False,
            device=device,
        )
        trainer.train(Control(), lambda progress: None)

    def bare():
        model = _network(suite, len(data.classes)).to(device, memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=schedule.weight_decay, fused=True
        )
        model.train()
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(targets)).split(schedule.batch):
                if len(chosen) == schedule.batch:
                    loss = nn.functional.cross_entropy(model(normalise(images[chosen])), targets[chosen].to(device))
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    against("pretraining, against a bare loop", ours, bare)


def test_the_probe_against_scikit_learn(against):
    """One strength on features like a network's, both to the same gradient tolerance."""
    draw = np.random.default_rng(0)
    count, width, classes = 2000, 512, 100
    labels = draw.integers(0, classes, count)
    raw = np.maximum(draw.normal(size=(count, width)) + 0.3 * draw.normal(size=(classes, width))[labels], 0)
    found = torch.from_numpy(raw.astype(np.float32))
    inputs, targets = Standardiser(found)(found), torch.from_numpy(labels)
    settings = Probe()
    plain = inputs[:, :-1].numpy()

    def ours():
        (fit,) = solve(inputs, targets, [1.0], classes=classes, settings=settings)
        assert fit.converged

    def theirs():
        LogisticRegression(C=1.0, tol=settings.tolerance, max_iter=settings.iterations).fit(plain, labels)

    against("probe, one strength, against scikit-learn", ours, theirs, rounds=3)


def test_features_again_against_the_first_time(against, tmp_path):
    """A task's second snapshot finds the pixels prepared: nothing is made or decoded again."""
    suite, device = load_suite("quick"), pick_device()
    task = load_task("toy-objects")
    model = _network(suite, 20).to(device).eval()
    normalise = InputNormalisation(suite.input.mean, suite.input.std, device)
    transform = EvaluationTransform.of(suite.input)
    fresh = iter(range(1000))

    def extract(cache):
        data = load_task_data(task, [])
        for split in data.splits:
            pixels = prepare(data, split, transform, cache=cache, control=Control())
            forward_all(lambda images: penultimate(model, images), pixels, normalise)

    extract(tmp_path / "warm")
    against(
        "features with a prepared cache, against without",
        lambda: extract(tmp_path / "warm"),
        lambda: extract(tmp_path / f"cold{next(fresh)}"),
    )
