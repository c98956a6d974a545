"""Worked examples of what C1, C4 and T rest on: the null's own uncertainty, its range, and Fieller's interval."""

import numpy as np
import pytest

from lrbench.stats.intervals import fieller, image_variance
from lrbench.stats.resampling import crossed_bootstrap, image_weights
from lrbench.stats.saturation import residual
from tests.leaderboard.helpers import verdicts, world

SEEDS = 3
SOURCES = [np.linspace(0.3, 0.8, 8)] * SEEDS
# Student's t at 97.5 %, two degrees of freedom.
T = 4.302653


def of_null(correct, observed, labels=None, metric="top1", at=0.5):
    """The residual where every seed has the same right predictions, so that seeds add no variance."""
    labels = np.zeros(correct.shape[1], dtype=np.int64) if labels is None else labels
    observed = np.array([observed] * SEEDS, dtype=np.float64)
    return residual(SOURCES, [correct] * SEEDS, [at] * SEEDS, observed, labels, metric, "test")


# The saturation null.


def test_the_nulls_own_images_are_in_the_residuals_variance():
    """The snapshot in question is right on every image: alone it has no variance at all."""
    hits = (np.arange(200) < 120).astype(np.float64)
    found = of_null(np.tile(hits, (8, 1)), np.ones(200)).estimate
    # All eight err on the same images, so the curve is flat at their error, 0.4, whatever images are drawn.
    assert found.mean == pytest.approx(-0.4)
    assert found.variance == pytest.approx(0.6 * 0.4 / 200, rel=0.25)


def test_a_null_of_noisy_images_adds_to_what_the_snapshot_in_question_varies_by():
    draw = np.random.default_rng(0)
    rising = np.array([draw.random(100) > 0.6 * error + 0.1 for error in SOURCES[0]]).astype(np.float64)
    # The null errs on the first hundred images alone, the other snapshot on the second hundred alone.
    correct, observed = np.hstack([rising, np.ones((8, 100))]), np.ones(200)
    observed[100:120] = 0
    alone = 0.1 * 0.9 / 200
    assert of_null(correct, observed).estimate.variance > 1.5 * alone


@pytest.mark.parametrize(("metric", "expected"), [("mean_per_class", 0.25 - 0.5), ("top1", 0.05 - 0.1)])
def test_the_residual_is_in_the_tasks_own_metric(metric, expected):
    """Ninety images of one class, ten of another; the null is wrong on the small class, the snapshot on half of it."""
    labels = np.repeat([0, 1], [90, 10])
    correct, observed = np.tile((labels == 0).astype(np.float64), (8, 1)), np.ones(100)
    observed[95:] = 0
    assert of_null(correct, observed, labels, metric).estimate.mean == pytest.approx(expected)


@pytest.mark.parametrize(("at", "identified"), [(0.29, False), (0.3, True), (0.8, True), (0.81, False)])
def test_the_null_is_not_identified_outside_its_range_on_either_side(at, identified):
    found = of_null(np.ones((8, 20)), np.ones(20), at=at)
    assert (found.estimate is not None) is identified
    assert ("outside" in found.reason) is not identified


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize(("metric", "classes"), [("top1", 1), ("mean_per_class", 7)])
def test_networks_that_predict_alike_do_not_depart_from_the_null(share, metric, classes):
    """What rounding leaves of nothing is no effect."""
    labels = np.arange(200) % classes
    hits = (np.arange(200) < 200 * share).astype(np.float64)
    found = of_null(np.tile(hits, (8, 1)), hits, labels, metric).estimate
    assert found.p == pytest.approx(1.0) and found.half_width > 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_images_of_small_classes_vary_in_the_null_as_much_as_they_do(size):
    """Thirty classes of as many images: one class's images resampled alone show too little of their variance, or none."""
    labels = np.repeat(np.arange(30), size)
    observed = np.random.default_rng(0).integers(0, 2, len(labels)).astype(np.float64)
    # The null errs on no image, so that all that varies is what is observed.
    variance = of_null(np.ones((8, len(labels))), observed, labels, "mean_per_class").estimate.variance
    assert variance == pytest.approx(image_variance(observed, labels, "mean_per_class"), rel=0.25)


