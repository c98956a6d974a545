# ruff: noqa: F821
"""Decisions on the claims, for made-up results with known truths."""

import numpy as np
import pytest

from lrbench.config.schedule import snapshot_keys
from lrbench.leaderboard import claims
from lrbench.leaderboard.claims import CLAIMS, Decision, decide
from lrbench.leaderboard.evidence import Column, fits_null
from lrbench.stats import saturation
from tests.leaderboard.helpers import IMAGES, verdicts, world

FALLING = {("step", 2): 0.62, ("step", 3): 0.45}


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_large_effects_are_decided_in_both_directions(tiny, sign, verdict):
    draw = np.random.default_rng(0)
    evidence = world(tiny, 5, draw, levels=lambda row: 0.62 - 0.17 * sign * (row[0] == "step") * (row[1] - 1.5))
    for name in ("C2", "C3"):
        decided = verdicts(evidence, name)
        assert [decision.verdict for decision in decided] == [verdict] * 2 and overall(decided) == verdict
        assert all(decision.adjusted >= decision.p for decision in decided)


def test_causal_claim_needs_both_controls(tiny):
    draw = np.random.default_rng(1)
    levels = {"step": 0.6, "hold": 0.8, "average": 0.6, "constant": 0.6}
    evidence = world(tiny, 5, draw, levels=lambda row: levels[row[0]])
    assert all(decision.verdict != "supported" for decision in verdicts(evidence, "C3"))
    assert [name for name, _ in verdicts(evidence, "C3")[0].effects] == ["step − hold", "step − average"]


def test_larger_p_of_two_controls_decides(tiny):
    draw = np.random.default_rng(21)
    levels = {"step": 0.6, "hold": 0.75, "average": 0.61, "constant": 0.6}
    both_below = 0
    for _ in range(10):
        evidence = world(tiny, 4, draw, levels=lambda row: levels[row[0]])
        for decision in verdicts(evidence, "C3"):
            effects = [effect for _, effect in decision.effects]
            if all(effect.mean < 0 for effect in effects):
                both_below += 1
                assert decision.p == max(effect.p for effect in effects)
            else:
                assert decision.p == min(1.0, 2 * min(effect.p for effect in effects if effect.mean > 0))
    assert both_below >= 5


def test_adjusted_p_decides():
    effect = estimate_of(-0.1, 0.001, 5)
    members = [
        Decision(claim=CLAIMS[1], column=Column(protocol="probe", task=task), boundary=1, effects=(("d", effect),), p=p)
        for task, p in (("a", 0.03), ("b", 0.5), ("c", 0.001))
    ]
    judged = claims.judge_family(members)
    assert [decision.adjusted for decision in judged] == pytest.approx([0.06, 0.5, 0.003])
    assert [decision.verdict for decision in judged] == ["inconclusive", "inconclusive", "supported"]


def test_source_variance_enters_diminishing(tiny):
    """Target gains are equal in all seeds, so all variance between seeds comes from the source."""
    draw = np.random.default_rng(22)
    sources = 0.1 + 0.2 * np.arange(4) + draw.normal(0, 0.01, (5, 4))
    evidence = world(tiny, 5, draw, levels=lambda row: 0.5, source=lambda row, seed: sources[seed, row[1]])
    values = evidence.values[evidence.columns[0]]
    right = {0: 100, 1: 260, 2: 300, 3: 310}
    for row, seed in values.correct:
        values.correct[row, seed] = (np.arange(IMAGES) < right[row[1]]).astype(float)
    name, effect = verdicts(evidence, "C1")[0].effects[0]
    s1, s2 = sources[:, 1] - sources[:, 0], sources[:, 2] - sources[:, 1]
    t1, t2 = 160 / IMAGES, 40 / IMAGES
    per_image = np.array([values.correct[("step", i), 0] for i in range(4)])
    images = (
        np.var((per_image[2] - per_image[1]) / s2.mean() - (per_image[1] - per_image[0]) / s1.mean(), ddof=1) / IMAGES
    )
    expected = np.var(t2 / s2.mean() ** 2 * s2 - t1 / s1.mean() ** 2 * s1, ddof=1) / 5 + images
    cross = (per_image[2] - per_image[1]) * s1.mean() - (per_image[1] - per_image[0]) * s2.mean()
    crosswise = np.var(cross, ddof=1) / IMAGES
    theta = estimate_of(t2 * s1.mean() - t1 * s2.mean(), float(np.var(t2 * s1 - t1 * s2, ddof=1)) / 5 + crosswise, 5)
    assert verdicts(evidence, "C1")[0].p == pytest.approx(theta.p)
    assert name == "T of stage 2 − T of stage 1"
    assert effect.mean == pytest.approx(t2 / s2.mean() - t1 / s1.mean()) and effect.variance == pytest.approx(expected)


def test_overall_verdict_combines_boundaries():
    class Each:
        def __init__(self, verdict):
            self.verdict = verdict

    assert overall([Each("supported"), Each("supported")]) == "supported"
    assert overall([Each("supported"), Each("inconclusive")]) == "inconclusive"
    assert overall([Each("supported"), Each("contradicted")]) == "contradicted"
    assert overall([]) == "inconclusive"


def test_too_few_or_missing_seeds_decide_nothing(tiny):
    draw = np.random.default_rng(2)
    few = world(tiny, 2, draw, levels=lambda row: 0.9 - 0.2 * row[1])
    assert {decision.verdict for decision in decide(few)} == {"inconclusive"}
    assert "2 pretraining seeds, at least 3 are needed" in {decision.reason for decision in decide(few)}
    lacking = world(tiny, 4, draw, levels=lambda row: 0.9 - 0.2 * row[1])
    del lacking.values[lacking.columns[0]].correct[("step", 2), 3]
    assert {decision.reason for decision in verdicts(lacking, "C2")} == {"incomplete: 3 of 4 seeds"}
    assert {decision.verdict for decision in verdicts(lacking, "C2")} == {"inconclusive"}


