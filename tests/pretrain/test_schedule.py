from hypothesis import given
from hypothesis import strategies as st

from lrbench.arms import kept_epochs, owned_stages, segment, snapshot_keys
from lrbench.registry.suite import Suite

ARMS = ["step", "hold", "constant", "average"]


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
def test_every_arm_spends_the_same_epochs_and_changes_rates_at_boundaries_only(suite):
    schedule = suite.schedule
    for arm in ARMS:
        for stage in owned_stages(arm, schedule):
            found = [each for each in snapshot_keys(suite, arm=arm) if (each.arm, each.stage) == (arm, stage)]
            assert len(found) == 1
            # Walk back to the initialisation: the stretches are seamless and end at the stage's boundary.
            stretch, rates = segment(schedule, found[0]), []
            if stretch.averaged:
                stretch = segment(schedule, stretch.parent)
            assert stretch.last_epoch == schedule.ends[stage]
            while stretch.parent is not None:
                rates.insert(0, (stretch.first_epoch, stretch.last_epoch, stretch.rate))
                before = segment(schedule, stretch.parent)
                assert before.last_epoch == stretch.first_epoch
                stretch = before
            expected = [schedule.rates[i] for i in range(stage)]
            if arm in ("hold", "average"):
                expected[-1] = expected[-2]
            if arm == "constant":
                expected = [schedule.rates[0]] * stage
            assert [rate for *_, rate in rates] == expected


@given(suites(), st.integers(1, 12))
def test_trail_lies_inside_stages_of_the_run_without_decay(suite, parts):
    schedule = suite.schedule.model_copy(update={"trail": parts})
    suite = suite.model_copy(update={"schedule": schedule, "arms": (*ARMS, "trail")})
    keys = [each for each in snapshot_keys(suite) if each.arm == "trail"]
    assert [each.stage for each in keys] == list(range(1, len(schedule.trail_epochs) + 1))
    assert not set(schedule.trail_epochs) & set(schedule.ends) and len(keys) < parts
    for each in keys:
        stretch = segment(schedule, each)
        trunk = segment(schedule, stretch.parent)
        assert trunk.first_epoch < stretch.last_epoch < trunk.last_epoch
        # Its trunk keeps what it needs, and never saw another rate.
        assert stretch.kept_epoch in kept_epochs(suite, trunk)
        while trunk.parent is not None:
            assert trunk.rate == schedule.rates[0]
            trunk = segment(schedule, trunk.parent)
    assert all(
        kept_epochs(suite.model_copy(update={"arms": tuple(ARMS)}), segment(schedule, each)) == () for each in keys
    )
