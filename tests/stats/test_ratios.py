"""Fieller's interval and differences of ratios, compared with closed forms and simulations."""

import numpy as np
import pytest
from scipy import stats

from lrbench.stats.effects import Effect
from lrbench.stats.images import ImageValues
from lrbench.stats.ratios import change_of_ratio, fieller
from tests.stats.definitions import components, crossed, half_width

SOURCE = (0.45, 0.067)


def plain(values):
    """Return an effect without images."""
    return Effect(seeds=tuple(range(len(values))), values=np.array(values, dtype=np.float64))


def on_images(values, name):
    """Return an effect whose images contribute values of shape `(S, I)`."""
    part = ImageValues(values=values, labels=np.zeros(values.shape[1], dtype=np.int64), metric="top1")
    return Effect(seeds=tuple(range(len(values))), values=part.headlines, images={name: part})


def gain_values(draw, seeds, images, mean, **deviations):
    return crossed(draw, seeds, images, mean=mean, **{"of_seed": 0.01, "of_image": 0.3, "noise": 0.3, **deviations})


def parts_of(values):
    return components(values, np.zeros(values.shape[1], dtype=np.int64), "top1")


@pytest.mark.parametrize(
    "deviations", [{"of_seed": 0.03}, {"of_seed": 0.001}, {"of_image": 0.0}, {"of_seed": 0.0, "noise": 0.8}]
)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_fieller_interval_is_the_hull_of_two_quadratics(deviations, seeds):
    draw = np.random.default_rng(11)
    tops, bottoms = gain_values(draw, seeds, 400, 0.2, **deviations), gain_values(draw, seeds, 900, 0.5, **deviations)
    # The seeds' gains are correlated.
    tops += 0.4 * (bottoms.mean(axis=1, keepdims=True) - bottoms.mean())
    top, bottom = tops.mean(axis=1), bottoms.mean(axis=1)
    (top_seeds, top_noise, top_total), (bottom_seeds, bottom_noise, bottom_total) = parts_of(tops), parts_of(bottoms)
    top_images, bottom_images = max(0, top_total - top_noise), max(0, bottom_total - bottom_noise)
    shared = np.cov(top, bottom)[0, 1] / seeds
    t2, z2 = stats.t.ppf(0.975, seeds - 1) ** 2, stats.norm.ppf(0.975) ** 2
    t, s = top.mean(), bottom.mean()
    ends = [
        np.roots(
            [
                s**2 - c - z2 * bottom_images,
                -2 * t * s + 2 * b,
                t**2 - a - z2 * top_images,
            ]
        ).real
        for a, b, c in (
            (t2 * top_seeds, t2 * shared, t2 * bottom_seeds),
            (z2 * top_noise, 0, z2 * bottom_noise),
        )
    ]
    ratio = fieller(on_images(tops, "target"), on_images(bottoms, "source"))
    if s**2 > t2 * bottom_seeds + z2 * bottom_images:
        assert (ratio.low, ratio.high) == pytest.approx((np.min(ends), np.max(ends)), rel=1e-9)
        # At an end r, the mean of t − r·s is exactly its half-width from zero.
        for end in (ratio.low, ratio.high):
            width = half_width(
                0.05,
                seeds,
                (top - end * bottom).var(ddof=1) / seeds,
                top_noise + end**2 * bottom_noise,
                top_images + end**2 * bottom_images,
            )
            assert abs(t - end * s) == pytest.approx(width)
    else:
        assert ratio.low is None and ratio.reason == "undefined"
    assert ratio.value == pytest.approx(t / s)


def test_fieller_interval_covers():
    draw = np.random.default_rng(1)
    covered = []
    for _ in range(2000):
        bottom = draw.normal(0.3, 0.03, 5)
        ratio = fieller(plain(0.5 * bottom + draw.normal(0, 0.02, 5)), plain(bottom))
        covered.append(ratio.low <= 0.5 <= ratio.high)
    assert 0.93 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("seeds", [3, 5])
