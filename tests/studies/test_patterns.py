"""Decision rules P0 to P5 on simulated worlds: the right verdict for an effect, none, and a ceiling; few false positives."""

from collections import Counter

import numpy as np
import pytest

from tests.studies.worlds import pattern_dose, patterns

STEP, HOLD, AVERAGE, BOUNDARY = ("step", 2), ("hold", 2), ("average", 2), ("step", 1)


def level(simple, complex_):
    """Return accuracies from those of stage 1, hold, average and step, by kind."""
    by_kind = {"simple": simple, "complex": complex_, "both": simple}
    return lambda row, kind: dict(zip((BOUNDARY, HOLD, AVERAGE, STEP), by_kind[kind], strict=True))[row]


NULL = level((0.9, 0.92, 0.94, 0.94), (0.9, 0.92, 0.94, 0.94))
LATER = level((0.9, 0.92, 0.94, 0.94), (0.6, 0.65, 0.78, 0.78))
LATEST = level((0.9, 0.92, 0.94, 0.94), (0.3, 0.4, 0.62, 0.62))


def world(draw, null=NULL, later=LATER, latest=LATEST, rare=None, **others):
    doses = [
        pattern_dose(draw, function, templates=templates, **others)
        for templates, function in ((1, null), (4, later), (16, latest))
    ]
    return [*doses, pattern_dose(draw, rare, templates=16, rare=True, **others)] if rare else doses


def test_an_effect_of_complexity_is_supported():
    outcomes = patterns(world(np.random.default_rng(0), rare=LATEST))
    verdicts = {name: outcome.verdict for name, outcome in outcomes.items()}
    assert verdicts["P1"] == verdicts["P2"] == verdicts["P3"] == verdicts["P5"] == "supported"
    # Averaging learns as much, within the noise.
    assert verdicts["P4"] in ("equivalent", "inconclusive")


def test_averaging_that_suffices_is_named():
    function = level((0.97, 0.97, 0.97, 0.97), (0.5, 0.6, 0.9, 0.8))
    outcome = patterns(world(np.random.default_rng(1), later=function, latest=function))["P4"]
    assert outcome.verdict == "contradicted" and "Averaging suffices at K = 4 (2 bits)" in outcome.remark
    needs = level((0.9, 0.92, 0.92, 0.94), (0.5, 0.6, 0.6, 0.8))
    outcome = patterns(world(np.random.default_rng(1), later=needs, latest=needs))["P4"]
    assert outcome.verdict == "supported" and not outcome.remark


def test_an_effect_of_rarity_alone_is_named():
    rare = level((0.5, 0.6, 0.8, 0.8), (0.5, 0.6, 0.8, 0.8))
    verdicts = []
    for seed in range(3):
        outcome = patterns(world(np.random.default_rng(seed), rare=rare, images=1500, seed_noise=0.02))["P5"]
        verdicts.append(outcome.verdict)
        assert outcome.verdict != "supported"
        assert bool(outcome.remark) == (outcome.verdict in ("equivalent", "contradicted"))
    assert "equivalent" in verdicts


def test_rarity_explains_nothing_where_there_is_no_effect():
    outcome = patterns(world(np.random.default_rng(0), later=NULL, latest=NULL, rare=NULL))["P5"]
    assert outcome.verdict == "inconclusive" and "P2 is not supported" in outcome.cases[0].reason


def test_an_effect_in_the_other_direction_contradicts():
    turned = level((0.6, 0.65, 0.8, 0.8), (0.9, 0.92, 0.9, 0.9))
    outcomes = patterns(world(np.random.default_rng(2), later=turned, latest=turned))
    assert outcomes["P1"].verdict == outcomes["P2"].verdict == "contradicted"


def test_a_ceiling_leaves_no_room_and_decides_no_dose():
    full = level((1.0, 1.0, 1.0, 1.0), (0.99, 0.995, 1.0, 1.0))
    outcomes = patterns(world(np.random.default_rng(3), null=full, later=full))
    assert outcomes["P3"].verdict == "inconclusive" and "2 doses have room" in outcomes["P3"].cases[0].reason
    assert outcomes["P2"].cases[0].decides is False


