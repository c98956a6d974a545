"""Variances over test images, compared with definitions, known values and simulations."""

import numpy as np
import pytest

from lrbench.stats.images import ImageValues, compute_headlines, image_variance, interval_over_images
from tests.stats.definitions import components, crossed, headlines

SIZES = {
    "equal": [10] * 6,
    "unequal": [2, 3, 5, 20, 30],
    "some of one image": [1, 1, 2, 6, 30],
    "one class": [40],
}


def variances(values, labels, metric):
    return ImageValues(values=values, labels=labels, metric=metric).variances()


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_variances_match_their_definitions(metric, sizes, seeds):
    draw = np.random.default_rng(seeds)
    # Labels with gaps, in no order.
    labels = draw.permutation(np.repeat(2 * np.arange(len(SIZES[sizes])) + 1, SIZES[sizes]))
    for values in (
        crossed(draw, seeds, len(labels)) + labels / 10,
        draw.integers(-1, 2, (seeds, len(labels))).astype(float),
    ):
        before = values.copy()
        _, residual, total = components(values, labels, metric)
        assert variances(values, labels, metric) == pytest.approx((residual, max(0, total - residual)), abs=1e-15)
        assert compute_headlines(values, labels, metric) == pytest.approx(headlines(values, labels, metric))
        assert (values == before).all()


def test_classes_of_one_image_count_as_one_sample():
    """Without two images of any class, the images are a sample of classes."""
    values = crossed(np.random.default_rng(0), 4, 30)
    labels = np.arange(30)
    assert variances(values, labels, "mean_per_class") == pytest.approx(variances(values, labels * 0, "top1"))


def test_components_add_up_on_average():
    """V_R and V_B have the means of their definitions; V_S contains the first, not the second."""
    draw, seeds, images = np.random.default_rng(1), 4, 60
    labels = np.zeros(images, dtype=np.int64)
    found = np.array(
        [variances(crossed(draw, seeds, images, of_image=0.4, noise=0.3), labels, "top1") for _ in range(1500)]
    )
    assert found.mean(axis=0) == pytest.approx([0.09 / seeds / images, 0.16 / images], rel=0.03)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_one_image_has_the_smallest_variance(metric):
    shared, images = variances(np.array([[1.0], [0.0], [1.0]]), np.zeros(1, dtype=np.int64), metric)
    # A share of half an image in two: 1/4 · 3/4.
    assert shared == 0 and images == pytest.approx(3 / 16)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_equal_predictions_still_have_image_variance(value, metric):
    share = 0.5 / 31
    found = variances(np.full((3, 30), value), np.arange(30) % 3, metric)
    assert found == pytest.approx((0.0, share * (1 - share) / 30), abs=1e-18)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_image_variance_is_unbiased_in_small_classes(metric):
    """Its mean over many test sets is the variance of the headline metric; a plug-in bootstrap's is a quarter too small."""
    draw = np.random.default_rng(0)
    sizes = np.array([2, 3, 4, 5, 8])
    labels = np.repeat(np.arange(5), sizes)
    found = [image_variance(draw.normal(size=22), labels, metric) for _ in range(4000)]
    truth = 1 / 22 if metric == "top1" else float(np.sum(1 / sizes)) / 25
    assert np.mean(found) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("constant", [0.0, 1.0, 1 / 3])
def test_image_variance_has_a_lower_bound(metric, constant):
    labels = np.repeat(np.arange(4), 10)
    share = 0.5 / 41
    expected = pytest.approx(share * (1 - share) / 40)
    assert image_variance(np.full(40, constant), labels, metric) == expected
    assert image_variance(np.full(40, constant), labels, metric, 3.0) / 9 == expected
    # The bound also holds if one image differs in one run of ten.
    nearly = np.full(40, constant)
    nearly[0] += 0.1
    assert image_variance(nearly, labels, metric) == expected
    nearly[0] += 0.9
    assert image_variance(nearly, labels, metric) > share * (1 - share) / 40


@pytest.mark.parametrize("images", [1, 2, 5])
def test_interval_covers_in_small_classes(images):
    draw = np.random.default_rng(images)
    labels = np.repeat(np.arange(60), images)
    chances = np.clip(draw.normal(0.6, 0.2, 60), 0.05, 0.95)
    held, runs = 0, 800
    for _ in range(runs):
        right = (draw.random(len(labels)) < chances[labels]).astype(float)
        mean = (np.bincount(labels, weights=right) / images).mean()
        half = 1.96 * np.sqrt(image_variance(right, labels, "mean_per_class"))
        held += abs(mean - chances.mean()) <= half
    # Three standard errors of the share of 800 about 95 %.
    assert abs(held / runs - 0.95) < 0.024


def test_wilson_interval_matches_known_values():
    labels, hits = np.arange(16) % 4, np.array([1.0] * 15 + [0.0])
    assert interval_over_images(hits, labels, "top1") == pytest.approx((0.717, 0.989), abs=5e-4)
    # With every image right, the lower end is n / (n + z²), with n the effective number of images for unequal classes.
    assert interval_over_images(np.ones(40), np.arange(40) % 4, "top1") == pytest.approx((0.9124, 1.0), abs=1e-4)
    unequal = np.repeat([0, 1], [9, 1])
    images = 4 / (1 / 9 + 1)
    low, high = interval_over_images(np.ones(10), unequal, "mean_per_class")
    assert (low, high) == pytest.approx((images / (images + 3.8415), 1.0), abs=1e-4)
