"""Families of decisions: how protocols, boundaries and targets enter one another's verdicts and detectable effects."""

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from lrbench.leaderboard import claims
from lrbench.leaderboard.claims import CLAIMS, Decision, decide
from lrbench.leaderboard.evidence import Column
from lrbench.stats.intervals import Estimate, estimate_over_seeds
from tests.leaderboard.helpers import verdicts, world

MARGIN = 0.02
TASKS = ("a", "b", "c", "d")


def blank(task=None, protocol="probe", **values):
    return Decision(claim=CLAIMS[1], protocol=protocol, task=task, boundary=1, **values)


def member(effect, task="a", p=None):
    """Return a decision on an estimated effect."""
    return blank(task, effects=(("difference", effect),), tested=(effect,), p=effect.p if p is None else p)


def falling(row):
    return 0.6 - 0.01 * row[1]


def test_adjusted_p_decides():
    effect = Estimate(mean=-0.1, seeds=5, seed_variance=0.02**2)
    members = [member(effect, task, p) for task, p in (("a", 0.03), ("b", 0.5), ("c", 0.001))]
    judged = claims.judge_family(members, MARGIN)
    assert [decision.adjusted for decision in judged] == pytest.approx([0.06, 0.5, 0.003])
    assert [decision.verdict for decision in judged] == ["inconclusive", "inconclusive", "supported"]
    assert {decision.family for decision in judged} == {3}


def assert_family(members):
    """Assert that p is adjusted within exactly these decisions."""
    members = [decision for decision in members if decision.testable]
    ps = [1.0 if decision.p is None else decision.p for decision in members]
    adjusted = [1.0 if decision.adjusted is None else decision.adjusted for decision in members]
    assert adjusted == pytest.approx(multipletests(ps, method="holm")[1])
    assert {decision.family for decision in members} == {len(members)}


@pytest.mark.parametrize("name", ["C1", "C2", "C3"])
def test_four_families_of_a_claim(tiny, name):
    """Means over targets and single targets, at each boundary and over boundaries."""
    evidence = world(
        tiny, 4, np.random.default_rng(5), levels=falling, tasks=("a", "b", "c"), protocols=("probe", "knn")
    )
    decided = [decision for decision in decide(evidence) if decision.claim.name == name]
    assert len(decided) == 2 * 4 * 3
    for per_target, boundaries, size in ((False, True, 4), (False, False, 2), (True, True, 12), (True, False, 6)):
        family = [
            decision
            for decision in decided
            if ((decision.task is not None), (decision.boundary is not None)) == (per_target, boundaries)
        ]
        assert len(family) == size
        assert_family(family)


def test_single_targets_do_not_change_the_primary_p(tiny):
    """The primary tests are adjusted for protocols and boundaries, not for targets."""
    evidence = world(tiny, 4, np.random.default_rng(5), levels=falling, tasks=TASKS)
    first, second = verdicts(evidence, "C2", task=None)
    assert sorted([first.adjusted, second.adjusted]) == pytest.approx(
        sorted([min(1, 2 * min(first.p, second.p)), max(first.p, second.p, min(1, 2 * min(first.p, second.p)))])
    )


def test_untestable_protocols_do_not_count(tiny):
    """`finetune` without `average` cannot test C3, and takes nothing from the probe's p; C2 counts it."""
    suite = tiny.model_copy(update={"protocol_arms": {"finetune": ("step", "hold")}})
    evidence = world(suite, 4, np.random.default_rng(5), levels=falling, protocols=("probe", "finetune"))
    for task in (None, "a"):
        causal, tuned = (verdicts(evidence, "C3", task=task, protocol=name) for name in ("probe", "finetune"))
        assert_family(causal)
        assert {decision.family for decision in (*causal, *tuned)} == {2}
        for decision in tuned:
            assert not decision.testable and decision.p is None and decision.verdict == "inconclusive"
            assert decision.adjusted is None and decision.detectable is None
            assert decision.reason == "the suite does not use finetune on the arm average"
        assert_family([*verdicts(evidence, "C2", task=task), *verdicts(evidence, "C2", task=task, protocol="finetune")])


def test_suite_without_controls_tests_no_causal_claim(tiny):
    evidence = world(tiny.model_copy(update={"arms": ("step", "hold")}), 4, np.random.default_rng(5), levels=falling)
    assert {(decision.reason, decision.testable) for decision in verdicts(evidence, "C3", task=None, mean=True)} == {
        ("the suite has no arm average", False)
    }


def test_protocols_that_describe_features_decide_nothing(tiny):
    evidence = world(tiny, 4, np.random.default_rng(5), levels=falling, protocols=("probe", "fewshot"))
    assert claims.tested_protocols(evidence) == ("probe",)
    assert {decision.protocol for decision in decide(evidence)} == {"probe"}


