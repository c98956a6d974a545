"""Decision rules N1 to N5 on simulated worlds."""

from collections import Counter

import numpy as np
import pytest

from tests.studies.worlds import noise, noise_dose


def line(fit):
    """M of a network that memorises as it fits."""
    return 0.1 + 0.6 * fit


def lower(fit):
    return line(fit) - 0.15


def test_suppression_at_equal_fit_is_supported():
    dose = noise_dose(np.random.default_rng(0), {"constant": lower, "small": line})
    outcomes = noise([dose])
    assert outcomes["N1"].verdict == outcomes["N2"].verdict == "supported"
    assert outcomes["N2"].cases[0].estimate.mean == pytest.approx(-0.15, abs=0.03)


def test_slower_learning_alone_is_not_suppression():
    # The large rate lags behind on the same curve: it memorises less at equal epochs, and as much at equal fit.
    dose = noise_dose(np.random.default_rng(1), {"constant": line, "small": line}, lag=0.25)
    outcomes = noise([dose])
    assert outcomes["N1"].verdict == "supported" and outcomes["N2"].verdict in ("equivalent", "inconclusive")


def test_release_average_and_forgetting_have_the_right_signs():
    extra = {("step", 2): (0.9, 0.97), ("average", 2): (0.6, 0.97), ("raise", 3): (0.5, 0.9)}
    outcomes = noise(
        [noise_dose(np.random.default_rng(2), {"constant": lower, "small": line}, images=1000, extra=extra)]
    )
    assert [outcomes[name].verdict for name in ("N3", "N4", "N5")] == ["supported"] * 3
    turned = {("step", 2): (0.3, 0.97), ("average", 2): (0.6, 0.97), ("raise", 3): (0.5, 0.9)}
    outcomes = noise([noise_dose(np.random.default_rng(3), {"constant": lower, "small": line}, extra=turned)])
    assert [outcomes[name].verdict for name in ("N3", "N4", "N5")] == ["contradicted"] * 3


def test_an_average_that_fits_worse_decides_nothing():
    extra = {("step", 2): (0.9, 0.97), ("average", 2): (0.6, 0.8)}
    case = noise([noise_dose(np.random.default_rng(4), {"constant": lower, "small": line}, extra=extra)])["N4"].cases[0]
    assert case.verdict == "inconclusive" and case.reason == "F of the average may be lower"


def test_trails_without_a_common_range_are_not_identified():
    dose = noise_dose(np.random.default_rng(5), {"constant": lower, "small": line}, lag=0.7)
    case = noise([dose])["N2"].cases[0]
    assert case.verdict == "inconclusive" and case.reason.startswith("not identified")


def test_wrong_labels_all_memorised_leave_no_effect():
    full = {"constant": lambda _: 1.0, "small": lambda _: 1.0}
    extra = dict.fromkeys([("step", 2), ("average", 2), ("raise", 3)], (1.0, 1.0))
    outcomes = noise([noise_dose(np.random.default_rng(6), full, extra=extra)])
    for name in ("N1", "N2", "N3", "N4", "N5"):
        assert outcomes[name].verdict in ("equivalent", "inconclusive")


def test_worlds_without_an_effect_are_rarely_decided():
    draw = np.random.default_rng(7)
    wrong = Counter()
    for _ in range(80):
        outcomes = noise([noise_dose(draw, {"constant": line, "small": line}, images=100)])
        for name, outcome in outcomes.items():
            wrong[name] += any(case.adjusted is not None and case.adjusted < 0.05 for case in outcome.cases)
    # 5 % of eighty worlds, and two standard errors.
    assert max(wrong.values()) <= 8, wrong


def test_a_trend_over_doses_is_printed_without_a_verdict():
    draw = np.random.default_rng(8)
    doses = [
        noise_dose(draw, {"constant": lambda fit, step=step: line(fit) - step, "small": line}, wrong=wrong)
        for wrong, step in ((0.1, 0.05), (0.2, 0.15), (0.4, 0.3))
    ]
    remark = noise(doses)["N2"].remark
    assert "falls with the share of wrong labels: p = 0.0" in remark and "no verdict" in remark
