"""Agreement of rankings, against counts of pairs."""

from itertools import combinations

import numpy as np
import pytest

from lrbench.stats.ranking import crossed_interval, rank_agreement, regret


def tau_b(x, y):
    """Kendall's tau-b from its definition."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    return sum(a * b for a, b in signs) / np.sqrt(untied[0] * untied[1])


def test_tau_matches_its_definition():
    draw = np.random.default_rng(0)
    for _ in range(20):
        rule, accuracy = draw.integers(0, 4, 8).astype(float), draw.normal(size=8)
        if np.ptp(rule):
            assert rank_agreement(rule, accuracy).tau == pytest.approx(tau_b(rule, accuracy))


def test_weighted_tau_counts_exchanges_near_the_top_more():
    accuracy = np.arange(8.0)
    top, bottom = accuracy.copy(), accuracy.copy()
    top[[7, 6]], bottom[[0, 1]] = top[[6, 7]], bottom[[1, 0]]
    exchanged_top, exchanged_bottom = rank_agreement(top, accuracy), rank_agreement(bottom, accuracy)
    assert exchanged_top.tau == exchanged_bottom.tau and exchanged_top.weighted < exchanged_bottom.weighted < 1


def test_too_few_or_equal_snapshots_have_no_agreement():
    assert rank_agreement(np.arange(4.0), np.arange(4.0)) is None
    assert rank_agreement(np.ones(6), np.arange(6.0)) is None
    assert rank_agreement(np.arange(6.0), np.ones(6)) is None


def test_regret_of_ties_is_their_mean():
    accuracy = np.array([0.5, 0.9, 0.7])
    assert regret(np.array([1.0, 2.0, 0.0]), accuracy) == 0
    assert regret(np.array([1.0, 0.0, 1.0]), accuracy) == pytest.approx(0.9 - 0.6)


def test_interval_resamples_seeds_and_targets():
    stream = np.random.default_rng
    spread = crossed_interval(np.array([[0.0, 1.0], [0.0, 1.0]]), stream(0))
    assert spread == (0.0, 1.0)
    by_target = crossed_interval(np.tile(np.linspace(0, 1, 20), (3, 1)), stream(0))
    by_both = crossed_interval(np.linspace(0, 1, 20)[None] + np.array([[-0.3], [0.0], [0.3]]), stream(0))
    assert by_target[0] < 0.5 < by_target[1] and np.ptp(by_both) > np.ptp(by_target)
    assert crossed_interval(np.array([[0.3]]), stream(0)) is None


def test_values_equal_up_to_rounding_are_ties():
    exact, rounded = np.array([0.1, 0.2, 0.3, 0.6, 0.6]), np.array([0.1, 0.2, 0.3, 0.1 + 0.2 + 0.3, 0.6])
    accuracy = np.array([1.0, 2.0, 3.0, 5.0, 4.0])
    assert rounded[3] != rounded[4] and rank_agreement(rounded, accuracy) == rank_agreement(exact, accuracy)
    assert rank_agreement(accuracy, rounded) == rank_agreement(accuracy, exact)
    assert regret(rounded, accuracy) == regret(exact, accuracy) == 0.5
