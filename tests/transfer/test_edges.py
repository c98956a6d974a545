"""Edges of grids, ties, and nearly constant features."""

import math

import numpy as np
import pytest
import torch

from lrbench.config.protocols import Knn, Probe
from lrbench.transfer.protocols import depth, knn, logistic, probe
from lrbench.transfer.selection import LabelledFeatures
from tests.transfer.helpers import problem, split


def at_angles(degrees, labels):
    """Features on the unit circle."""
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return LabelledFeatures(features=torch.stack([radians.cos(), radians.sin()], dim=1), labels=torch.tensor(labels))


# Two classes at a right angle, with seven and five images. Each query is next to a mislabelled image.
MISLABELLED = at_angles([0, 2, 3, 4, 5, 6, 7, 90, 88, 87, 86, 85], [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
CORRECT = at_angles([0, 2, 3, 4, 5, 6, 7, 90, 88, 87, 86, 85], [0] * 7 + [1] * 5)
QUERIES = at_angles([0, 90], [0, 1])


@pytest.mark.parametrize(
    ("train", "grid", "chosen", "edge"),
    [
        # The nearest image is wrong and three outvote it: more neighbours may be better.
        (MISLABELLED, (1, 3), 3, True),
        # Twelve neighbours always vote for the larger class, so that 3 is an inner optimum.
        (MISLABELLED, (1, 3, 12), 3, False),
        # The grid exceeds the number of images.
        (MISLABELLED, (1, 3, 50), 3, False),
        # The grid cannot be extended below 1.
        (CORRECT, (1, 12), 1, False),
    ],
)
def test_knn_edge_is_reported_where_larger_k_may_help(train, grid, chosen, edge):
    choice = knn.select(train, QUERIES, classes=2, metric="top1", settings=Knn(neighbours=grid))
    assert choice.chosen == {"neighbours": chosen} and choice.edge is edge


def noisy(count, seed):
    """Three unbalanced classes; 17 of 20 features are noise."""
    draw = np.random.default_rng(seed)
    labels = np.where(draw.random(count) < 0.6, 0, draw.integers(0, 3, count))
    features = draw.normal(size=(count, 20))
    features[:, :3] += 1.2 * np.eye(3)[labels]
    return LabelledFeatures(features=torch.from_numpy(features).float(), labels=torch.from_numpy(labels))


@pytest.mark.parametrize(
    ("weakest", "strongest", "side"),
    [(1e-3, 1e1, "strongest"), (1e1, 1e3, "weakest"), (1e-3, 1e6, None)],
)
def test_probe_edge_is_reported_on_either_side(weakest, strongest, side):
    settings = Probe(strengths=round(math.log10(strongest / weakest)) + 1, weakest=weakest, strongest=strongest)
    choice = probe.select(noisy(120, 0), noisy(600, 1), classes=3, metric="top1", settings=settings)
    ends = {"strongest": settings.grid()[0], "weakest": settings.grid()[-1]}
    if side is None:
        assert choice.chosen["strength"] not in ends.values() and choice.edge is False
    else:
        assert choice.chosen["strength"] == ends[side] and choice.edge is True


def test_ties_prefer_the_deepest_stage():
    data = problem("overlapping")
    noise = torch.randn(240, 24, generator=torch.Generator().manual_seed(0))
    for features, chosen in (([data.features] * 3, 3), ([data.features, data.features, noise], 2)):
        train, held = split(LabelledFeatures(features=torch.cat(features, dim=1), labels=data.labels))
        settings = depth.DepthSettings(probe=Probe(strengths=3), widths=(24, 24, 24))
        choice = depth.select(train, held, classes=6, metric="top1", settings=settings)
        scores = {candidate["depth"]: candidate["score"] for candidate in choice.candidates}
        assert scores[1] == scores[2] and choice.chosen["depth"] == chosen


@pytest.mark.parametrize("width", [2, 7, 64])
def test_equally_near_images_are_taken_in_order(width):
    """Selection searches the largest k and the final scores the selected one: both use the same neighbours."""
    draw = torch.Generator().manual_seed(width)
    # Binary features: many images are equally near.
    features = torch.randint(0, 2, (60, width), generator=draw).float()
    features[20:40] = features[:20]
    labels = torch.randint(0, 5, (60,), generator=draw)
    data = LabelledFeatures(features=features, labels=labels)
    queries = torch.randint(0, 2, (40, width), generator=draw).float()
    grid = [60, 20, 10, 5, 3, 1]
    several = knn.Neighbours(data, classes=5, most=60).predictions(queries, grid)
    similarity = knn._unit(queries) @ knn._unit(features).T
    order = similarity.argsort(dim=1, descending=True, stable=True)
    for k, predicted in zip(grid, several, strict=True):
        assert torch.equal(predicted, knn.Neighbours(data, classes=5, most=k).scores(queries, k).argmax(1))
        assert torch.equal(knn._nearest(similarity, k)[1], order[:, :k])
    assert torch.equal(several[-1], labels[order[:, 0]])


def test_first_of_two_copies_is_the_nearest():
    copies = LabelledFeatures(features=torch.ones(4, 3), labels=torch.tensor([3, 1, 1, 0]))
    neighbours = knn.Neighbours(copies, classes=4, most=4)
    assert neighbours.predictions(torch.ones(1, 3), [1]).item() == 3
    assert neighbours.scores(torch.ones(1, 3), 1).argmax().item() == 3


@pytest.mark.parametrize("level", [1.0, -300.0, 1e-6, 1e7])
def test_nearly_constant_features_change_nothing(level):
    train, test = noisy(300, 0), noisy(300, 1)
    draw = torch.Generator().manual_seed(0)

    def beside_rounding(data):
        """Add many features that are constant up to rounding."""
        units = torch.randint(-2, 3, (300, 400), generator=draw)
        values = torch.tensor(level) * (1 + units * torch.finfo(torch.float32).eps)
        assert 0 < values.double().std() <= 4e-7 * abs(level)
        return torch.cat([data.features, values], dim=1)

    choice = probe.Choice(chosen={"strength": 1.0}, candidates=(), edge=False, metric="top1")
    plain = probe.fit(train, choice, classes=3, settings=Probe()).scores(test.features)
    wider = LabelledFeatures(features=beside_rounding(train), labels=train.labels)
    scores = probe.fit(wider, choice, classes=3, settings=Probe()).scores(beside_rounding(test))
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-4)


def test_small_variance_is_scaled_up():
    train = noisy(300, 0)
    small = logistic.Standardiser(1 + 1e-4 * train.features)(1 + 1e-4 * train.features)
    torch.testing.assert_close(small, logistic.Standardiser(train.features)(train.features), rtol=0.05, atol=0.05)
