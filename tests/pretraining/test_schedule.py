import json
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lrbench.config.arms import ARMS as REGISTERED
from lrbench.config.loading import validate
from lrbench.config.schedule import (
    SnapshotKey,
    find_segment,
    kept_epochs,
    learning_rate,
    means_to_keep,
    next_segment,
    owned_stages,
    owner,
    snapshot_keys,
)
from lrbench.config.suite import Suite
from lrbench.core.errors import InputError
from lrbench.leaderboard.evidence import fits_null
from lrbench.store.suites import recipe

ARMS = ["step", "hold", "constant", "average", "constant-average"]


@st.composite
def suites(draw):
    boundaries = sorted(draw(st.sets(st.integers(1, 50), min_size=1, max_size=5)))
    count = len(boundaries) + 1
    rates = sorted(draw(st.sets(st.floats(1e-6, 10), min_size=count, max_size=count)), reverse=True)
    return Suite.model_validate(
        {
            "name": "drawn",
            "source": "a",
            "targets": ["b"],
            "arms": ARMS,
            "protocols": ["probe"],
            "seeds": [0],
            "model": {"architecture": "resnet18"},
            "input": {"size": 32},
            "schedule": {
                "epochs": boundaries[-1] + draw(st.integers(1, 20)),
                "boundaries": boundaries,
                "rates": rates,
                "batch": 32,
            },
        }
    )


@given(suites())
def test_arms_spend_equal_epochs_and_change_rates_at_boundaries(suite):
    schedule = suite.schedule
    for arm in ARMS:
        for stage in owned_stages(arm, schedule):
            keys = [key for key in snapshot_keys(suite, arm=arm) if (key.arm, key.stage) == (arm, stage)]
            assert len(keys) == 1
            # Back to the initialisation: segments are contiguous and end at the stage's boundary.
            segment, rates = find_segment(schedule, keys[0]), []
            if segment.averaged:
                segment = find_segment(schedule, segment.parent)
            assert segment.last_epoch == schedule.ends[stage]
            while segment.parent is not None:
                rates.insert(0, (segment.first_epoch, segment.last_epoch, segment.rate))
                before = find_segment(schedule, segment.parent)
                assert before.last_epoch == segment.first_epoch
                segment = before
            expected = [schedule.rates[i] for i in range(stage)]
            if arm in ("hold", "average"):
                expected[-1] = expected[-2]
            if arm in ("constant", "constant-average"):
                expected = [schedule.rates[0]] * stage
            assert [rate for *_, rate in rates] == expected


@given(suites())
def test_means_belong_to_the_stages_they_average(suite):
    means = {
        "average": "hold",
        "step-average": "step",
        "tail-average": "hold",
        "step-tail-average": "step",
        "moving-average": "hold",
        "step-moving-average": "step",
    }
    suite = suite.model_copy(update={"arms": tuple(dict.fromkeys((*ARMS, *means)))})
    schedule = suite.schedule
    for arm, trunk in means.items():
        # Rate (falls or held) and averaging are crossed: means have the stages and rates of their trunk.
        assert owned_stages(arm, schedule) == tuple(range(2, schedule.stages + 1))
        for stage in owned_stages(arm, schedule):
            segment = find_segment(schedule, SnapshotKey(arm=arm, seed=0, stage=stage))
            parent = find_segment(schedule, SnapshotKey(arm=trunk, seed=0, stage=stage))
            assert segment.averaged and segment.parent == parent.key and segment.rate == parent.rate
            assert REGISTERED[arm].mean_over in means_to_keep(suite, parent)
    first = find_segment(schedule, SnapshotKey(arm="step", seed=0, stage=1))
    assert means_to_keep(suite, first) == frozenset()
    assert means_to_keep(suite.model_copy(update={"arms": ("step", "hold")}), parent) == frozenset()


@given(suites(), st.integers(1, 12))
def test_trail_samples_the_run_without_decay(suite, parts):
    schedule = suite.schedule.model_copy(update={"trail": parts})
    suite = suite.model_copy(update={"schedule": schedule, "arms": (*ARMS, "trail")})
    keys = [key for key in snapshot_keys(suite) if key.arm == "trail"]
    assert [key.stage for key in keys] == list(range(1, len(schedule.trail_epochs(0)) + 1))
    assert not set(schedule.trail_epochs(0)) & set(schedule.ends) and len(keys) < parts
    for key in keys:
        segment = find_segment(schedule, key)
        trunk = find_segment(schedule, segment.parent)
        assert trunk.first_epoch < segment.last_epoch < trunk.last_epoch
        # The trunk keeps the weights, and was trained at the first rate only.
        assert segment.kept_epoch in kept_epochs(suite, trunk)
        while trunk.parent is not None:
            assert trunk.rate == schedule.rates[0]
            trunk = find_segment(schedule, trunk.parent)
    assert all(
        kept_epochs(suite.model_copy(update={"arms": tuple(ARMS)}), find_segment(schedule, key)) == {} for key in keys
    )


