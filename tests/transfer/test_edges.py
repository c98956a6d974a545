"""Whether the best lies on the grid's edge, and which of equals is chosen."""

import math

import numpy as np
import pytest
import torch

from lrbench.registry.protocols import Knn, Probe
from lrbench.transfer import depth, knn, probe
from lrbench.transfer.selection import LabelledFeatures
from tests.transfer.test_protocols import problem, split


def at_angles(degrees, labels):
    """Features on the unit circle."""
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return LabelledFeatures(features=torch.stack([radians.cos(), radians.sin()], dim=1), labels=torch.tensor(labels))


# Two classes a right angle apart, seven images and five; queries lie where one image of each class has a wrong label.
MISLABELLED = at_angles([0, 2, 3, 4, 5, 6, 7, 90, 88, 87, 86, 85], [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
CORRECT = at_angles([0, 2, 3, 4, 5, 6, 7, 90, 88, 87, 86, 85], [0] * 7 + [1] * 5)
QUERIES = at_angles([0, 90], [0, 1])


@pytest.mark.parametrize(
    ("train", "grid", "chosen", "edge"),
    [
        # The nearest is wrong and three outvote it: more neighbours may do better still.
        (MISLABELLED, (1, 3), 3, True),
        # All twelve name the larger class whatever is asked, so three are the best of a grid that goes on.
        (MISLABELLED, (1, 3, 12), 3, False),
        # The grid goes on beyond what the images allow.
        (MISLABELLED, (1, 3, 50), 3, False),
        # Fewer neighbours than one there are not.
        (CORRECT, (1, 12), 1, False),
    ],
)
def test_an_edge_of_neighbours_is_told_where_more_of_them_may_do_better(train, grid, chosen, edge):
    choice = knn.select(train, QUERIES, classes=2, metric="top1", settings=Knn(neighbours=grid))
    assert choice.chosen == {"neighbours": chosen} and choice.edge is edge


def noisy(count, seed):
    """One class of three has most images, and most of many features say nothing."""
    draw = np.random.default_rng(seed)
    labels = np.where(draw.random(count) < 0.6, 0, draw.integers(0, 3, count))
    features = draw.normal(size=(count, 20))
    features[:, :3] += 1.2 * np.eye(3)[labels]
    return LabelledFeatures(features=torch.from_numpy(features).float(), labels=torch.from_numpy(labels))


@pytest.mark.parametrize(
    ("weakest", "strongest", "side"),
    [(1e-3, 1e1, "strongest"), (1e1, 1e3, "weakest"), (1e-3, 1e6, None)],
)
def test_an_edge_of_strengths_is_told_on_either_side(weakest, strongest, side):
    settings = Probe(strengths=round(math.log10(strongest / weakest)) + 1, weakest=weakest, strongest=strongest)
    choice = probe.select(noisy(120, 0), noisy(600, 1), classes=3, metric="top1", settings=settings)
    ends = {"strongest": settings.grid()[0], "weakest": settings.grid()[-1]}
    if side is None:
        assert choice.chosen["strength"] not in ends.values() and choice.edge is False
    else:
        assert choice.chosen["strength"] == ends[side] and choice.edge is True


def test_of_depths_that_do_equally_well_the_deepest_is_chosen():
    data = problem("overlapping")
    noise = torch.randn(240, 24, generator=torch.Generator().manual_seed(0))
    for features, chosen in (([data.features] * 3, 3), ([data.features, data.features, noise], 2)):
        train, held = split(LabelledFeatures(features=torch.cat(features, dim=1), labels=data.labels))
        settings = depth.DepthSettings(probe=Probe(strengths=3), widths=(24, 24, 24))
        choice = depth.select(train, held, classes=6, metric="top1", settings=settings)
        scores = {each["depth"]: each["score"] for each in choice.candidates}
        assert scores[1] == scores[2] and choice.chosen["depth"] == chosen
