"""The saturation null: its fit, its range, and the variance of residuals."""

import numpy as np
import pytest

from lrbench.stats.effects import mean_effect
from lrbench.stats.images import image_variance
from lrbench.stats.saturation import Scored, fit_null, residual
from tests.leaderboard.helpers import first_right, null_world

SEEDS = 3
SOURCE = np.linspace(0.3, 0.8, 8)
SOURCE_IMAGES = 1000


def scored(by_snapshot, labels=None, metric="top1"):
    """Return predictions of shape `(R, I)`, the same for all seeds, so that seeds add no variance."""
    correct = np.repeat(np.array(by_snapshot, dtype=np.float64)[:, None], SEEDS, axis=1)
    labels = np.zeros(correct.shape[2], dtype=np.int64) if labels is None else labels
    return Scored(correct=correct, labels=labels, metric=metric)


def of_null(null, observed, labels=None, metric="top1", at=0.5, source=None):
    """Return the residual of a snapshot at a source error, or the reason without one."""
    if source is None:
        # Whole networks are right or wrong on a share of each image, so the source has no variance over images.
        source = scored([np.full(SOURCE_IMAGES, 1 - error) for error in (*SOURCE[: len(null)], at)])
    return residual(scored([*null, observed], labels, metric), source, tuple(range(SEEDS)), "test")


def test_fit_recovers_the_curve():
    errors = np.linspace(0.25, 0.9, 10)[:, None]
    for k, a, c in [(0.5, 1.0, 0.1), (0.8, 2.0, 0.0), (0.3, 0.5, 0.2)]:
        null = fit_null(errors, k * errors**a + c)
        assert null.predict(0.4)[0] == pytest.approx(k * 0.4**a + c, abs=2e-3)
    falling = fit_null(errors, 0.6 - 0.3 * errors)
    assert falling.scale[0] == 0 and falling.offset[0] == pytest.approx((0.6 - 0.3 * errors).mean())
    # Without source errors there is no curve.
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        perfect = fit_null(np.zeros((9, 1)), np.full((9, 1), 0.3))
    assert perfect.predict(0.0)[0] == pytest.approx(0.3)
    below = fit_null(errors, errors - 0.2)
    assert below.offset[0] == 0


def test_columns_are_fitted_by_themselves():
    draw = np.random.default_rng(0)
    sources, targets = draw.uniform(0.2, 0.8, (9, 6)), draw.uniform(0.1, 0.6, (9, 6))
    together = fit_null(sources, targets).predict(sources[0])
    alone = [fit_null(sources[:, [i]], targets[:, [i]]).predict(sources[0, i])[0] for i in range(6)]
    assert together == pytest.approx(alone)


def test_residual_covers_zero_and_detects_excess_error():
    draw = np.random.default_rng(12)
    covered = [abs((value := null_world(draw, 0.0, images=300).estimate()).mean) <= value.half_width for _ in range(40)]
    assert np.mean(covered) >= 0.93
    raised = [null_world(draw, 0.08).estimate() for _ in range(10)]
    assert np.mean([value.mean for value in raised]) == pytest.approx(0.08, abs=0.02)
    assert sum(value.p < 0.05 and value.mean > 0 for value in raised) >= 8


def test_null_needs_enough_snapshots():
    assert of_null(np.ones((7, 20)), np.ones(20)) == (
        "not identified: 7 snapshots without decay per seed, 8 are needed"
    )
    assert not isinstance(of_null(np.ones((8, 20)), np.ones(20)), str)


@pytest.mark.parametrize(
    ("at", "below", "above"),
    [(0.25, 0, 8), (0.35, 1, 7), (0.4, 2, 6), (0.7, 6, 2), (0.75, 7, 1), (0.9, 8, 0), (0.5, 3, 5)],
)
def test_null_needs_two_snapshots_on_each_side(at, below, above):
    result = of_null(np.ones((8, 20)), np.ones(20), at=at)
    assert isinstance(result, str) is (min(below, above) < 2)
    if isinstance(result, str):
        assert f"{below} have less and {above} have more" in result and f"({100 * at:.1f} %)" in result


def test_equal_source_error_is_on_neither_side():
    source = scored([np.full(20, 1 - error) for error in (0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.7, 0.5)])
    result = of_null(np.ones((8, 20)), np.ones(20), source=source)
    assert "of seed 0, 2 have less and 1 have more" in result


def test_one_seed_outside_the_range_leaves_no_null():
    """Every seed has its own null."""
    correct = np.tile(1 - np.append(SOURCE, 0.5)[:, None, None], (1, 3, 50))
    correct[8, 1] = 0.9
    source = Scored(correct=correct, labels=np.zeros(50, dtype=np.int64), metric="top1")
    assert "of seed 7, 0 have less and 8 have more" in residual(scored(np.ones((9, 20))), source, (4, 7, 9), "test")