def test_small_trail_samples_the_run_at_the_small_rate(tiny):
    suite = with_arms(tiny, "small", "trail", "small-trail", trail=6, constant_extra=2)
    schedule = suite.schedule
    # Stages end at 3, 5 and 6. Only `constant`, and hence `trail`, trains longer.
    assert (schedule.trail_epochs(0), schedule.trail_epochs(2)) == ((1, 2, 4), (1, 2, 4, 7))
    stages = {key.stage: key for key in snapshot_keys(suite, seed=0) if key.arm == "small-trail"}
    assert list(stages) == [1, 2, 3]
    for stage, (epoch, trunk_stage) in enumerate(((1, 1), (2, 1), (4, 2)), start=1):
        segment = find_segment(schedule, stages[stage])
        trunk = find_segment(schedule, SnapshotKey(arm="small", seed=0, stage=trunk_stage))
        assert (segment.parent, segment.kept_epoch, segment.rate) == (trunk.key, epoch, schedule.small_rate)
        assert not segment.branches and kept_epochs(suite, trunk)[epoch] is False
        assert fits_null(suite, ("small-trail", stage))
    assert with_arms(tiny, "small-trail") is None


def test_constant_trains_longer_on_request(tiny):
    content = tiny.model_dump(mode="json")
    content |= {
        "arms": [*tiny.arms, "trail", "raise"],
        "schedule": content["schedule"] | {"trail": 6, "constant_extra": 3},
    }
    suite = Suite.model_validate_json(json.dumps(content))
    schedule, last = suite.schedule, SnapshotKey(arm="constant", seed=0, stage=4)
    # Stages end at 3, 5 and 6, and the extra stage at 9; the parts of `trail` have one epoch.
    assert (schedule.ends, schedule.trail_epochs(3)) == ((0, 3, 5, 6), (1, 2, 4, 7, 8))
    assert find_segment(schedule, last).parent == replace(last, stage=3)
    assert rates_along(suite, last) == [0.1] * 27
    assert (
        next_segment(suite, replace(last, stage=3)) == find_segment(schedule, last)
        and next_segment(suite, last) is None
    )
    # `raise` branches from `step`, whose training ends there.
    assert next_segment(suite, SnapshotKey(arm="step", seed=0, stage=3)) is None
    for stage, epoch in ((4, 7), (5, 8)):
        segment = find_segment(schedule, SnapshotKey(arm="trail", seed=0, stage=stage))
        assert segment.parent == last and segment.kept_epoch == epoch
    assert all(fits_null(suite, row) for row in (("constant", 4), ("trail", 4), ("trail", 5)))
    before = set(snapshot_keys(validate_again(suite, constant_extra=None), seed=0))
    added = {str(key) for key in snapshot_keys(suite, seed=0) if key not in before}
    assert added == {"constant/seed0/stage4", "trail/seed0/stage4", "trail/seed0/stage5"}
    described = REGISTERED["constant"].describe(schedule)
    assert described.startswith("the rate stays 0.1, for 3 more epochs than `step`; shares")


def test_schedule_without_extra_epochs_is_written_as_before(tiny):
    assert "constant_extra" not in tiny.schedule.model_dump()
    longer = validate_again(tiny, constant_extra=2)
    assert longer.schedule.model_dump()["constant_extra"] == 2 and recipe(longer) != recipe(tiny)


def validate_again(suite, **schedule):
    """Return the validated suite with other schedule values."""
    content = suite.model_dump()
    return Suite.model_validate(content | {"schedule": content["schedule"] | schedule})


MOVED = ["early", "late", "small", "cosine", "raise"]


def with_arms(suite, *arms, **schedule):
    """Return the validated suite with more arms and other schedule values, or None if it is invalid."""
    content = suite.model_dump()
    content["arms"] = [*ARMS, *arms]
    content["schedule"] |= schedule
    try:
        return Suite.model_validate(content)
    except ValueError:
        return None


def rates_along(suite, key, per_epoch=3):
    """Return the rate of every update up to a snapshot, collected segment by segment."""
    schedule, rates = suite.schedule, {}
    segment = find_segment(schedule, key)
    end = segment.last_epoch
    while segment.parent is not None:
        # A kept snapshot uses only the trunk's updates before it.
        until = segment.last_epoch
        if segment.derived:
            segment = find_segment(schedule, segment.parent)
        for update in range(segment.first_epoch * per_epoch, min(segment.last_epoch, until) * per_epoch):
            assert update not in rates
            rates[update] = learning_rate(schedule, segment, update, per_epoch)
        segment = find_segment(schedule, segment.parent)
    return [rates[update] for update in range(end * per_epoch)]


