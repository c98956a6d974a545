"""Norms of weights and updates in the training log, and the rules that are computed from them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lrbench.config.suite import Suite
from lrbench.core.workspace import Place, Workspace
from lrbench.pretraining.update_statistics import direction_norm, ends_by_rule, epoch_end, inner_products
from lrbench.store.snapshots import read_metadata, state_path
from tests.pretraining.helpers import SCHEDULE, key, make, whole_and_resumed

ADDED = {"weight_square", "weight_direction", "direction_square"}


def logged(suite):
    return Suite.model_validate(suite.model_dump() | {"training": {"update_statistics": True}})


def records(path):
    return [json.loads(line) for line in path.with_name("log.jsonl").read_text().splitlines()]


def test_update_statistics_do_not_change_weights(tiny, place, home):
    elsewhere = Place(workspace=Workspace(root=home / "elsewhere"), roots=place.roots)
    plain, other = make(tiny, key("hold", 2), place), make(logged(tiny), key("hold", 2), elsewhere)
    assert state_path(plain).read_bytes() == state_path(other).read_bytes()
    headers = [read_metadata(path).model_dump() for path in (plain, other)]
    assert "stage_rules" not in headers[0] and set(headers[1].pop("stage_rules")) == {
        "auto",
        "plateau",
        "sasa",
        "yaida",
    }
    assert headers[0] == headers[1]
    assert [{name: record[name] for name in record if name not in ADDED} for record in records(other)] == records(plain)
    assert "update_statistics" not in tiny.training.model_dump()


def test_interrupted_update_statistics_are_identical(tiny, place, home):
    whole, resumed = whole_and_resumed(logged(tiny), place, home)
    assert records(resumed) == records(whole) and resumed.read_bytes() == whole.read_bytes()
    assert records(whole)[0].keys() >= ADDED


def test_rules_for_a_constant_rate_are_not_applied_to_cosine(tiny, place):
    trained = make(logged(tiny), key("cosine", 1), place)
    assert records(trained)[0].keys() >= ADDED and read_metadata(trained).stage_rules is None


def test_inner_products_follow_from_norms():
    torch.manual_seed(0)
    model, beta, rate, updates = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double(), 0.9, 0.05, 7
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=beta, weight_decay=0.01)
    parameters = list(model.parameters())

    def flat(tensors):
        return torch.cat([tensor.detach().flatten() for tensor in tensors])

    logged, direct = [], []
    for epoch in range(1, 5):
        products, square = [], 0.0
        for _ in range(updates):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(8, 6).double()), torch.randint(0, 3, (8,))).backward()
            before = flat(parameters)
            gradient = flat(p.grad for p in parameters) + 0.01 * before
            optimiser.step()
            direction = flat(optimiser.state[parameter]["momentum_buffer"] for parameter in parameters)
            half = rate / 2 * direction @ direction
            products.append((flat(parameters) @ direction + half, before @ gradient, (1 + beta) * half))
            square += float(direction_norm(model, optimiser)) ** 2
        direct.append(np.mean(products, axis=0))
        logged.append({"epoch": epoch, "learning_rate": rate, **epoch_end(model, optimiser, square / updates)})
    means = inner_products(logged, SCHEDULE, updates)
    for name, expected in zip(("drift", "left", "right"), np.transpose(direct[1:]), strict=True):
        assert means[name] == pytest.approx(expected, rel=1e-9)


def test_log_has_no_direction_under_nesterov():
    model = nn.Linear(2, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    # Its direction is g + β d, which no buffer holds.
    assert set(epoch_end(model, optimiser, 1.0)) == {"weight_square"}


def test_rules_need_their_quantities():
    losses = [{"epoch": epoch, "learning_rate": 0.1, "loss": 1.0} for epoch in range(3, 20)]
    ends = ends_by_rule(losses, SCHEDULE, updates_per_epoch=5, first=True)
    assert ends == {"auto": 7, "plateau": 14}
    # Weights that do not move at all: no test of noise, but Yaida's relation does not hold.
    still = [record | {"weight_square": 1.0, "weight_direction": 0.0, "direction_square": 1.0} for record in losses]
    assert ends_by_rule(still, SCHEDULE, updates_per_epoch=5, first=True) == ends | {"sasa": None, "yaida": 8}
    nesterov = SCHEDULE.model_copy(update={"nesterov": True})
    assert set(ends_by_rule(still, nesterov, updates_per_epoch=5, first=True)) == {"auto", "plateau", "sasa"}
