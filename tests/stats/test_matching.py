"""Differences at equal fit, and trends over doses."""

import numpy as np
import pytest

from lrbench.stats.matching import matched_difference, trend


def test_runs_are_compared_where_both_have_points():
    rising = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.2, 0.6])
    higher = np.array([0.4, 1.0]), np.array([0.5, 0.5])
    grid = np.linspace(0.4, 0.9, 200_001)
    expected = np.mean(0.5 - np.interp(grid, *rising))
    assert matched_difference(higher, rising) == pytest.approx(expected, abs=1e-5)
    assert matched_difference(rising, higher) == pytest.approx(-expected, abs=1e-5)


def test_equal_curves_differ_by_nothing_whatever_their_points():
    draw = np.random.default_rng(0)
    x, other = (np.append(draw.uniform(0, 1, 9), [0.0, 1.0, 0.5]) for _ in range(2))
    line = matched_difference((x, 2 * x + 1), (other, 2 * other + 1))
    assert line == pytest.approx(0, abs=1e-12)


def test_points_of_equal_fit_are_averaged_and_order_does_not_matter():
    first = np.array([0.9, 0.1, 0.1]), np.array([0.0, 0.2, 0.4])
    assert matched_difference(first, (np.array([0.1, 0.9]), np.array([0.3, 0.0]))) == pytest.approx(0, abs=1e-12)


def test_runs_without_a_common_range_are_not_compared():
    low, high = (np.array([0.1, 0.5]), np.ones(2)), (np.array([0.45, 0.9]), np.ones(2))
    assert matched_difference(low, high) is None
    assert matched_difference(low, high, shortest=0.04) == 0.0


def test_trend_is_found_and_rarely_where_there_is_none():
    draw = np.random.default_rng(1)
    doses = np.arange(4)
    assert trend(doses + draw.normal(0, 0.5, (5, 4))) < 0.01
    assert trend(-doses + draw.normal(0, 0.5, (5, 4))) > 0.9
    # Seeds differ much more than doses: they are blocks.
    false = [trend(draw.normal(0, 5, (5, 1)) + draw.normal(0, 1, (5, 4))) < 0.05 for _ in range(300)]
    assert np.mean(false) <= 0.08
