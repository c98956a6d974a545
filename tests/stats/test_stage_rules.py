"""Published rules that end stages, on series whose answer is known."""

import numpy as np
import pytest
import torch

from lrbench.stats.stage_rules import plateau_end, sasa_end, yaida_end

EPOCHS, UPDATES, RATE, MOMENTUM = 60, 40, 0.05, 0.9


def torch_plateau(losses):
    """Return the first epoch after which torch lowers the rate."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser)
    for epoch, loss in enumerate(losses, start=1):
        scheduler.step(loss)
        if optimiser.param_groups[0]["lr"] < 1:
            return epoch
    return None


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_plateau_is_that_of_torch(noise):
    draw = np.random.default_rng(1)
    for scale in (2, 5, 20, 200):
        losses = (1 + np.exp(-np.arange(EPOCHS) / scale)) * (1 + noise * draw.normal(size=EPOCHS))
        assert plateau_end(losses) == torch_plateau(losses)
    assert plateau_end([1.0] * 12) == 12 and plateau_end([1.0] * 11) is None


def quadratic_descent(seed, start, curvature=0.02, dimensions=200):
    """Means over the epochs of SGD with momentum on a quadratic with noisy gradients, and |w|² at their ends."""
    draw = np.random.default_rng(seed)
    weights, direction = np.full(dimensions, start), np.zeros(dimensions)
    drift, left, right, squares = [], [], [], []
    for _ in range(EPOCHS):
        values = []
        for _ in range(UPDATES):
            gradient = curvature * weights + draw.normal(size=dimensions)
            product = weights @ gradient
            direction = MOMENTUM * direction + gradient
            weights = weights - RATE * direction
            half = RATE / 2 * direction @ direction
            values.append((weights @ direction + half, product, (1 + MOMENTUM) * half))
        for series, mean in zip((drift, left, right), np.mean(values, axis=0), strict=True):
            series.append(mean)
        squares.append(weights @ weights)
    return drift, left, right, squares


def test_rules_wait_until_weights_are_stationary():
    # w decays by 1 − η h / (1 − β) = 0.99 an update, so that from 100 standard deviations |w|² is stationary after 12 epochs.
    for seed in range(10):
        drift, left, right, squares = quadratic_descent(seed, start=500.0)
        ends = [sasa_end(drift, first=True), yaida_end(left, right)]
        level = np.mean(squares[EPOCHS // 2 :])
        first = next(count for count, square in enumerate(squares, start=1) if square < 1.5 * level)
        assert 8 <= first <= 20
        assert all(end is not None and first <= end <= 50 for end in ends)


def test_rules_never_end_a_stage_that_drifts():
    # A start so far away that the weights shrink in every epoch.
    for seed in range(10):
        drift, left, right, _ = quadratic_descent(seed, start=1e6, curvature=0.001)
        assert sasa_end(drift, first=True) is None and yaida_end(left, right) is None


def test_composite_test_needs_both_halves():
    # The halves of the first window are -3 and 4 / 3 on average: zero is inside the whole interval, and signs differ.
    crossing = [-3.0, -3.0, 1.0, 2.0, 1.0]
    assert sasa_end(crossing, first=False) is None
    # The same sign, but the later half alone is far from zero.
    assert sasa_end([0.1, 0.1, 0.1, 6.0, 6.0], first=False) == 5
    assert sasa_end([0.1, 0.1, 0.1, 6.0, 6.0], first=True) is None


def test_yaida_ends_within_one_percent_over_the_latest_half():
    left = list(1 + 0.5 ** np.arange(20.0))
    expected = next(count for count in range(5, 21) if np.mean(left[count // 2 : count]) < 1.01)
    assert yaida_end(left, [1.0] * 20) == expected
    # Without any gradient there is no balance to test.
    assert yaida_end([0.0] * 20, [0.0] * 20) is None
    assert yaida_end([0.98] * 40, [1.0] * 40) is None and yaida_end([0.995] * 4, [1.0] * 4) is None
