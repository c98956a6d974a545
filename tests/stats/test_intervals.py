"""Intervals, p, equivalence and adjustment, compared with definitions, other libraries and simulations."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from lrbench.stats.effects import estimate
from lrbench.stats.intervals import Estimate, estimate_over_seeds, holm, wilson_interval
from tests.stats.definitions import components, crossed, half_width

WORLDS = {
    "seeds vary": {"of_seed": 0.05, "of_image": 0.1, "noise": 0.1},
    "images vary": {"of_seed": 0.0, "of_image": 0.5, "noise": 0.1},
    "noise": {"of_seed": 0.0, "of_image": 0.0, "noise": 0.5},
    "all vary": {},
}


def estimate_of(mean, seeds, of_seeds, residual=0.0, images=0.0):
    return Estimate(mean=mean, seeds=seeds, seed_variance=of_seeds, residual_variance=residual, image_variance=images)


def test_interval_without_images_is_students():
    values = np.array([0.41, 0.44, 0.40, 0.47])
    interval = estimate_over_seeds(values)
    assert (interval.low, interval.high) == pytest.approx(
        stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    )


def test_one_seed_has_no_interval():
    interval = estimate(np.ones((1, 20)), np.zeros(20, dtype=np.int64), "top1")
    assert interval.mean == 1 and interval.half_width is None and interval.p is None
    assert not interval.excludes_zero and not interval.is_within(2.0) and interval.clip(0, 1) is None


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_half_width_has_one_quantile_per_component(metric, world, seeds):
    draw = np.random.default_rng(seeds)
    labels = np.repeat(np.arange(4), [1, 19, 40, 60])
    values = crossed(draw, seeds, 120, **WORLDS[world])
    of_seeds, residual, total = components(values, labels, metric)
    interval = estimate(values, labels, metric)
    images = max(0.0, total - residual)
    assert (interval.seed_variance, interval.residual_variance) == pytest.approx((of_seeds, residual))
    assert interval.image_variance == pytest.approx(images, abs=1e-15)
    for level in (0.5, 0.9, 0.95, 0.999):
        assert interval.half_width_at(level) == pytest.approx(half_width(1 - level, seeds, of_seeds, residual, images))


def test_residual_noise_bounds_a_fluke_from_below():
    """Three seeds agree by chance, but the images show noise that must differ between seeds."""
    fluke = estimate_of(0.01, 3, 1e-12, residual=1e-4)
    assert fluke.half_width == pytest.approx(1.959964 * 0.01) and fluke.p == pytest.approx(2 * stats.norm.sf(1))
    # The bound has the normal quantile, so it does not matter where the seeds show as much variance.
    assert estimate_of(0.01, 3, 1e-4, residual=1e-4).half_width == pytest.approx(4.302653 * 0.01)


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("p", [0.9, 0.05, 1e-3, 1e-6, 1e-9, 1e-12])
def test_p_without_images_is_students(seeds, p):
    size = stats.t.isf(p / 2, seeds - 1) * 0.01
    for sign in (-1, 1):
        value = estimate_of(sign * size, seeds, 1e-4)
        assert value.p == pytest.approx(2 * stats.t.sf(size / 0.01, seeds - 1), rel=1e-5)


@pytest.mark.parametrize("parts", [(1e-4, 0, 0), (1e-4, 3e-5, 2e-4), (1e-7, 3e-5, 2e-4), (0, 0, 1e-4), (0, 1e-4, 0)])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("mean", [1e-6, 0.003, -0.02, 0.08])
def test_p_is_the_level_whose_half_width_is_the_mean(parts, seeds, mean):
    p = estimate_of(mean, seeds, *parts).p
    assert half_width(p, seeds, *parts) == pytest.approx(abs(mean), rel=1e-5)
    expected = brentq(lambda log: half_width(np.exp(log), seeds, *parts) - abs(mean), -60, 0)
    assert p == pytest.approx(np.exp(expected), rel=1e-5)


def test_p_of_extreme_means():
    assert estimate_of(0.0, 3, 1e-4).p == 1.0 and estimate_of(0.0, 3, 0.0).p == 1.0
    # Nothing varies, so any effect is certain.
    assert estimate_of(0.1, 3, 0.0).p == 0.0 and estimate_of(0.1, 3, 0.0).excludes_zero
    assert not estimate_of(0.0, 3, 0.0).excludes_zero
    assert estimate_of(1.0, 10, 0.0, images=1e-6).p == 0.0
    assert estimate_of(1e-9, 3, 1e-4, images=1e-4).p == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 9])
@pytest.mark.parametrize("mean", [-0.03, -0.005, 0.004, 0.05])
def test_p_agrees_with_the_interval(seeds, mean):
    for scale in (0.1, 1, 10):
        value = estimate_of(mean, seeds, 1e-5 * scale, 1e-6 * scale, 2e-5 * scale)
        assert (value.p < 0.05) is value.excludes_zero


@pytest.mark.parametrize(
    ("mean", "deviation", "within"),
    [(0.0, 0.006, True), (0.0, 0.0095, False), (0.012, 0.003, True), (-0.012, 0.003, True), (0.019, 0.003, False)],
)
def test_equivalence_is_two_one_sided_tests(mean, deviation, within):
    value = estimate_of(mean, 5, deviation**2)
    assert value.is_within(0.02) is within
    # Both one-sided hypotheses, mean ≤ −δ and mean ≥ δ, are rejected at 5 %.
    ps = [stats.t.sf((0.02 + sign * mean) / deviation, 4) for sign in (-1, 1)]
    assert bool(max(ps) < 0.05) is within


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_intervals_of_paired_differences_cover(seeds, metric):
    """Seeds and images both vary, and all seeds share the images."""
    draw = np.random.default_rng(seeds)
    labels = np.repeat(np.arange(10), 15)
    covered = []
    for _ in range(2000):
        interval = estimate(crossed(draw, seeds, 150, of_seed=0.04), labels, metric)
        covered.append(abs(interval.mean - 0.02) <= interval.half_width)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_shared_images_need_their_own_component():
    """An interval over seeds alone misses the truth if images that all seeds share vary."""
    draw, labels = np.random.default_rng(4), np.zeros(100, dtype=np.int64)
    inside = np.zeros((1000, 2))
    for run in range(1000):
        values = crossed(draw, 5, 100, of_seed=0.01, of_image=0.5, noise=0.1)
        intervals = estimate(values, labels, "top1"), estimate_over_seeds(values.mean(axis=1))
        inside[run] = [abs(interval.mean - 0.02) <= interval.half_width for interval in intervals]
    both, alone = inside.mean(axis=0)
    assert 0.93 <= both <= 0.98 and alone < 0.6


def test_holm_matches_statsmodels():
    # Holm 1979 as worked in many textbooks: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    draw = np.random.default_rng(0)
    for count in (1, 2, 7, 30):
        ps = draw.random(count) ** 3
        ps[count // 2] = ps[0]
        assert holm(list(ps)) == pytest.approx(multipletests(ps, method="holm")[1])


@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("count", [1, 17.3, 4000])
def test_wilson_matches_statsmodels(share, count):
    expected = proportion_confint(share * count, count, method="wilson")
    assert wilson_interval(share, count) == pytest.approx(expected, abs=1e-12)
