"""Ranks of the change at a boundary, in simulated courses of training."""

from types import SimpleNamespace

import numpy as np
import pytest

from lrbench.config.pretraining import Schedule
from lrbench.studies.stages import STATISTICS, changes, combined_p, rank_p, rows_by_epoch

SCHEDULE = Schedule(epochs=33, boundaries=(30,), rates=(0.1, 0.01), batch=32, trail=33)


def course(drop, seed, units=5):
    """Results whose logarithms follow a random walk, with an extra change at the drop."""
    draw = np.random.default_rng(seed)
    suite = SimpleNamespace(schedule=SCHEDULE, arms=("step",), seeds=range(units))
    results = SimpleNamespace(suite=suite, seeds=suite.seeds, fit={"loss": {}, "mean_cosine": {}})
    for unit in suite.seeds:
        walk = np.cumsum(draw.normal(scale=0.05, size=34))
        for epoch, row in rows_by_epoch(results).items():
            results.fit["loss"][row, unit] = float(np.exp(walk[epoch]))
        change = draw.normal(scale=0.05 * 3**0.5) - drop
        results.fit["loss"][("step", 2), unit] = float(np.exp(walk[30] + change))
    return results


def combined(results):
    return combined_p([rank_p(*changes(results, "loss", "step", unit)) for unit in results.seeds])


def test_rows_are_those_of_the_run_without_decay():
    rows = rows_by_epoch(course(0, 0))
    assert list(rows) == list(range(1, 34))
    assert (rows[1], rows[30], rows[33]) == (("trail", 1), ("step", 1), ("hold", 2))
    # The trail has no snapshot where a stage ends.
    assert rows[31] == ("trail", 30) and rows[32] == ("trail", 31)


def test_placebos_have_the_length_of_the_stage_and_start_late():
    results = course(0.5, 1)
    change, placebos = changes(results, "loss", "step", 0)
    values = {epoch: np.log(results.fit["loss"][row, 0]) for epoch, row in rows_by_epoch(results).items()}
    expected = [abs(values[epoch + 3] - values[epoch]) for epoch in range(15, 31)]
    assert placebos.tolist() == pytest.approx(expected)
    assert change == pytest.approx(abs(np.log(results.fit["loss"][("step", 2), 0]) - values[30]))
    assert rank_p(2.0, np.array([1.0, 3.0, 0.5])) == 0.5 and rank_p(9.0, np.ones(19)) == 0.05


def test_sharp_transition_is_found():
    assert all(combined(course(0.6, seed)) < 0.05 / len(STATISTICS) for seed in range(20))


def test_ordinary_change_is_not_called_sharp():
    found = [combined(course(0.0, seed)) < 0.05 for seed in range(300)]
    assert np.mean(found) < 0.08


def test_statistics_without_a_value_are_not_ranked():
    results = course(0.5, 2)
    assert changes(results, "noise_scale", "step", 0) is None
    results.fit["loss"][("trail", 20), 0] = -1.0
    assert changes(results, "loss", "step", 0) is None
