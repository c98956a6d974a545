"""The saturation null: its fit, its range, and the variance of residuals."""

import numpy as np
import pytest

from lrbench.stats.images import image_variance
from lrbench.stats.saturation import fit_null, residual
from tests.leaderboard.helpers import null_world

SEEDS = 3
SOURCES = [np.linspace(0.3, 0.8, 8)] * SEEDS


def of_null(correct, observed, labels=None, metric="top1", at=0.5):
    """Return the residual if all seeds have the same predictions, so seeds add no variance."""
    labels = np.zeros(correct.shape[1], dtype=np.int64) if labels is None else labels
    observed = np.array([observed] * SEEDS, dtype=np.float64)
    return residual(SOURCES, [correct] * SEEDS, [at] * SEEDS, observed, labels, metric, "test")


def test_fit_recovers_the_curve():
    errors = np.linspace(0.25, 0.9, 10)
    for k, a, c in [(0.5, 1.0, 0.1), (0.8, 2.0, 0.0), (0.3, 0.5, 0.2)]:
        null = fit_null(errors, (k * errors**a + c)[:, None])
        assert null.predict(0.4)[0] == pytest.approx(k * 0.4**a + c, abs=2e-3)
    falling = fit_null(errors, (0.6 - 0.3 * errors)[:, None])
    assert falling.scale[0] == 0 and falling.offset[0] == pytest.approx((0.6 - 0.3 * errors).mean())
    # Without source errors there is no curve.
    with np.errstate(all="raise"):
        perfect = fit_null(np.zeros(9), np.full((9, 1), 0.3))
    assert perfect.predict(0.0)[0] == pytest.approx(0.3)
    below = fit_null(errors, (errors - 0.2)[:, None])
    assert below.offset[0] == 0


def test_residual_covers_zero_and_detects_excess_error():
    draw = np.random.default_rng(12)
    covered = [abs((value := null_world(draw, 0.0).estimate).mean) <= value.half_width for _ in range(60)]
    assert np.mean(covered) >= 0.93
    raised = [null_world(draw, 0.08).estimate for _ in range(10)]
    assert np.mean([value.mean for value in raised]) == pytest.approx(0.08, abs=0.02)
    assert sum(value.p < 0.05 and value.mean > 0 for value in raised) >= 8


def test_null_needs_enough_snapshots_and_no_extrapolation():
    draw = np.random.default_rng(13)
    labels, hits = np.zeros(50, dtype=np.int64), np.ones((8, 50))
    inside = [np.linspace(0.3, 0.8, 8)]
    outside = residual(inside, [hits], [0.25], np.ones((1, 50)), labels, "top1", "x")
    assert outside.estimate is None and "is outside the fitted 30.0 to 80.0 %" in outside.reason
    few = residual([inside[0][:5]], [hits[:5]], [0.4], np.ones((1, 50)), labels, "top1", "x")
    assert few.estimate is None and "5 snapshots without decay per seed, 8 are needed" in few.reason
    assert draw is not None


def test_residual_variance_includes_the_images_of_the_null():
    """The snapshot in question is right on every image, so it has no variance of its own."""
    hits = (np.arange(200) < 120).astype(np.float64)
    value = of_null(np.tile(hits, (8, 1)), np.ones(200)).estimate
    # All eight err on the same images, so the curve is flat at their error, 0.4, whatever images are drawn.
    assert value.mean == pytest.approx(-0.4)
    assert value.variance == pytest.approx(0.6 * 0.4 / 200, rel=0.25)


def test_noisy_null_adds_variance():
    draw = np.random.default_rng(0)
    rising = np.array([draw.random(100) > 0.6 * error + 0.1 for error in SOURCES[0]]).astype(np.float64)
    # The null errs on the first hundred images alone, the other snapshot on the second hundred alone.
    correct, observed = np.hstack([rising, np.ones((8, 100))]), np.ones(200)
    observed[100:120] = 0
    alone = 0.1 * 0.9 / 200
    assert of_null(correct, observed).estimate.variance > 1.5 * alone


@pytest.mark.parametrize(("metric", "expected"), [("mean_per_class", 0.25 - 0.5), ("top1", 0.05 - 0.1)])
def test_residual_uses_the_headline_metric(metric, expected):
    """Ninety images of one class, ten of another; the null is wrong on the small class, the snapshot on half of it."""
    labels = np.repeat([0, 1], [90, 10])
    correct, observed = np.tile((labels == 0).astype(np.float64), (8, 1)), np.ones(100)
    observed[95:] = 0
    assert of_null(correct, observed, labels, metric).estimate.mean == pytest.approx(expected)


@pytest.mark.parametrize(("at", "identified"), [(0.29, False), (0.3, True), (0.8, True), (0.81, False)])
def test_null_is_not_identified_outside_its_range(at, identified):
    result = of_null(np.ones((8, 20)), np.ones(20), at=at)
    assert (result.estimate is not None) is identified
    assert ("outside" in result.reason) is not identified


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize(("metric", "classes"), [("top1", 1), ("mean_per_class", 7)])
def test_identical_predictions_have_no_residual(share, metric, classes):
    """A rounding error is no effect."""
    labels = np.arange(200) % classes
    hits = (np.arange(200) < 200 * share).astype(np.float64)
    value = of_null(np.tile(hits, (8, 1)), hits, labels, metric).estimate
    assert value.p == pytest.approx(1.0) and value.half_width > 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_classes_have_the_closed_form_variance(size):
    """Resampling within a class of few images has too little variance, or none."""
    labels = np.repeat(np.arange(30), size)
    observed = np.random.default_rng(0).integers(0, 2, len(labels)).astype(np.float64)
    # The null errs on no image, so only the observed snapshot varies.
    variance = of_null(np.ones((8, len(labels))), observed, labels, "mean_per_class").estimate.variance
    assert variance == pytest.approx(image_variance(observed, labels, "mean_per_class"), rel=0.25)
