"""The registry of arms is consistent, and a record is all that a new arm needs."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file

from lrbench.config import load_suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import SnapshotKey, find_segment, kept_epochs, snapshot_keys
from lrbench.core.errors import InputError
from lrbench.jobs.plan import make_plan
from lrbench.leaderboard import page
from lrbench.leaderboard.evidence import fits_null
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.snapshots import snapshot_path
from tests.leaderboard.fake import fill


def test_records_name_registered_arms():
    for name, arm in ARMS.items():
        assert name == arm.name and set(arm.needs) <= set(ARMS) - {name}
        # Everything derives from `step`, without cycles.
        ancestors = set(arm.needs)
        while (more := {needed for other in ancestors for needed in ARMS[other].needs}) - ancestors:
            ancestors |= more
        assert name not in ancestors and (name == "step" or "step" in ancestors)


def test_markers_and_descriptions_are_unique(tiny):
    assert len({arm.marker for arm in ARMS.values()}) == len(ARMS)
    assert len({arm.describe(tiny.schedule) for arm in ARMS.values()}) == len(ARMS)


def test_new_record_adds_an_arm(place, control, monkeypatch, drawn):
    copy = replace(ARMS["hold"], name="again", description="`hold` again", comparison="`again` is `hold`")
    monkeypatch.setitem(ARMS, copy.name, copy)
    suite = load_suite("tiny.toml", ['arms=["step", "hold", "again"]', 'targets=["tiny-indoor"]', "seeds=[0]"])
    planned = [str(snapshot.key) for snapshot in make_plan(suite, place).snapshots]
    assert planned[-2:] == ["again/seed0/stage2", "again/seed0/stage3"]

    for key in (SnapshotKey(arm=arm, seed=0, stage=2) for arm in ("hold", "again")):
        for needed in (SnapshotKey(arm="step", seed=0, stage=0), SnapshotKey(arm="step", seed=0, stage=1), key):
            make_snapshot(suite, needed, place, control)
    weights, expected = (
        load_file(snapshot_path(place.workspace.checkpoints, suite.name, SnapshotKey(arm=arm, seed=0, stage=2)))
        for arm in ("again", "hold")
    )
    assert weights.keys() == expected.keys() and all((weights[name] == expected[name]).all() for name in expected)

    fill(place.workspace, suite)
    page.write(place.workspace, [suite.name])
    assert "- `again`: `hold` again." in (place.workspace.leaderboard / "tiny.md").read_text()
    details = (place.workspace.leaderboard / "tiny-details.md").read_text()
    assert "; `again` is `hold`." in details and "step/stage2 − again/stage2" in details


def test_unregistered_arm_is_refused(home):
    with pytest.raises(InputError, match=r"must be one of step, hold, .*, raise, not 'holt'\. Did you mean 'hold'"):
        load_suite("tiny.toml", ['arms=["step", "holt"]'])


def test_momentum_is_kept_where_training_continues(tiny):
    schedule = tiny.schedule.model_copy(
        update={"epochs": 9, "boundaries": (4, 8), "trail": 9, "shift": 1, "rates": (0.1, 0.01, 0.001)}
    )
    suite = tiny.model_copy(update={"schedule": schedule, "arms": ("step", "hold", "constant", "early", "trail")})
    assert SnapshotKey(arm="early", seed=0, stage=1) in snapshot_keys(suite)
    first = find_segment(schedule, SnapshotKey(arm="step", seed=0, stage=1))
    assert kept_epochs(suite, first) == {1: False, 2: False, 3: True}


def test_moved_first_stages_are_not_in_the_saturation_null(tiny):
    schedule = tiny.schedule.model_copy(update={"epochs": 9, "boundaries": (4, 8), "shift": 1})
    suite = tiny.model_copy(update={"schedule": schedule, "arms": ("step", "hold", "early", "late", "grow")})
    rows = {(key.arm, key.stage) for key in snapshot_keys(suite, seed=0)}
    assert {row for row in rows if fits_null(suite, row)} == {("step", 1), ("hold", 2)}
