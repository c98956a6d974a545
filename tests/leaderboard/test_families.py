"""What several targets have to do with one another's verdicts, and the change of T that C1 is about."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from lrbench.leaderboard import claims
from lrbench.leaderboard.claims import CLAIMS, Decision
from lrbench.leaderboard.evidence import Column
from lrbench.stats.intervals import change_of_ratio, estimate, estimate_of
from tests.leaderboard.helpers import verdicts, world

SOURCE = (0.45, 0.067)


def gains(draw, seeds, ratios, noise):
    """Gains on a source and on a target whose ratios are given, seed by seed."""
    source = np.array(SOURCE)[:, None] + draw.normal(0, 0.008, (2, seeds))
    target = np.array([[ratio * gain] for ratio, gain in zip(ratios, SOURCE, strict=True)])
    return target + draw.normal(0, noise, (2, seeds)), source


@pytest.mark.parametrize("ratios", [(0.3, -1.3), (0.1, 2.0), (0.5, 0.5)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_the_interval_of_a_change_of_t_holds_the_truth_whether_or_not_t_changes(ratios, seeds):
    draw, runs = np.random.default_rng(seeds), 3000
    held = 0
    for _ in range(runs):
        effect, _ = change_of_ratio(*gains(draw, seeds, ratios, 0.01))
        held += abs(effect.mean - (ratios[1] - ratios[0])) <= effect.half_width
    assert 0.93 <= held / runs <= 0.97


def test_equal_ratios_are_told_apart_in_a_twentieth_of_runs():
    draw, runs = np.random.default_rng(1), 4000
    found = [change_of_ratio(*gains(draw, 5, (0.5, 0.5), 0.01))[1] for _ in range(runs)]
    assert np.mean([p < 0.05 for p in found]) == pytest.approx(0.05, abs=0.012)


def test_a_change_of_t_of_one_seed_has_no_interval():
    effect, p = change_of_ratio(np.array([[0.2], [0.1]]), np.array([[0.4], [0.1]]))
    assert effect.mean == pytest.approx(0.5) and effect.half_width is None and p is None


def test_targets_without_results_count_among_those_that_are_looked_at(tiny):
    """Else a suite that has run in part could show what it no longer shows when it is done."""
    tasks = ("a", "b", "c", "d")
    evidence = world(tiny, 4, np.random.default_rng(5), levels=lambda row: 0.6 - 0.02 * row[1], tasks=tasks)
    whole = {(each.column.task, each.boundary): each for each in verdicts(evidence, "C2")}
    for task in tasks[1:]:
        del evidence.values[Column(protocol="probe", task=task)]
    part = verdicts(evidence, "C2")
    for each in part:
        if each.column.task == "a":
            assert each.p == whole["a", each.boundary].p and each.adjusted == pytest.approx(min(1.0, 4 * each.p))
        else:
            assert each.p is None and each.adjusted is None and each.reason == "no results"
        assert each.family == 4


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 20])
def test_the_detectable_effect_has_its_power_with_any_number_of_targets(seeds):
    """The power by integration over what the seeds' spread may be; more targets never make smaller effects detectable."""
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


def test_the_detectable_effect_of_a_family_is_found_in_about_four_of_five_runs_after_holm():
    draw, spread, seeds, family = np.random.default_rng(7), 0.02, 4, 5
    blank = Decision(claim=CLAIMS[1], column=Column(protocol="probe", task="a"), boundary=1, family=family)
    sample = estimate(draw.normal(0, spread, seeds))
    alone = replace(blank, effects=(("difference", sample),))
    size = alone.detectable / np.sqrt(sample.variance) * spread / np.sqrt(seeds)
    assert alone.detectable > sample.detectable()
    others = [replace(blank, column=Column(protocol="probe", task=task)) for task in "bcde"]
    found = 0
    for _ in range(2000):
        effect = estimate(draw.normal(size, spread, seeds))
        member = replace(blank, effects=(("difference", effect),), p=effect.p)
        found += claims.judge_family([member, *others])[0].verdict != "inconclusive"
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_a_family_of_one_is_not_adjusted():
    effect = estimate_of(-0.1, 0.001, 5)
    member = Decision(
        claim=CLAIMS[1], column=Column(protocol="probe", task="a"), boundary=1, effects=(("d", effect),), p=0.03
    )
    (judged,) = claims.judge_family([member])
    assert judged.adjusted == 0.03 and judged.verdict == "supported"
