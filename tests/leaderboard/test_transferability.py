"""T on the leaderboard: Fieller's interval by hand, sources that lose accuracy, and both scales."""

import numpy as np
import pytest

from tests.leaderboard.helpers import SOURCE_IMAGES, set_target, verdicts, world

SEEDS = 3
# Student's t at 97.5 %, two degrees of freedom, and the normal quantile.
T, Z = 4.302653, 1.959964
STEPS = (("step", 2), ("step", 1))


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


def ends(top, bottom, top_variance, bottom_variance, images):
    """Return the ratios r at which `top - r * bottom` is exactly its half-width from zero, without covariance."""
    squares = [
        bottom**2 - T**2 * bottom_variance - Z**2 * images[1],
        -2 * top * bottom,
        top**2 - T**2 * top_variance - Z**2 * images[0],
    ]
    return tuple(sorted(np.roots(squares).real))


def by_hand(tiny, before=0.5, afters=(0.75, 0.8, 0.85)):
    """Return evidence in which every seed is right on the same 200 of 400 images, then on 320; the source's gains differ."""
    evidence = world(
        tiny, SEEDS, np.random.default_rng(0), levels=lambda row: 0.5,
        source=lambda row, seed: before if row[1] == 1 else afters[seed],
    )  # fmt: skip
    for row, seed in list(evidence.values[evidence.columns[0]].correct):
        set_target(evidence, row, seed, {1: 0.5}.get(row[1], 0.8))
    return evidence


def variance_of_gain(weights, shares, count):
    """Return the variance of the mean of a value per image, with given values on given shares of images."""
    weights, shares = np.array(weights), np.array(shares)
    return (shares @ weights**2 - (shares @ weights) ** 2) / (count - 1)


def noise_of(values):
    """Return V_R: the interaction of seeds and images, by definition."""
    residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return (residual**2).sum() / (SEEDS - 1) / (values.shape[1] - 1) / SEEDS / values.shape[1]


@pytest.mark.parametrize("scale", ["raw", "logit"])
def test_interval_of_t_matches_fieller_by_hand(tiny, scale):
    evidence = by_hand(tiny)
    ratio = evidence.transferability(*STEPS, evidence.columns[0], scale=scale)
    afters = np.array((0.75, 0.8, 0.85))
    after, before = (
        np.array([evidence.source_correct[("step", stage), seed] for seed in range(SEEDS)]) for stage in (2, 1)
    )
    if scale == "raw":
        # 120 of 400 images are gained; the unbiased variance divides by 399.
        top, bottoms = 0.3, afters - 0.5
        target, source = variance_of_gain([1, 0], [0.3, 0.7], 400), after - before
    else:
        # log(320/80) and the log-odds of the source. An image has the weight 1 / p(1 - p): 6.25 after and 4 before.
        top, bottoms = np.log(4), np.log([3, 4, 17 / 3])
        target = variance_of_gain([2.25, 6.25, 0], [0.5, 0.3, 0.2], 400)
        source = 6.25 * after - 4 * before
    noise = noise_of(source)
    images = source.mean(axis=0).var(ddof=1) / SOURCE_IMAGES - noise
    # Seeds vary by far more than the noise of their images, which therefore bounds nothing.
    assert T**2 * bottoms.var(ddof=1) / 3 > 10 * Z**2 * noise and images > 0
    expected = ends(top, bottoms.mean(), 0.0, bottoms.var(ddof=1) / 3, (target, images))
    # Shares are moved half an image away from 0 and 1, so the values differ slightly.
    assert (ratio.low, ratio.high) == pytest.approx(expected, rel=1e-5 if scale == "raw" else 0.01)
    assert ratio.value == pytest.approx(top / bottoms.mean(), rel=1e-5 if scale == "raw" else 0.01)


def test_source_images_widen_the_interval_of_t(tiny):
    """Seeds that agree exactly leave the images of target and source."""
    evidence = by_hand(tiny, afters=(0.6, 0.6, 0.6))
    ratio = evidence.transferability(*STEPS, evidence.columns[0])
    images = (variance_of_gain([1, 0], [0.3, 0.7], 400), variance_of_gain([1, 0], [0.1, 0.9], SOURCE_IMAGES))
    assert (ratio.low, ratio.high) == pytest.approx(ends(0.3, 0.1, 0.0, 0.0, images))
    assert ratio.high - ratio.low > 1.1 * np.ptp(ends(0.3, 0.1, 0.0, 0.0, (images[0], 0.0)))


def test_extreme_shares_have_log_odds(tiny):
    """No image right, or all, has the log-odds of half an image away."""
    evidence = by_hand(tiny, before=0.0, afters=(1.0, 1.0, 1.0))
    ratio = evidence.transferability(*STEPS, evidence.columns[0], scale="logit")
    inside = (320.5 / 401, 200.5 / 401)
    top = np.log(inside[0] / (1 - inside[0])) - np.log(inside[1] / (1 - inside[1]))
    assert ratio.value == pytest.approx(top / (2 * np.log((SOURCE_IMAGES + 0.5) / 0.5)))


def test_t_needs_source_predictions(tiny):
    evidence = world(tiny, 3, np.random.default_rng(0), levels=lambda row: 0.5, with_source=False)
    assert evidence.transferability(*STEPS, evidence.columns[0]) is None
    accuracy = evidence.source_accuracy(("step", 1))
    assert accuracy.mean == pytest.approx(0.25) and accuracy.seeds == 3 and accuracy.half_width is None
    assert evidence.source_difference(*STEPS).half_width is None


def test_t_is_over_seeds_with_source_predictions(tiny):
    evidence = by_hand(tiny)
    del evidence.source_correct[("step", 1), 2]
    ratio = evidence.transferability(*STEPS, evidence.columns[0])
    assert ratio.value == pytest.approx(0.3 / np.mean([0.25, 0.3]))
