"""Decision rules of the claims on full batches, curvature and the ends of stages, in simulated worlds."""

import numpy as np
import pytest

from lrbench.stats.intervals import estimate_over_seeds
from lrbench.studies.edge import REMAINS, VANISHES, judge_edge, judge_transition
from lrbench.studies.pace import judge_rule, judge_saving

WORLDS, UNITS = 300, 5


def share(verdicts, verdict):
    verdicts = list(verdicts)
    return verdicts.count(verdict) / len(verdicts)


def drawn(seed, *means):
    """Return units' values of each mean and spread, for each world."""
    draw = np.random.default_rng(seed)
    return [[mean + spread * draw.normal(size=UNITS) for mean, spread in means] for _ in range(WORLDS)]


def transitions(small, full):
    for first, second in drawn(1, small, full):
        values = (first, second - VANISHES * first, second - REMAINS * first)
        yield judge_transition(*map(estimate_over_seeds, values))


@pytest.mark.parametrize(
    ("small", "full", "verdict", "least", "most"),
    [
        ((0.4, 0.05), (0.0, 0.02), "supported", 0.95, 1),
        ((0.4, 0.05), (0.4, 0.05), "contradicted", 0.95, 1),
        ((0.4, 0.05), (0.1, 0.02), "supported", 0, 0.06),
        ((0.4, 0.05), (0.2, 0.02), "contradicted", 0, 0.06),
        # Without a transition there is nothing that could vanish.
        ((0.0, 0.05), (-0.2, 0.02), "supported", 0, 0.05),
    ],
)
def test_transition_must_exist_before_it_can_vanish(small, full, verdict, least, most):
    assert least <= share(transitions(small, full), verdict) <= most


@pytest.mark.parametrize(
    ("distance", "verdict", "least", "most"),
    [
        ((0.0, 0.03), "supported", 0.95, 1),
        ((0.5, 0.1), "contradicted", 0.95, 1),
        ((-0.5, 0.1), "contradicted", 0, 0),
        ((-0.5, 0.1), "supported", 0, 0),
        ((0.1, 0.03), "supported", 0, 0.1),
        ((0.1, 0.03), "contradicted", 0, 0.1),
    ],
)
def test_edge_is_reached_within_a_tenth(distance, verdict, least, most):
    assert (
        least <= share((judge_edge(estimate_over_seeds(values)) for (values,) in drawn(2, distance)), verdict) <= most
    )


@pytest.mark.parametrize(
    ("saved", "lead", "verdict", "least", "most"),
    [
        ((0.2, 0.05), (0.0, 0.003), "supported", 0.8, 1),
        ((0.2, 0.05), (-0.03, 0.005), "contradicted", 0.95, 1),
        ((0.0, 0.0), (0.0, 0.003), "contradicted", 1, 1),
        ((0.2, 0.05), (-0.005, 0.003), "supported", 0, 0.08),
    ],
)
def test_saving_counts_only_without_loss(saved, lead, verdict, least, most):
    verdicts = (judge_saving(*map(estimate_over_seeds, values)) for values in drawn(3, saved, lead))
    assert least <= share(verdicts, verdict) <= most


@pytest.mark.parametrize(
    ("lead", "verdict", "least", "most"),
    [
        ((0.03, 0.01), "supported", 0.9, 1),
        ((-0.03, 0.01), "contradicted", 0.9, 1),
        ((0.0, 0.002), "equivalent", 0.9, 1),
        ((0.0, 0.01), "supported", 0, 0.05),
    ],
)
def test_rule_is_compared_with_the_same_saving(lead, verdict, least, most):
    assert least <= share((judge_rule(estimate_over_seeds(values)) for (values,) in drawn(4, lead)), verdict) <= most
