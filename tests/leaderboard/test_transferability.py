"""T on the leaderboard: Fieller's interval by hand, and sources that lose accuracy."""

import numpy as np
import pytest

from lrbench.stats.ratios import fieller
from tests.leaderboard.helpers import verdicts, world

SEEDS = 3
# Student's t at 97.5 %, two degrees of freedom.
T = 4.302653


@pytest.mark.parametrize("gains", [(0.3, -0.2), (-0.2, 0.3), (-0.2, -0.1)])
def test_t_is_undefined_if_source_loses_accuracy(tiny, gains):
    """A significant loss of source accuracy is no gain, whatever the target gains."""
    path = np.cumsum([0.4, *gains, 0.1])
    target = [0.2, 0.6, 0.4, 0.5]
    evidence = world(
        tiny, 4, np.random.default_rng(0), levels=lambda row: target[row[1]],
        source=lambda row, seed: path[row[1]] + 0.001 * seed * row[1],
    )  # fmt: skip
    decision = verdicts(evidence, "C1")[0]
    assert decision.verdict == "inconclusive" and decision.p is None
    assert "lost accuracy" in decision.reason


def ends(top, bottom, top_variance, bottom_variance, shared):
    """Fieller's definition: the ratios at which `top - ratio * bottom` is exactly T standard errors from zero."""
    squares = [
        bottom**2 - T**2 * bottom_variance,
        -2 * top * bottom + 2 * T**2 * shared,
        top**2 - T**2 * top_variance,
    ]
    return tuple(sorted(np.roots(squares).real))


def test_fieller_interval_includes_image_variance():
    # Deviations of 0.01 and 0.02 about means of 0.2 and 0.5: variances of the means 1e-4 / 3 and 4e-4 / 3.
    tops, bottoms = np.array([0.19, 0.2, 0.21]), np.array([0.48, 0.5, 0.52])
    ratio = fieller(tops, bottoms, 0.0004)
    assert (ratio.low, ratio.high) == pytest.approx(ends(0.2, 0.5, 1e-4 / 3 + 0.0004, 4e-4 / 3, 2e-4 / 3), rel=1e-5)


@pytest.mark.parametrize("scale", ["raw", "logit"])
def test_interval_of_t_matches_fieller_by_hand(tiny, scale):
    """Every seed is right on the same 200 of 400 images before the stage and on 320 after it; the source's gains differ."""
    after = (0.75, 0.8, 0.85)
    evidence = world(
        tiny, SEEDS, np.random.default_rng(0), levels=lambda row: 0.5,
        source=lambda row, seed: 0.5 if row[1] == 1 else after[seed],
    )  # fmt: skip
    for row, seed in evidence.values[evidence.columns[0]].correct:
        right = {1: 200}.get(row[1], 320)
        evidence.values[evidence.columns[0]].correct[row, seed] = (np.arange(400) < right).astype(np.float64)
    ratio = evidence.transferability(("step", 2), ("step", 1), evidence.columns[0], scale=scale)
    if scale == "raw":
        # 120 of 400 images are gained; the unbiased variance divides by 399.
        top, bottoms, images = 0.3, np.array(after) - 0.5, 0.3 * 0.7 / 399
    else:
        # log(320/80) and the log-odds of the source. An image has the weight 1 / p(1 - p): 6.25 after and 4 before.
        top, bottoms = np.log(4), np.log([3, 4, 17 / 3])
        images = (0.5 * 2.25**2 + 0.3 * 6.25**2 - (0.5 * 2.25 + 0.3 * 6.25) ** 2) / 399
    expected = ends(top, bottoms.mean(), images, bottoms.var(ddof=1) / 3, 0.0)
    # Shares are moved half an image away from 0 and 1, so the values differ slightly.
    assert (ratio.low, ratio.high) == pytest.approx(expected, rel=1e-5 if scale == "raw" else 0.01)