def test_fieller_interval_covers_with_images(seeds):
    draw = np.random.default_rng(seeds)
    covered = []
    for _ in range(1200):
        top, bottom = gain_values(draw, seeds, 100, 0.2), gain_values(draw, seeds, 150, 0.4)
        ratio = fieller(on_images(top, "target"), on_images(bottom, "source"))
        covered.append(ratio.low is None or ratio.low <= 0.5 <= ratio.high)
    assert 0.93 <= np.mean(covered) <= 0.985


def test_ratio_is_undefined_if_denominator_may_be_zero():
    ratio = fieller(plain([0.1, 0.2, 0.15]), plain([0.01, -0.02, 0.015]))
    assert ratio.low is None and ratio.reason == "undefined"
    assert fieller(plain([0.1]), plain([0.2])).reason == "one seed"
    nothing = fieller(plain([0.1, 0.2, 0.1]), plain([0.0, 0.0, 0.0]))
    assert np.isnan(nothing.value) and nothing.reason == "undefined"
    # Images alone can make the denominator uncertain.
    bottoms = np.tile((np.arange(20) < 3).astype(float), (3, 1))
    assert fieller(plain([0.1, 0.2, 0.15]), on_images(bottoms, "source")).reason == "undefined"


@pytest.mark.parametrize("seeds", [3, 6])
def test_change_of_ratio_matches_the_delta_method(seeds):
    draw = np.random.default_rng(seeds)
    t1, t2 = (gain_values(draw, seeds, 300, mean) for mean in (0.2, 0.05))
    s1, s2 = (gain_values(draw, seeds, 500, mean) for mean in (0.4, 0.1))
    (a, b, c, d) = (values.mean() for values in (t1, t2, s1, s2))
    difference, product = change_of_ratio(
        (on_images(t1, "target"), on_images(t2, "target")), (on_images(s1, "source"), on_images(s2, "source"))
    )
    linear = {
        "difference": (t2 / d - t1 / c, a / c**2 * s1 - b / d**2 * s2),
        "product": ((t2 * c - t1 * d) / (c * d), (b * s1 - a * s2) / (c * d)),
    }
    for effect, mean, (target, source) in (
        (difference, b / d - a / c, linear["difference"]),
        (product, b / d - a / c, linear["product"]),
    ):
        value = effect.estimate()
        assert value.mean == pytest.approx(mean)
        by_seed = target.mean(axis=1) + source.mean(axis=1)
        assert value.seed_variance == pytest.approx(by_seed.var(ddof=1) / seeds)
        parts = [parts_of(values)[1:] for values in (target, source)]
        assert value.residual_variance == pytest.approx(sum(noise for noise, _ in parts))
        assert value.image_variance == pytest.approx(sum(max(0, total - noise) for noise, total in parts))


def gains(draw, seeds, ratios, noise):
    """Return target and source gains by seed with given ratios."""
    source = np.array(SOURCE)[:, None] + draw.normal(0, 0.008, (2, seeds))
    target = np.array([[ratio * gain] for ratio, gain in zip(ratios, SOURCE, strict=True)])
    target = target + draw.normal(0, noise, (2, seeds))
    return (plain(target[0]), plain(target[1])), (plain(source[0]), plain(source[1]))


@pytest.mark.parametrize("ratios", [(0.3, -1.3), (0.1, 2.0), (0.5, 0.5)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_interval_of_change_of_ratio_covers(ratios, seeds):
    draw, runs = np.random.default_rng(seeds), 2500
    held = 0
    for _ in range(runs):
        value = change_of_ratio(*gains(draw, seeds, ratios, 0.01))[0].estimate()
        held += abs(value.mean - (ratios[1] - ratios[0])) <= value.half_width
    assert 0.93 <= held / runs <= 0.97


def test_equal_ratios_differ_in_five_percent_of_runs():
    draw, runs = np.random.default_rng(1), 3000
    ps = [change_of_ratio(*gains(draw, 5, (0.5, 0.5), 0.01))[1].estimate().p for _ in range(runs)]
    assert np.mean([p < 0.05 for p in ps]) == pytest.approx(0.05, abs=0.012)


def test_change_of_ratio_of_one_seed_has_no_interval():
    difference, product = change_of_ratio((plain([0.2]), plain([0.1])), (plain([0.4]), plain([0.1])))
    assert difference.estimate().mean == pytest.approx(0.5) and difference.estimate().half_width is None
    assert product.estimate().p is None
