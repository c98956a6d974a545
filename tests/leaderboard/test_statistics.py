import numpy as np
import pytest
from scipy import stats

from lrbench.stats.intervals import estimate, fieller, image_variance


def test_the_interval_without_images_is_students():
    values = np.array([0.41, 0.44, 0.40, 0.47])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    found = estimate(values)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    found = estimate(np.array([0.5]))
    assert found.half_width is None and not found.excludes_zero


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_the_images_variance_is_that_of_the_headline_also_in_small_classes(metric):
    """Over many test sets, its mean is the variance of the headline; a plug-in bootstrap's is a quarter too small here."""
    draw = np.random.default_rng(0)
    sizes = np.array([2, 3, 4, 5, 8])
    labels = np.repeat(np.arange(5), sizes)
    found = [image_variance(draw.normal(size=22), labels, metric) for _ in range(4000)]
    truth = 1 / 22 if metric == "top1" else float(np.sum(1 / sizes)) / 25
    assert np.mean(found) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("constant", [0.0, 1.0, 1 / 3])
def test_images_that_are_all_alike_count_as_if_half_of_one_were_not(metric, constant):
    labels = np.repeat(np.arange(4), 10)
    share = 0.5 / 41
    expected = pytest.approx(share * (1 - share) / 40)
    assert image_variance(np.full(40, constant), labels, metric) == expected
    assert image_variance(np.full(40, constant), labels, metric, 3.0) / 9 == expected
    # Less than that is never said: one image of which one run in ten is wrong.
    nearly = np.full(40, constant)
    nearly[0] += 0.1
    assert image_variance(nearly, labels, metric) == expected
    nearly[0] += 0.9
    assert image_variance(nearly, labels, metric) > share * (1 - share) / 40


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_paired_differences_cover(seeds):
    """Seeds and images both vary, images shared by all seeds: nominal 95 %, at least 93 % measured."""
    draw = np.random.default_rng(seeds)
    labels = np.zeros(150, dtype=np.int64)
    covered = []
    for _ in range(1500):
        truth, shared = 0.02, draw.normal(0, 0.15, 150)
        rates = truth + draw.normal(0, 0.02, seeds)[:, None] + shared[None, :]
        per_image = rates + draw.normal(0, 0.4, (seeds, 150))
        found = estimate(per_image.mean(axis=1), image_variance(per_image.mean(axis=0), labels, "top1"))
        covered.append(abs(found.mean - truth) <= found.half_width)
    assert np.mean(covered) >= 0.93


def test_fiellers_interval_covers_where_the_denominator_is_clear():
    draw = np.random.default_rng(1)
    covered = []
    for _ in range(2000):
        bottom = draw.normal(0.3, 0.03, 5)
        top = 0.5 * bottom + draw.normal(0, 0.02, 5)
        ratio = fieller(top, bottom)
        covered.append(ratio.low <= 0.5 <= ratio.high)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_a_ratio_is_undefined_where_the_denominator_cannot_be_told_from_zero():
    ratio = fieller(np.array([0.1, 0.2, 0.15]), np.array([0.01, -0.02, 0.015]))
    assert ratio.low is None and ratio.reason == "undefined"
    assert fieller(np.array([0.1]), np.array([0.2])).reason == "one seed"