def test_family_includes_targets_without_results(tiny):
    """A verdict must not disappear when the remaining targets get results."""
    evidence = world(tiny, 4, np.random.default_rng(5), levels=lambda row: 0.6 - 0.02 * row[1], tasks=TASKS)
    whole = {task: verdicts(evidence, "C2", task=task) for task in TASKS}
    for task in TASKS[1:]:
        del evidence.values[Column(protocol="probe", task=task)]
    part = verdicts(evidence, "C2")
    assert [decision.p for decision in part] == [decision.p for decision in whole["a"]]
    smallest = min(decision.p for decision in part)
    assert min(decision.adjusted for decision in part) == pytest.approx(min(1.0, 8 * smallest))
    for task in TASKS[1:]:
        for decision in verdicts(evidence, "C2", task=task):
            assert decision.p is None and decision.adjusted is None and decision.reason == "no results"
            assert decision.family == 8
    # The mean over targets would be of other targets than the suite's.
    for decision in verdicts(evidence, "C2", task=None):
        assert decision.p is None and decision.reason == "b: no results" and decision.family == 2


def test_detectable_effect_of_a_family_has_power_after_holm():
    draw, spread, seeds = np.random.default_rng(7), 0.02, 4
    others = [blank(task) for task in "bcde"]
    sample = estimate_over_seeds(draw.normal(0, spread, seeds))
    alone, family = (claims.judge_family([member(sample), *rest], MARGIN)[0].detectable for rest in ([], others))
    assert family > alone
    size = family / np.sqrt(sample.seed_variance) * spread / np.sqrt(seeds)
    detected = 0
    for _ in range(500):
        effect = estimate_over_seeds(draw.normal(size, spread, seeds))
        detected += claims.judge_family([member(effect), *others], MARGIN)[0].verdict == "contradicted"
    assert detected / 500 == pytest.approx(0.8, abs=0.04)


def test_detectable_effect_of_a_target_pools_seed_variances():
    """Three seeds say little about the variance of one target, so those of all targets are averaged."""
    effects = [Estimate(mean=0.0, seeds=3, seed_variance=variance) for variance in (1e-6, 5e-4, 1e-4)]
    judged = claims.judge_family([member(effect, task) for effect, task in zip(effects, "abc", strict=True)], MARGIN)
    sizes = [decision.detectable for decision in judged]
    assert sizes == pytest.approx([sizes[0]] * 3)
    # Another protocol has features of its own.
    other = replace(member(effects[0]), protocol="knn")
    judged = claims.judge_family([member(effects[1]), other], MARGIN)
    assert judged[0].detectable > 10 * judged[1].detectable


def test_noisier_control_determines_the_detectable_effect(tiny):
    effects = [Estimate(mean=0.0, seeds=4, seed_variance=variance) for variance in (1e-6, 4e-4)]
    both = Decision(
        claim=claims.CAUSAL, protocol="probe", task=None, boundary=1, tested=tuple(effects), p=1.0,
        effects=(("step − hold", effects[0]), ("step − average", effects[1])),
    )  # fmt: skip
    noisy = replace(both, effects=both.effects[1:], tested=both.tested[1:])
    (judged,), (alone,) = (claims.judge_family([decision], MARGIN) for decision in (both, noisy))
    assert judged.detectable == pytest.approx(alone.detectable)


def test_family_of_one_is_not_adjusted():
    effect = Estimate(mean=-0.1, seeds=5, seed_variance=0.03**2)
    (judged,) = claims.judge_family([member(effect, p=0.03)], MARGIN)
    assert judged.adjusted == 0.03 and judged.verdict == "supported" and judged.family == 1


@pytest.mark.parametrize(
    ("means", "p", "verdict"),
    [
        ((-0.05, -0.03), 0.01, "supported"),
        ((0.05, 0.03), 0.01, "contradicted"),
        ((-0.05, 0.03), 0.01, "mixed"),
        ((-0.05, -0.03), 0.06, "inconclusive"),
        ((-0.001, 0.002), 0.5, "equivalent"),
        ((-0.001, 0.03), 0.5, "inconclusive"),
        ((-0.001, -0.001), 0.01, "supported"),
    ],
)
def test_verdict_follows_from_signs_p_and_margin(means, p, verdict):
    effects = [Estimate(mean=mean, seeds=5, seed_variance=0.003**2) for mean in means]
    decision = Decision(
        claim=claims.CAUSAL, protocol="probe", task=None, boundary=1, tested=tuple(effects), p=p,
        effects=(("step − hold", effects[0]), ("step − average", effects[1])),
    )  # fmt: skip
    assert claims.judge_family([decision], MARGIN)[0].verdict == verdict
    # A reason leaves every p inconclusive.
    incomplete = replace(decision, reason="incomplete: 4 of 5 seeds")
    assert claims.judge_family([incomplete], MARGIN)[0].verdict == "inconclusive"


def test_differences_of_t_have_no_margin():
    effect = Estimate(mean=0.001, seeds=5, seed_variance=0.003**2)
    decision = Decision(
        claim=CLAIMS[0], protocol="probe", task=None, boundary=1, effects=(("d", effect),), tested=(effect,), p=0.8
    )
    assert claims.judge_family([decision], MARGIN)[0].verdict == "inconclusive"
