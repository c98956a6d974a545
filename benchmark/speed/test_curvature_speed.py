"""Cost of statistics of training and of the curvature: in updates of training, and in pairs of gradients."""

import pytest
import torch
from torch import nn

from lrbench.models.devices import pick_device, to_device
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining.curvature import largest_eigenvalue
from lrbench.pretraining.epoch_statistics import EpochStatistics
from lrbench.pretraining.update_statistics import direction_norm

_SIZE, _BATCH, _CLASSES = 64, 64, 10
# Ratios do not depend on the numbers of images and batches, but the time on a CPU does.
_IMAGES, _MEASURED_BATCHES = (1000, 16) if torch.cuda.is_available() else (128, 2)
# The statistics of an epoch, and the updates of an epoch of ImageNet at batch 256.
_STATISTICS_BATCHES, _UPDATES_OF_AN_EPOCH = 16, 5004


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _Batches:
    """Random batches of an epoch of any length."""

    def at(self, number):
        draw = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (_BATCH, _SIZE, _SIZE, 3), dtype=torch.uint8, generator=draw)
        return images, torch.randint(0, _CLASSES, (_BATCH,), generator=draw)


def _network(device):
    model = create_model("resnet18", {}, classes=_CLASSES, seed=0)
    return to_device(model, device)


def test_epoch_statistics_against_an_update(against, report, monkeypatch):
    """Compute the statistics of an epoch's end, and train with as many batches."""
    device = pick_device()
    model, normalise = _network(device), InputNormalisation((0.5,) * 3, (0.25,) * 3, device)
    monkeypatch.setattr("lrbench.pretraining.epoch_statistics.replace", lambda batches, **others: batches)
    statistics = EpochStatistics(model, _Batches(), normalise, count=_MEASURED_BATCHES, batch=_BATCH, decay=1e-4)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)

    def update():
        model.train()
        for number in range(_MEASURED_BATCHES):
            images, labels = _Batches().at(number)
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(normalise(images)), labels.to(device)).backward()
            optimiser.step()
        _wait()

    ratio = against("statistics of an epoch, against as many updates", statistics.compute, update, rounds=3)
    share = ratio * _STATISTICS_BATCHES / _UPDATES_OF_AN_EPOCH
    report(
        f"statistics of an epoch: {100 * share:.2f} % of the {_UPDATES_OF_AN_EPOCH:,} updates of an epoch of ImageNet"
    )
    assert share < 0.02


def test_norms_of_directions_against_updates(against):
    """Train with and without the norm that `training.update_statistics` computes after each update."""
    device = pick_device()
    model, normalise = _network(device), InputNormalisation((0.5,) * 3, (0.25,) * 3, device)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)
    norms = []

    def train(*, logs):
        model.train()
        for number in range(_MEASURED_BATCHES):
            images, labels = _Batches().at(number)
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(normalise(images)), labels.to(device)).backward()
            optimiser.step()
            if logs:
                norms.append(direction_norm(model, optimiser))
        _wait()

    ratio = against(
        "updates with norms of directions, against updates",
        lambda: train(logs=True),
        lambda: train(logs=False),
        rounds=9,
    )
    assert ratio < 1.02


@pytest.mark.parametrize("vectors", [20, 8])
def test_largest_eigenvalue_against_gradient_pairs(against, report, vectors):
    """Compute the largest eigenvalue, and once a pair of gradients: of the loss, and of its product with a vector.

    The network has its initial weights and sees noise, so that its eigenvalues are close to each other. Trained networks need
    fewer products.
    """
    device = pick_device()
    model = _network(device).eval()
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(_IMAGES, 3, _SIZE, _SIZE, generator=draw).to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, _CLASSES, (_IMAGES,), generator=draw).to(device)
    parameters, passes, values = list(model.parameters()), [], []

    def pieces():
        passes.append(1)
        return zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True)

    def pair():
        for part, targets in pieces():
            loss = nn.functional.cross_entropy(model(part), targets)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            products = [(first * other.detach()).sum() for first, other in zip(gradients, parameters, strict=True)]
            torch.autograd.grad(torch.stack(products).sum(), parameters)
        _wait()

    def eigenvalue():
        passes.clear()
        values.append((largest_eigenvalue(model, pieces, vectors=vectors), len(passes)))

    ratio = against(f"largest eigenvalue, {vectors} vectors, against a pair of gradients", eigenvalue, pair, rounds=1)
    report(
        f"largest eigenvalue, {vectors} vectors: {values[-1][0]:.5g} after {values[-1][1]} products with the Hessian"
    )
    assert ratio <= 25
