"""Rules judged on a suite's results."""

import json

import pytest

from lrbench.leaderboard.rules import judge
from tests.leaderboard.fake import fill


@pytest.fixture
def filled(tiny, place):
    """Results of the tiny suite in which later stages transfer better to objects, and worse to indoor."""
    sign = {"tiny-objects": -1, "tiny-indoor": 1}
    rank = {"step": 0, "hold": 1, "constant": 2, "average": 3}
    fill(place.workspace, tiny, lambda row, seed, task: 20 + sign[task] * (4 * row[1] + rank[row[0]]))
    return tiny


def test_rules_are_judged_by_the_order_of_each_target(filled, place):
    judgement = judge(place.workspace, filled, "probe")
    rules = {rule.name: rule for rule in judgement.rules}
    assert len(judgement.snapshots) >= 5 and all(stage > 0 for _, stage in judgement.snapshots)
    assert judgement.seeds == (0, 1) and judgement.targets == ("tiny-objects", "tiny-indoor")
    # The stage is right for one target and wrong for the other; a list made from the other target is always wrong.
    assert rules["last stage"].tau == pytest.approx(0) and rules["last stage"].interval[0] < -0.5
    static = rules["static list: mean accuracy on the other targets"]
    assert static.tau == pytest.approx(-1) and static.regret > 0.1
    control = rules["control: the same target with the other seeds"]
    assert control.tau == pytest.approx(1) and control.regret == 0
    assert "LogME" not in rules


def test_rules_are_printed_and_nothing_is_written(filled, lrbench, home):
    shown = lrbench("leaderboard", "tiny", "--rules")
    assert shown.status == 0 and "source accuracy" in shown.out and "LogME is missing" in shown.out
    assert "95 % interval from a bootstrap over 2 targets and 2 pretraining seeds" in shown.out
    printed = json.loads(lrbench("leaderboard", "tiny", "--rules", "--json").out)
    assert printed["protocol"] == "probe" and len(printed["rules"]) == 4
    assert not list((home / "leaderboard").glob("*.md"))
    assert "Did you mean 'knn'?" in lrbench("leaderboard", "tiny", "--rules", "--protocol", "knnn").err
    assert "Name the suite" in lrbench("leaderboard", "--rules").err


def test_too_few_snapshots_are_not_judged(filled, place):
    few = filled.model_copy(update={"arms": ("step",)})
    assert "only 3 trained snapshots" in judge(place.workspace, few, "probe").problem
    other_seed = filled.model_copy(update={"seeds": (7,)})
    assert "no pretraining seed has probe results" in judge(place.workspace, other_seed, "probe").problem