def test_residual_variance_includes_the_images_of_the_null():
    """The snapshot in question is right on every image, so it has no variance of its own."""
    hits = first_right(0.6, 200)
    value = of_null(np.tile(hits, (8, 1)), np.ones(200)).estimate()
    # All eight err on the same images, so the curve is flat at their error, 0.4, whatever images are drawn.
    assert value.mean == pytest.approx(-0.4) and value.seed_variance == pytest.approx(0)
    assert value.image_variance == pytest.approx(0.6 * 0.4 / 200, rel=0.25)


def test_noisy_null_adds_variance():
    draw = np.random.default_rng(0)
    rising = np.array([draw.random(100) > 0.6 * error + 0.1 for error in SOURCE]).astype(np.float64)
    # The null errs on the first hundred images alone, the other snapshot on the second hundred alone.
    correct, observed = np.hstack([rising, np.ones((8, 100))]), np.ones(200)
    observed[100:120] = 0
    alone = 0.1 * 0.9 / 200
    assert of_null(correct, observed).estimate().image_variance > 1.5 * alone


def test_residual_variance_includes_the_images_of_the_source():
    """All seeds share a sample of source images, which moves every source error along the curve."""
    errors = np.append(SOURCE, 0.55)
    correct = np.array([first_right(1 - error, SOURCE_IMAGES) for error in errors])
    # An image of the target is right by the same share, so the target's images have no variance.
    targets = 0.9 * SOURCE**2
    null = [np.full(200, 1 - error) for error in targets]
    value = of_null(null, np.full(200, 1 - 0.9 * 0.55**2), source=scored(correct)).estimate()
    draw = np.random.default_rng(5)
    samples = draw.multinomial(SOURCE_IMAGES, np.full(SOURCE_IMAGES, 1 / SOURCE_IMAGES), size=2000) / SOURCE_IMAGES
    resampled = 1 - correct @ samples.T
    predicted = fit_null(resampled[:-1], np.repeat(targets[:, None], 2000, axis=1)).predict(resampled[-1])
    assert value.mean == pytest.approx(0, abs=2e-3)
    assert value.image_variance == pytest.approx(predicted.var(), rel=0.25)
    fewer = scored([first_right(1 - error, 100) for error in errors])
    assert of_null(null, np.full(200, 1 - 0.9 * 0.55**2), source=fewer).estimate().image_variance == pytest.approx(
        10 * value.image_variance, rel=0.5
    )


def test_targets_share_the_samples_of_source_images():
    """The source's share of the variance does not shrink with more targets; that of the targets' images does."""
    correct = scored([first_right(1 - error, 300) for error in (*SOURCE, 0.55)])
    null = scored([np.full(4000, 1 - 0.9 * error**2) for error in (*SOURCE, 0.55)])
    effects = [residual(null, correct, (0, 1, 2), task) for task in ("a", "b", "c")]
    single = effects[0].estimate().image_variance
    assert mean_effect(effects).estimate().image_variance == pytest.approx(single, rel=1e-6)
    exact = scored([np.full(300, 1 - error) for error in (*SOURCE, 0.55)])
    noisy = scored([*(first_right(1 - 0.9 * error**2, 300) for error in SOURCE), first_right(0.5, 300)])
    effects = [residual(noisy, exact, (0, 1, 2), task) for task in ("a", "b", "c")]
    single = np.mean([effect.estimate().image_variance for effect in effects])
    assert mean_effect(effects).estimate().image_variance == pytest.approx(single / 3, rel=0.25)


@pytest.mark.parametrize(("metric", "expected"), [("mean_per_class", 0.25 - 0.5), ("top1", 0.05 - 0.1)])
def test_residual_uses_the_headline_metric(metric, expected):
    """Ninety images of one class, ten of another; the null is wrong on the small class, the snapshot on half of it."""
    labels = np.repeat([0, 1], [90, 10])
    correct, observed = np.tile((labels == 0).astype(np.float64), (8, 1)), np.ones(100)
    observed[95:] = 0
    assert of_null(correct, observed, labels, metric).estimate().mean == pytest.approx(expected)


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize(("metric", "classes"), [("top1", 1), ("mean_per_class", 7)])
def test_identical_predictions_have_no_residual(share, metric, classes):
    """A rounding error is no effect."""
    hits = first_right(share, 200)
    value = of_null(np.tile(hits, (8, 1)), hits, np.arange(200) % classes, metric).estimate()
    assert value.p == pytest.approx(1.0) and value.half_width > 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_classes_have_the_closed_form_variance(size):
    """Resampling within a class of few images has too little variance, or none."""
    labels = np.repeat(np.arange(30), size)
    observed = np.random.default_rng(0).integers(0, 2, len(labels)).astype(np.float64)
    # The null errs on no image, so only the observed snapshot varies.
    value = of_null(np.ones((8, len(labels))), observed, labels, "mean_per_class").estimate()
    assert value.image_variance == pytest.approx(image_variance(observed, labels, "mean_per_class"), rel=0.25)