def test_patterns_not_learned_or_memorised_decide_nothing():
    chance = level((0.9, 0.92, 0.94, 0.94), (0.1, 0.1, 0.1, 0.1))
    outcomes = patterns(world(np.random.default_rng(4), later=chance))
    case = outcomes["P2"].find("K = 4 (2 bits)")
    assert case.verdict == "inconclusive" and "not learned" in case.reason
    draw = np.random.default_rng(5)
    memorising = [pattern_dose(draw, NULL, templates=1), pattern_dose(draw, LATER, templates=4, fitted=0.95)]
    case = patterns(memorising)["P2"].find("K = 4 (2 bits)")
    assert case.verdict == "inconclusive" and "images are memorised" in case.reason


def test_the_null_check_gates_every_other_claim():
    names = ("P0", "P1", "P2", "P3", "P4", "P5")
    draw = np.random.default_rng(6)
    alike = level((0.999, 0.999, 0.999, 0.999), (0.999, 0.999, 0.999, 0.999))
    outcomes = patterns(world(draw, null=alike), names)
    assert outcomes["P0"].verdict == "supported" and outcomes["P2"].verdict == "supported"
    unlike = level((0.9, 0.9, 0.9, 0.9), (0.7, 0.7, 0.7, 0.7))
    outcomes = patterns(world(draw, null=unlike), names)
    assert outcomes["P0"].verdict == "contradicted"
    for name in names[1:]:
        assert outcomes[name].verdict == "inconclusive"
    assert "null check" in outcomes["P1"].cases[0].reason


def test_equal_kinds_pass_the_null_check_rarely_at_the_margin():
    # The true difference is the margin: two one-sided tests err in 5 % of worlds at most.
    edge = level((0.9, 0.9, 0.9, 0.9), (0.88, 0.88, 0.88, 0.88))
    draw = np.random.default_rng(7)
    false = [patterns([pattern_dose(draw, edge, templates=1)], ("P0",))["P0"].verdict for _ in range(100)]
    assert false.count("supported") <= 5


def test_worlds_without_an_effect_are_rarely_decided():
    # Both kinds have the same accuracy at every dose, and `step` that of its controls.
    draw = np.random.default_rng(8)
    function = level((0.8, 0.85, 0.85, 0.85), (0.8, 0.85, 0.85, 0.85))
    wrong = Counter()
    for _ in range(80):
        outcomes = patterns(world(draw, null=function, later=function, latest=function, rare=function))
        for name, outcome in outcomes.items():
            # P5 counts as if P2 were supported.
            wrong[name] += any(case.adjusted is not None and case.adjusted < 0.05 for case in outcome.cases)
    # 5 % of eighty worlds, and two standard errors.
    assert max(wrong.values()) <= 8, wrong


def test_units_and_results_that_are_missing_decide_nothing():
    draw = np.random.default_rng(9)
    few = [pattern_dose(draw, LATER, templates=4, units=2)]
    case = patterns(few)["P2"].cases[0]
    assert case.verdict == "inconclusive" and case.reason == "2 units, at least 3 are needed"
    some = [pattern_dose(draw, LATER, templates=4, units=4, expected=5)]
    assert patterns(some)["P2"].cases[0].reason == "incomplete: 4 of 5 units"


def test_a_sign_that_depends_on_the_scale_is_noted():
    # In points complex patterns gain more, in log-odds simple ones do.
    function = level((0.9, 0.95, 0.999, 0.999), (0.3, 0.4, 0.5, 0.5))
    case = patterns([pattern_dose(np.random.default_rng(10), function, templates=4)])["P2"].cases[0]
    assert case.estimate.mean > 0 and case.note == "depends on the scale"


def test_power_names_the_units_that_would_decide():
    draw = np.random.default_rng(11)
    function = level((0.8, 0.85, 0.85, 0.85), (0.6, 0.65, 0.66, 0.66))
    for _ in range(20):
        case = patterns([pattern_dose(draw, function, templates=4, seed_noise=0.15)])["P4"].cases[0]
        if case.verdict == "inconclusive":
            assert case.needed is None or case.needed > 5 or case.detectable < abs(case.estimate.mean)
            return
    pytest.fail("no world was inconclusive")
