# ruff: noqa: F821
"""Intervals, tests and detectable effects, compared with closed forms, other libraries and simulations."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.multitest import multipletests

from lrbench.stats.effects import estimate
from lrbench.stats.images import image_variance, interval_over_images
from lrbench.stats.intervals import holm
from lrbench.stats.ratios import change_of_ratio, fieller

SOURCE = (0.45, 0.067)


def test_interval_matches_student_t():
    values = np.array([0.41, 0.44, 0.40, 0.47])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    interval = estimate(values)
    assert (interval.mean - interval.half_width, interval.mean + interval.half_width) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    interval = estimate(np.array([0.5]))
    assert interval.half_width is None and not interval.excludes_zero


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_image_variance_is_unbiased_in_small_classes(metric):
    """Its mean over many test sets is the variance of the headline metric; a plug-in bootstrap's is a quarter too small."""
    draw = np.random.default_rng(0)
    sizes = np.array([2, 3, 4, 5, 8])
    labels = np.repeat(np.arange(5), sizes)
    variances = [image_variance(draw.normal(size=22), labels, metric) for _ in range(4000)]
    truth = 1 / 22 if metric == "top1" else float(np.sum(1 / sizes)) / 25
    assert np.mean(variances) == pytest.approx(truth, rel=0.03)


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
        interval = estimate(per_image.mean(axis=1), image_variance(per_image.mean(axis=0), labels, "top1"))
        covered.append(abs(interval.mean - truth) <= interval.half_width)
    assert np.mean(covered) >= 0.93


def test_fieller_interval_covers():
    draw = np.random.default_rng(1)
    covered = []
    for _ in range(2000):
        bottom = draw.normal(0.3, 0.03, 5)
        top = 0.5 * bottom + draw.normal(0, 0.02, 5)
        ratio = fieller(top, bottom)
        covered.append(ratio.low <= 0.5 <= ratio.high)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_ratio_is_undefined_if_denominator_may_be_zero():
    ratio = fieller(np.array([0.1, 0.2, 0.15]), np.array([0.01, -0.02, 0.015]))
    assert ratio.low is None and ratio.reason == "undefined"
    assert fieller(np.array([0.1]), np.array([0.2])).reason == "one seed"


def test_detectable_effect_has_the_stated_power():
    draw = np.random.default_rng(7)
    spread = 0.02
    sample = estimate(draw.normal(0, spread, 5))
    size = sample.detectable() / np.sqrt(sample.variance) * spread / np.sqrt(5)
    detected = [estimate(draw.normal(size, spread, 5)).p < 0.05 for _ in range(4000)]
    assert np.mean(detected) == pytest.approx(0.8, abs=0.02)


def test_holm_matches_statsmodels():
    # Holm 1979 as worked in many textbooks: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    draw = np.random.default_rng(0)
    for count in (1, 2, 7, 30):
        ps = draw.random(count) ** 3
        ps[count // 2] = ps[0]
        assert holm(list(ps)) == pytest.approx(multipletests(ps, method="holm")[1])


def test_fieller_interval_solves_its_equation():
    draw = np.random.default_rng(9)
    top, bottom = draw.normal(0.1, 0.02, 6), draw.normal(0.3, 0.03, 6)
    ratio = fieller(top, bottom)
    t = stats.t.ppf(0.975, 5)
    # By Fieller's definition, mean(top − ρ·bottom) is exactly t standard errors from zero at an end ρ.
    for end in (ratio.low, ratio.high):
        gap = top - end * bottom
        assert abs(gap.mean()) == pytest.approx(t * gap.std(ddof=1) / np.sqrt(6))


def gains(draw, seeds, ratios, noise):
    """Return target and source gains by seed with given ratios."""
    source = np.array(SOURCE)[:, None] + draw.normal(0, 0.008, (2, seeds))
    target = np.array([[ratio * gain] for ratio, gain in zip(ratios, SOURCE, strict=True)])
    return target + draw.normal(0, noise, (2, seeds)), source


@pytest.mark.parametrize("ratios", [(0.3, -1.3), (0.1, 2.0), (0.5, 0.5)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_interval_of_change_of_ratio_covers(ratios, seeds):
    draw, runs = np.random.default_rng(seeds), 3000
    held = 0
    for _ in range(runs):
        effect, _ = change_of_ratio(*gains(draw, seeds, ratios, 0.01))
        held += abs(effect.mean - (ratios[1] - ratios[0])) <= effect.half_width
    assert 0.93 <= held / runs <= 0.97


def test_equal_ratios_differ_in_five_percent_of_runs():
    draw, runs = np.random.default_rng(1), 4000
    ps = [change_of_ratio(*gains(draw, 5, (0.5, 0.5), 0.01))[1] for _ in range(runs)]
    assert np.mean([p < 0.05 for p in ps]) == pytest.approx(0.05, abs=0.012)


def test_change_of_ratio_of_one_seed_has_no_interval():
    effect, p = change_of_ratio(np.array([[0.2], [0.1]]), np.array([[0.4], [0.1]]))
    assert effect.mean == pytest.approx(0.5) and effect.half_width is None and p is None


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 20])
def test_detectable_effect_has_power_for_any_family(seeds):
    """The power is integrated over the spread of the seeds; more targets never make smaller effects detectable."""
    before = 0.0
    for tests in (1, 2, 4, 5, 12, 20, 100):
        errors = estimate_of(0.0, 1.0, seeds).detectable(tests)
        bound = stats.t.isf(0.025 / tests, seeds - 1)

        def missed(spread, errors=errors, bound=bound):
            reach = bound * spread / np.sqrt(seeds - 1)
            return (stats.norm.cdf(reach - errors) - stats.norm.cdf(-reach - errors)) * stats.chi.pdf(spread, seeds - 1)

        middle = errors * np.sqrt(seeds - 1) / bound
        power = 1 - quad(missed, 0, 40, points=[middle], limit=400)[0]
        assert power == pytest.approx(0.8, abs=0.002) and errors > before
        before = errors


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