@given(suites(), st.integers(0, 3))
def test_arms_match_reference_rates(suite, warmup):
    suite = with_arms(suite, *MOVED, warmup=warmup)
    assume(suite is not None)
    schedule, per_epoch = suite.schedule, 3
    shift, total = schedule.shift_epochs, schedule.epochs * per_epoch
    warm = warmup * per_epoch

    def expected(boundaries, rates):
        """Reference rate of each update: by boundaries, then scaled in the warm-up."""
        values = []
        for update in range(total):
            rate = rates[sum(update >= boundary * per_epoch for boundary in boundaries)]
            values.append(rate * min(1.0, (update + 1) / warm) if update < warm else rate)
        return values

    boundaries, rates, last = schedule.boundaries, schedule.rates, schedule.stages
    cosine = [
        rates[0] * (update + 1) / warm
        if update < warm
        else rates[0] * (1 + math.cos(math.pi * (update - warm) / (total - warm))) / 2
        for update in range(total)
    ]
    wanted = {
        "step": expected(boundaries, rates),
        "constant": expected(boundaries, [rates[0]] * last),
        "early": expected([boundary - shift for boundary in boundaries], rates),
        "late": expected([boundary + shift for boundary in boundaries], rates),
        "small": expected(boundaries, [schedule.small_rate] * last),
        "cosine": cosine,
    }
    for arm, reference in wanted.items():
        assert rates_along(suite, SnapshotKey(arm=owner(arm, last, schedule), seed=0, stage=last)) == pytest.approx(
            reference
        )
        for stage in owned_stages(arm, schedule):
            # Every snapshot is at its arm's boundary, with the same history as the arm's last.
            epoch = REGISTERED[arm].ends(schedule)[stage]
            segment = find_segment(schedule, SnapshotKey(arm=arm, seed=0, stage=stage))
            assert segment.last_epoch == epoch
            assert rates_along(suite, segment.key) == pytest.approx(reference[: epoch * per_epoch])
    raised = rates_along(suite, SnapshotKey(arm="raise", seed=0, stage=last + 1))
    assert raised == pytest.approx([*wanted["step"], *[rates[0]] * (schedule.raised_epochs * per_epoch)])


@given(suites())
def test_arms_share_what_they_can(suite):
    suite = with_arms(suite, *MOVED, "trail")
    assume(suite is not None)
    schedule = suite.schedule
    keys = snapshot_keys(suite)
    assert len(keys) == len(set(keys))
    for position, key in enumerate(keys):
        segment = find_segment(schedule, key)
        assert segment.parent is None or keys.index(segment.parent) < position
    # The first stages of `early` and `late` cost no training: they are intermediate weights of the run at the first rate.
    for arm, trunk, stage in (("early", "step", 1), ("late", "hold", 2)):
        segment = find_segment(schedule, SnapshotKey(arm=arm, seed=0, stage=1))
        parent = find_segment(schedule, SnapshotKey(arm=trunk, seed=0, stage=stage))
        assert segment.derived and segment.parent == parent.key
        assert parent.first_epoch < segment.kept_epoch < parent.last_epoch
        assert kept_epochs(suite, parent)[segment.kept_epoch] is True
    # The saturation null is fitted to these arms.
    arms = {key.arm for key in keys if key.stage > 0 and fits_null(suite, (key.arm, key.stage))}
    # Each state of a run without decay counts once.
    averaged = {arm for arm in suite.arms if REGISTERED[arm].mean_of}
    assert {"step", "hold", "small"} <= arms and averaged
    assert not arms & {"cosine", "raise", "early", "late", *averaged}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"warmup": 3}}, r"warmup \(3 epochs\) must end before the first boundary \(epoch 3\)"),
        ({"schedule": {"shift": 2}}, r"shift \(2\) must be shorter than the shortest stage \(1 epochs\)"),
        ({"arms": ["step", "early"]}, r"arm 'early' would move the boundaries to epochs 2, 4.*remove 'early'"),
        ({"arms": ["step", "late"]}, "arm 'late' starts from 'hold'"),
        ({"arms": ["step", "raise", "raise"]}, "'raise' is named twice"),
        ({"protocol_arms": {"knn": ["hold"]}}, r"protocol_arms\.knn must include `step`"),
        ({"protocol_arms": {"knn": ["step", "cosine"]}}, r"protocol_arms\.knn names arm 'cosine'"),
        ({"protocol_arms": {"depth": ["step"]}}, r"protocol_arms\.depth names protocol 'depth'"),
    ],
)
def test_impossible_schedules_are_refused(tiny, tmp_path, changes, message):
    content = tiny.model_dump(mode="json")
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    with pytest.raises(InputError, match=message):
        validate(Suite, content, tmp_path / "suite.toml")