# The crossed bootstrap.


def test_the_crossed_bootstrap_draws_seeds_too():
    """Within a seed all images are alike: what the interval has of width is the seeds'."""
    levels = np.random.default_rng(0).normal(0.1, 0.05, 12)
    weights = image_weights(np.zeros(40, dtype=np.int64), "top1", np.random.default_rng(1))
    low, high = crossed_bootstrap(np.repeat(levels[:, None], 40, axis=1), weights, np.random.default_rng(2))
    assert high - low == pytest.approx(2 * 1.96 * levels.std() / np.sqrt(12), rel=0.15)
    assert low < levels.mean() < high


# C1 and T.


@pytest.mark.parametrize("gains", [(0.3, -0.2), (-0.2, 0.3), (-0.2, -0.1)])
def test_t_is_not_asked_of_a_source_that_falls_for_certain(tiny, gains):
    """A loss that its interval tells from zero is no gain, however much the target gains or falls beside it."""
    path = np.cumsum([0.4, *gains, 0.1])
    target = [0.2, 0.6, 0.4, 0.5]
    evidence = world(
        tiny, 4, np.random.default_rng(0), levels=lambda row: target[row[1]],
        source=lambda row, seed: path[row[1]] + 0.001 * seed * row[1],
    )  # fmt: skip
    found = verdicts(evidence, "C1")[0]
    assert found.verdict == "inconclusive" and found.p is None
    assert "lost accuracy" in found.reason


def ends(top, bottom, top_variance, bottom_variance, shared):
    """Fieller's definition: the ratios at which `top - ratio * bottom` is just T standard errors from zero."""
    squares = [
        bottom**2 - T**2 * bottom_variance,
        -2 * top * bottom + 2 * T**2 * shared,
        top**2 - T**2 * top_variance,
    ]
    return tuple(sorted(np.roots(squares).real))


def test_fiellers_interval_holds_the_images_variance():
    # Deviations of 0.01 and 0.02 about means of 0.2 and 0.5: variances of the means 1e-4 / 3 and 4e-4 / 3.
    tops, bottoms = np.array([0.19, 0.2, 0.21]), np.array([0.48, 0.5, 0.52])
    found = fieller(tops, bottoms, 0.0004)
    assert (found.low, found.high) == pytest.approx(ends(0.2, 0.5, 1e-4 / 3 + 0.0004, 4e-4 / 3, 2e-4 / 3), rel=1e-5)


@pytest.mark.parametrize("scale", ["raw", "logit"])
def test_the_interval_of_t_is_fiellers_by_hand(tiny, scale):
    """Every seed is right on the same 200 of 400 images before the stage and on 320 after it; the source's gains differ."""
    after = (0.75, 0.8, 0.85)
    evidence = world(
        tiny, SEEDS, np.random.default_rng(0), levels=lambda row: 0.5,
        source=lambda row, seed: 0.5 if row[1] == 1 else after[seed],
    )  # fmt: skip
    for row, seed in evidence.values[evidence.columns[0]].correct:
        right = {1: 200}.get(row[1], 320)
        evidence.values[evidence.columns[0]].correct[row, seed] = (np.arange(400) < right).astype(np.float64)
    found = evidence.transferability(("step", 2), ("step", 1), evidence.columns[0], scale=scale)
    if scale == "raw":
        # 120 of 400 images are gained; the variance of an unbiased kind is over 399.
        top, bottoms, images = 0.3, np.array(after) - 0.5, 0.3 * 0.7 / 399
    else:
        # log(320/80) and the log-odds of the source. An image counts by the slope 1 / p(1 - p): 6.25 after and 4 before.
        top, bottoms = np.log(4), np.log([3, 4, 17 / 3])
        images = (0.5 * 2.25**2 + 0.3 * 6.25**2 - (0.5 * 2.25 + 0.3 * 6.25) ** 2) / 399
    expected = ends(top, bottoms.mean(), images, bottoms.var(ddof=1) / 3, 0.0)
    # Log-odds are taken half an image away from 0 and 1.
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-5 if scale == "raw" else 0.01)
