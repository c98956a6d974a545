"""Arms `auto`, whose stages end by a rule, and `short`, whose boundaries follow from it."""

import pytest
import torch
from safetensors.torch import load_file

import lrbench.config.suite as suite_module
from lrbench.config import load_suite
from lrbench.config.schedule import find_segment, snapshot_keys
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.workspace import Place, Workspace
from lrbench.jobs.plan import make_plan
from lrbench.pretraining.segments import make_snapshot
from lrbench.stats import stage_end
from lrbench.store.snapshots import read_metadata, snapshot_path
from tests.pretraining.helpers import Listens, bare_loop, key


@pytest.fixture
def auto(tiny, monkeypatch):
    """The tiny suite with `auto` and `short`, stages of at most 9 and 5 epochs, and a rule that ends stages after the fifth."""
    monkeypatch.setattr(suite_module, "SHORTEST_STAGE", 5)
    monkeypatch.setattr(stage_end, "_DELTA", 1e6)
    changes = [
        'arms=["step", "auto", "short"]',
        "schedule.epochs=14",
        "schedule.boundaries=[9]",
        "schedule.rates=[0.1,0.01]",
    ]
    return load_suite("tiny.toml", changes)


def assert_near(weights, expected):
    """Compare weights after many updates, over which rounding accumulates."""
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=2e-3)


def make(suite, wanted, place, control=None):
    """Make a snapshot and all that it needs; return its path."""
    for needed in find_segment(suite.schedule, wanted).needs:
        make(suite, needed, place, control)
    make_snapshot(suite, wanted, place, control or Control())
    return snapshot_path(place.workspace.checkpoints, suite.name, wanted)


def test_stages_end_where_the_rule_ends_them(auto, place):
    first, second = make(auto, key("auto", 1), place), make(auto, key("auto", 2), place)
    assert_near(load_file(first), bare_loop(auto, place, [0.1] * 5)[-1])
    assert_near(load_file(second), bare_loop(auto, place, [0.1] * 5 + [0.01] * 5)[-1])
    headers = [read_metadata(path) for path in (first, second)]
    assert [(header.epoch, header.update, header.rate) for header in headers] == [(5, 15, 0.1), (10, 30, 0.01)]
    assert [header.stage_end["epoch"] for header in headers] == [5, 10]
    # The first stage is part of the training of `step`, which goes on.
    step = read_metadata(make(auto, key("step", 1), place))
    assert (headers[0].parent, step.epoch, step.stage_end) == ("step/seed0/stage1", 9, headers[0].stage_end)


def test_short_divides_the_epochs_of_auto_like_step(auto, place):
    # 14 epochs become 10, and the boundary moves from 9 to round(6.4).
    path = make(auto, key("short", 2), place)
    assert_near(load_file(path), bare_loop(auto, place, [0.1] * 6 + [0.01] * 4)[-1])
    headers = [read_metadata(path.with_name(f"stage{stage}.safetensors")) for stage in (1, 2)]
    assert [(header.epoch, header.paced_epochs, header.parent) for header in headers] == [
        (6, 10, "step/seed0/stage0"),
        (10, 10, "short/seed0/stage1"),
    ]


def test_stages_without_end_are_those_of_step(auto, place, monkeypatch):
    monkeypatch.setattr(stage_end, "_DELTA", -1e6)
    for arm in ("auto", "short"):
        for stage in (1, 2):
            weights, expected = (load_file(make(auto, key(name, stage), place)) for name in (arm, "step"))
            assert all((weights[name] == expected[name]).all() for name in expected)
    header = read_metadata(make(auto, key("auto", 1), place))
    assert (header.epoch, header.stage_end["epoch"], header.stage_end["epochs"]) == (9, 9, 9)


