# ruff: noqa: F821
"""Families of decisions: how the targets of a suite enter one another's verdicts and detectable effects."""

from dataclasses import replace

import numpy as np
import pytest

from lrbench.leaderboard import claims
from lrbench.leaderboard.claims import CLAIMS, Decision
from lrbench.leaderboard.evidence import Column
from tests.leaderboard.helpers import verdicts, world


def test_family_includes_targets_without_results(tiny):
    """A verdict must not disappear when the remaining targets get results."""
    tasks = ("a", "b", "c", "d")
    evidence = world(tiny, 4, np.random.default_rng(5), levels=lambda row: 0.6 - 0.02 * row[1], tasks=tasks)
    whole = {(decision.column.task, decision.boundary): decision for decision in verdicts(evidence, "C2")}
    for task in tasks[1:]:
        del evidence.values[Column(protocol="probe", task=task)]
    part = verdicts(evidence, "C2")
    for decision in part:
        if decision.column.task == "a":
            assert decision.p == whole["a", decision.boundary].p and decision.adjusted == pytest.approx(
                min(1.0, 4 * decision.p)
            )
        else:
            assert decision.p is None and decision.adjusted is None and decision.reason == "no results"
        assert decision.family == 4


def test_detectable_effect_of_a_family_has_power_after_holm():
    draw, spread, seeds, family = np.random.default_rng(7), 0.02, 4, 5
    blank = Decision(claim=CLAIMS[1], column=Column(protocol="probe", task="a"), boundary=1, family=family)
    sample = estimate(draw.normal(0, spread, seeds))
    alone = replace(blank, effects=(("difference", sample),))
    size = alone.detectable / np.sqrt(sample.variance) * spread / np.sqrt(seeds)
    assert alone.detectable > sample.detectable()
    others = [replace(blank, column=Column(protocol="probe", task=task)) for task in "bcde"]
    detected = 0
    for _ in range(2000):
        effect = estimate(draw.normal(size, spread, seeds))
        member = replace(blank, effects=(("difference", effect),), p=effect.p)
        detected += claims.judge_family([member, *others])[0].verdict != "inconclusive"
    assert detected / 2000 == pytest.approx(0.8, abs=0.03)


def test_family_of_one_is_not_adjusted():
    effect = estimate_of(-0.1, 0.001, 5)
    member = Decision(
        claim=CLAIMS[1], column=Column(protocol="probe", task="a"), boundary=1, effects=(("d", effect),), p=0.03
    )
    (judged,) = claims.judge_family([member])
    assert judged.adjusted == 0.03 and judged.verdict == "supported"