def test_diminishing_is_undefined_without_source_gain(tiny):
    draw = np.random.default_rng(3)
    evidence = world(
        tiny, 3, draw, levels=lambda row: 0.6, source=lambda row, seed: 0.5 + 0.02 * ((seed + row[1]) % 2) * row[1]
    )
    decided = verdicts(evidence, "C1")
    assert all(
        decision.verdict == "inconclusive" and "is undefined" in decision.reason and decision.p is None
        for decision in decided
    )


def test_diminishing_is_supported_if_gains_shrink_faster(tiny):
    draw = np.random.default_rng(4)
    path = [0.2, 0.7, 0.72, 0.5]
    evidence = world(
        tiny, 6, draw, levels=lambda row: path[row[1]], source=lambda row, seed: 0.1 + 0.2 * row[1] + 0.002 * seed
    )
    first, second = verdicts(evidence, "C1")
    assert first.verdict == "supported" and second.verdict == "supported"
    name, effect = first.effects[0]
    levels = [
        np.mean([evidence.values[evidence.columns[0]].correct[("step", i), s].mean() for s in range(6)])
        for i in range(4)
    ]
    assert name == "T of stage 2 − T of stage 1"
    assert effect.mean == pytest.approx((levels[2] - levels[1]) / 0.2 - (levels[1] - levels[0]) / 0.2)


def test_holm_family_is_one_claim_and_boundary(tiny):
    draw = np.random.default_rng(5)
    evidence = world(tiny, 4, draw, levels=lambda row: 0.6 - 0.01 * row[1], tasks=("a", "b", "c"))
    for boundary in (1, 2):
        family = [decision for decision in verdicts(evidence, "C2") if decision.boundary == boundary]
        ps = sorted(decision.p for decision in family)
        assert min(decision.adjusted for decision in family) == pytest.approx(min(1, 3 * ps[0]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_false_verdicts_are_at_most_five_percent(tiny, seeds):
    """No stage or arm differs: a verdict other than inconclusive is an error."""
    draw = np.random.default_rng(100 + seeds)
    wrong = {"C1": 0, "C2": 0, "C3": 0}
    runs = 200
    for _ in range(runs):
        noise = draw.normal(0, 0.004, (10, 4))
        evidence = world(
            tiny,
            seeds,
            draw,
            levels=lambda row: 0.6,
            source=lambda row, seed, n=noise: 0.1 + 0.2 * row[1] + n[seed, row[1]],
        )
        for decision in decide(evidence):
            # Two boundaries have one test each.
            if decision.verdict != "inconclusive":
                wrong[decision.claim.name] += 1 / 2
    assert all(count / runs <= 0.05 for count in wrong.values()), wrong


def test_effect_of_the_paper_is_found(tiny):
    """Each later stage two points worse than its controls, five seeds with half a point of noise, 2,000 images."""
    draw = np.random.default_rng(8)
    levels = {"step": -0.02, "hold": 0.0, "average": 0.0, "constant": 0.0}
    supported = 0
    for _ in range(60):
        evidence = world(
            tiny,
            5,
            draw,
            levels=lambda row: 0.6 + 0.1 * min(row[1], 1) + (levels[row[0]] * 2 if row[1] > 1 else 0),
            labels=np.zeros(2000, dtype=np.int64),
            seed_noise=0.003,
        )
        supported += sum(decision.verdict == "supported" for decision in verdicts(evidence, "C3")) / 2
    assert supported / 60 >= 0.5


def test_null_is_fitted_to_snapshots_without_decay(tiny, monkeypatch):
    rows = [(arm, stage) for arm, stage in dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(tiny, seed=0))]
    assert [row for row in rows if fits_null(tiny, row)] == [
        ("step", 1), ("hold", 2), ("constant", 3), ("average", 2),
    ]  # fmt: skip
    draw = np.random.default_rng(14)
    evidence = world(tiny, 3, draw, levels=lambda row: 0.6, source=lambda row, seed: 0.3 + 0.1 * row[1])
    assert {decision.reason for decision in verdicts(evidence, "C4")} == {
        "not identified: 4 snapshots without decay per seed, 8 are needed"
    }
    # With enough snapshots the claim is decided; the smallest number is lowered to what the suite has.
    monkeypatch.setattr(saturation, "MIN_SNAPSHOTS", 4)
    raised = world(
        tiny,
        4,
        draw,
        levels=lambda row: 0.4 if row == ("step", 3) else 0.5 + 0.1 * row[1] / 3,
        source=lambda row, seed: 0.3 + 0.1 * row[1] - 0.05 * (row[0] == "step") * (row[1] > 1),
    )
    third = verdicts(raised, "C4")[1]
    assert third.verdict == "supported" and third.effects[0][1].mean > 0.1
    assert claims.MIN_SEEDS == 3


def test_trail_feeds_the_null_but_is_no_control(tiny):
    suite = tiny.model_copy(update={"arms": (*tiny.arms, "constant-average", "trail")})
    evidence = world(suite, 3, np.random.default_rng(0), levels=lambda row: 0.6)
    trail = [row for row in evidence.rows if row[0] == "trail"]
    assert trail and all(fits_null(suite, row) for row in trail)
    assert not any(row[0] == "trail" for pair in evidence.control_pairs() for row in pair)
    # The average of a stage without decay feeds the null too, and is a control like the stage itself.
    mean = ("constant-average", 3)
    assert fits_null(suite, mean) and not fits_null(suite, ("average", 3))
    assert (("step", 3), mean) in evidence.control_pairs() and evidence.previous(mean) == ("hold", 2)