@pytest.mark.parametrize(("wanted", "updates"), [(("step", 1), 14), (("step", 1), 20), (("auto", 2), 8)])
def test_interrupted_decisions_have_identical_bytes(auto, place, home, wanted, updates):
    class Stops(Control):
        def progress(self, done, total, unit):
            if unit == "updates" and done == updates:
                self.stop()

    elsewhere = Place(workspace=Workspace(root=home / "elsewhere"), roots=place.roots)
    for needed in find_segment(auto.schedule, key(*wanted)).needs:
        make(auto, needed, place)
    with pytest.raises(InterruptedWork):
        make_snapshot(auto, key(*wanted), place, Stops())
    for arm, stage in (("step", 1), ("auto", 1), ("auto", 2)):
        paths = [make(auto, key(arm, stage), where) for where in (place, elsewhere)]
        for name in (f"stage{stage}.safetensors", f"stage{stage}.state.pt"):
            mine, expected = (path.with_name(name).read_bytes() for path in paths)
            assert mine == expected
        if stage > 1 or arm == "step":
            assert len({path.with_name("log.jsonl").read_bytes() for path in paths}) == 1


def test_plan_has_the_epochs_that_are_left(auto, place):
    def epochs(arm):
        return [planned.epochs for planned in make_plan(auto, place, seed=0).snapshots if planned.key.arm == arm]

    assert (epochs("auto"), epochs("short")) == ([0, 5], [9, 5])
    jobs = {job.name: job.needs for job in make_plan(auto, place, seed=0).jobs(transfer=False)}
    assert jobs["pretrain short/seed0/stage1"] == ("pretrain step/seed0/stage0", "pretrain auto/seed0/stage2")
    assert make_plan(auto, place).pace_note() == (
        "epochs of auto and short are at most these, in total: a rule may end stages early"
    )
    make(auto, key("auto", 1), place)
    assert epochs("auto") == [0, 9]
    make(auto, key("auto", 2), place)
    assert epochs("short") == [6, 5]
    order = [str(planned) for planned in snapshot_keys(auto, arm="short", seed=0)]
    assert order.index("auto/seed0/stage2") < order.index("short/seed0/stage1")


def test_missing_states_and_changed_paces_are_reported(auto, place, monkeypatch):
    without = auto.model_copy(update={"arms": ("step",)})
    make(without, key("step", 1), place)
    with pytest.raises(InputError, match=r"did not save the intermediate weights that arm auto needs"):
        make_plan(auto, place)
    with pytest.raises(InputError, match=r"did not save the intermediate weights that arm auto needs"):
        make_snapshot(auto, key("auto", 1), place, Control())
    with pytest.raises(
        InputError, match=r"short/seed0/stage1 starts from .*auto/seed0/stage2.safetensors, which is missing"
    ):
        make_snapshot(auto, key("short", 1), place, Control())


def test_progress_without_the_state_of_the_decision_starts_again(auto, place):
    class Stops(Control):
        def progress(self, done, total, unit):
            if unit == "updates" and done == 20:
                self.stop()

    without = auto.model_copy(update={"arms": ("step",)})
    make(without, key("step", 0), place)
    with pytest.raises(InterruptedWork):
        make_snapshot(without, key("step", 1), place, Stops())
    control = Listens()
    make(auto, key("auto", 1), place, control)
    assert any("lacks the state of epoch 5, which an arm of the suite needs" in text for text in control.told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["schedule.boundaries=[14]"], "needs stages of at least 15 epochs after the warm-up, but the shortest has 14"),
        (["schedule.boundaries=[25]"], "but the shortest has 5"),
        (["schedule.boundaries=[15]", "schedule.warmup=2"], "but the shortest has 13"),
        (['arms=["step", "short"]'], "arm 'short' starts from 'auto'"),
    ],
)
def test_schedules_too_short_for_the_rule_are_refused(home, changes, message):
    long = ['arms=["step", "auto"]', "schedule.epochs=30", "schedule.boundaries=[15]", "schedule.rates=[0.1,0.01]"]
    assert load_suite("tiny.toml", long).arms == ("step", "auto")
    with pytest.raises(InputError, match=message):
        load_suite("tiny.toml", [*long, *changes])
