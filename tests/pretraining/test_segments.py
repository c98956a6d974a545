import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lrbench.config import load_suite, load_task
from lrbench.config.schedule import find_segment, snapshot_keys
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.data.batches import Batches
from lrbench.data.loading import load_task_data
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.source import Evaluator, open_source
from lrbench.pretraining.state import load, save
from lrbench.store.snapshots import batchnorm_path, progress_path, read_metadata, snapshot_path, state_path
from tests.pretraining.helpers import StopsAfter, assert_close, bare_loop, key, make, nan_loss_at


@pytest.mark.parametrize(("arm", "stage"), [("step", 1), ("average", 2)])
def test_source_accuracies_are_those_of_the_weights(tiny, place, arm, stage):
    path = make(tiny, key(arm, stage), place)
    source = open_source(tiny.source, tiny.input, place.roots, False, place.workspace.cache, Control())
    normalise = InputNormalisation(tiny.input.mean, tiny.input.std, torch.device("cpu"))
    model = create_model(tiny.model.architecture, tiny.model.arguments, classes=4).eval()
    raw, estimated = load_file(path), load_file(batchnorm_path(path))
    metadata = read_metadata(path)
    for tensors, recorded in ((raw, metadata.source_accuracy_raw), (raw | estimated, metadata.source_accuracy)):
        model.load_state_dict(tensors)
        assert Evaluator(model, source, normalise, Control()).accuracy() == pytest.approx(recorded)


@pytest.mark.parametrize(
    ("arm", "stage", "rates"),
    [
        ("step", 1, [0.1] * 3),
        ("step", 2, [0.1] * 3 + [0.01] * 2),
        ("step", 3, [0.1] * 3 + [0.01] * 2 + [0.001]),
        ("hold", 2, [0.1] * 5),
        ("hold", 3, [0.1] * 3 + [0.01] * 3),
        ("constant", 3, [0.1] * 6),
    ],
)
def test_each_arm_matches_a_bare_loop(tiny, place, arm, stage, rates):
    path = make(tiny, key(arm, stage), place)
    assert_close(load_file(path), bare_loop(tiny, place, rates)[-1])


def test_weight_decay_matches_a_bare_loop(tiny, place):
    suite = tiny.model_copy(update={"schedule": tiny.schedule.model_copy(update={"weight_decay": 0.1})})
    assert_close(load_file(make(suite, key("step", 1), place)), bare_loop(suite, place, [0.1] * 3)[-1])


def assert_mean(tensors, states):
    """Check that floating-point tensors are the mean of those of several states."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            expected = torch.stack([weights[name].double() for weights in states]).mean(0).float()
            torch.testing.assert_close(tensor, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("arm", "stage", "rates"),
    [
        ("average", 2, [0.1] * 5),
        ("constant-average", 3, [0.1] * 7),
        ("step-average", 2, [0.1] * 3 + [0.01] * 2),
        ("step-average", 3, [0.1] * 3 + [0.01] * 2 + [0.001] * 2),
    ],
)
def test_means_average_the_epoch_end_weights(tiny, place, arm, stage, rates):
    schedule = tiny.schedule.model_copy(update={"epochs": 7})
    suite = tiny.model_copy(update={"arms": (*tiny.arms, "constant-average", "step-average"), "schedule": schedule})
    # Stages 2 and 3 have two epochs.
    assert_mean(load_file(make(suite, key(arm, stage), place)), bare_loop(suite, place, rates)[-2:])


@pytest.mark.parametrize(
    ("arm", "stage", "rates"),
    [
        ("tail-average", 2, [0.1] * 5),
        ("tail-average", 3, [0.1] * 3 + [0.01] * 3),
        ("step-tail-average", 2, [0.1] * 3 + [0.01] * 2),
    ],
)
def test_tail_means_average_every_update_of_the_last_epoch(tiny, place, arm, stage, rates):
    suite = tiny.model_copy(update={"arms": (*tiny.arms, "tail-average", "step-tail-average")})
    path = make(suite, key(arm, stage), place)
    # An epoch has three updates.
    assert_mean(load_file(path), bare_loop(suite, place, rates, every="update")[-3:])
    estimated, raw = load_file(batchnorm_path(path)), load_file(path)
    assert estimated and any(not torch.equal(estimated[name], raw[name]) for name in estimated)


@pytest.mark.parametrize(
    ("arm", "rates"), [("moving-average", [0.1] * 5), ("step-moving-average", [0.1] * 3 + [0.01] * 2)]
)
def test_moving_averages_weigh_every_update_of_the_stage(tiny, place, arm, rates):
    schedule = tiny.schedule.model_copy(update={"moving_decay": 0.8})
    suite = tiny.model_copy(
        update={"arms": (*tiny.arms, "moving-average", "step-moving-average"), "schedule": schedule}
    )
    tensors = load_file(make(suite, key(arm, 2), place))
    # The stage has two epochs of three updates; weights before it do not count.
    states = bare_loop(suite, place, rates, every="update")[-6:]
    weights = 0.8 ** torch.arange(5, -1, -1, dtype=torch.float64)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            stacked = torch.stack([state[name].double() for state in states])
            expected = (stacked * weights.view(-1, *[1] * tensor.ndim)).sum(0) / weights.sum()
            torch.testing.assert_close(tensor, expected.float(), rtol=2e-4, atol=2e-5)


def test_training_sums_only_what_an_arm_averages(tiny, place):
    def stored(suite, stage):
        state = load(state_path(make(suite, stage, place)))
        return bool(state["mean"]), bool(state.get("tail_mean"))

    alone = tiny.model_copy(update={"name": "alone", "arms": ("step", "hold")})
    assert stored(tiny, key("hold", 2)) == (True, False)
    assert stored(tiny, key("step", 2)) == stored(alone, key("hold", 2)) == (False, False)
    arms = (*tiny.arms, "step-average", "step-tail-average")
    averaged = tiny.model_copy(update={"name": "averaged", "arms": arms})
    assert stored(averaged, key("step", 2)) == (True, True)
    # No arm averages the first stage.
    assert stored(averaged, key("step", 1)) == (False, False)


@pytest.mark.parametrize("arm", ["step-average", "step-tail-average"])
def test_mean_added_after_training_is_reported(tiny, place, arm):
    make(tiny, key("step", 2), place)
    more = tiny.model_copy(update={"arms": (*tiny.arms, arm)})
    message = (
        rf"did not save the intermediate weights that arm {arm} needs when it trained step/seed0/stage2; {arm} was"
    )
    with pytest.raises(InputError, match=message):
        make_snapshot(more, key(arm, 2), place, Control())


def test_mean_of_part_of_a_stage_is_never_used(tiny, place, monkeypatch):
    """Progress of a suite without `average`, which stored no sum of weights, is discarded."""
    from lrbench.pretraining import segments, start

    class Stops(Control):
        def __init__(self):
            super().__init__()
            self.told = []

        def progress(self, done, total, unit):
            if unit == "updates" and done == 4 and not self.told:
                self.stop()

        def say(self, text):
            self.told.append(text)

    make(tiny, key("step", 1), place)
    with monkeypatch.context() as patched:
        patched.setattr(start, "means_to_keep", lambda suite, segment: frozenset())
        patched.setattr(segments, "means_to_keep", lambda suite, segment: frozenset())
        with pytest.raises(InterruptedWork):
            make_snapshot(tiny, key("hold", 2), place, Stops())
    goes_on = Stops()
    goes_on.told.append("it goes to the end")
    make_snapshot(tiny, key("hold", 2), place, goes_on)
    assert "lacks the sum of epoch-end weights" in goes_on.told[1]
    averaged = load_file(make(tiny, key("average", 2), place))
    epochs = bare_loop(tiny, place, [0.1] * 5)[3:]
    expected = torch.stack([weights["conv1.0.weight"].double() for weights in epochs]).mean(0).float()
    torch.testing.assert_close(averaged["conv1.0.weight"], expected, rtol=2e-4, atol=2e-5)


@pytest.fixture
def trailing(tiny):
    """The tiny suite with the arm `trail`: weights after epochs 1, 2 and 4 of a run whose stages end at 3, 5 and 6."""
    suite = tiny.model_copy(
        update={"arms": (*tiny.arms, "trail"), "schedule": tiny.schedule.model_copy(update={"trail": 6})}
    )
    assert suite.schedule.trail_epochs(0) == (1, 2, 4)
    return suite


def test_trail_matches_constant_at_its_epochs(trailing, place):
    weights = bare_loop(trailing, place, [0.1] * 4)
    for stage, epoch in ((1, 1), (2, 2), (3, 4)):
        path = make(trailing, key("trail", stage), place)
        metadata = read_metadata(path)
        assert (metadata.epoch, metadata.rate, metadata.next_rate) == (epoch, 0.1, 0.1)
        assert metadata.update == 3 * epoch and batchnorm_path(path).is_file()
        for name, tensor in load_file(path).items():
            assert torch.allclose(tensor, weights[epoch - 1][name], atol=1e-6), name


def test_small_trail_matches_small_at_its_epochs(trailing, place):
    suite = trailing.model_copy(update={"arms": (*trailing.arms, "small", "small-trail")})
    weights = bare_loop(suite, place, [0.01] * 4)
    for stage, epoch in ((1, 1), (3, 4)):
        path = make(suite, key("small-trail", stage), place)
        assert (read_metadata(path).epoch, read_metadata(path).rate) == (epoch, 0.01)
        assert_close(load_file(path), weights[epoch - 1])


def test_trail_weights_survive_an_interruption(trailing, place, home):
    class Stops(Control):
        def progress(self, done, total, unit):
            if unit == "updates" and done == 5:
                self.stop()

    make(trailing, key("step", 0), place)
    with pytest.raises(InterruptedWork):
        make_snapshot(trailing, key("step", 1), place, Stops())
    interrupted = make(trailing, key("trail", 1), place).read_bytes()
    elsewhere = type(place)(workspace=type(place.workspace)(root=home / "elsewhere"), roots=place.roots)
    assert make(trailing, key("trail", 1), elsewhere).read_bytes() == interrupted


def test_trail_without_kept_weights_is_reported(tiny, trailing, place):
    make(trailing.model_copy(update={"arms": tiny.arms}), key("step", 1), place)
    with pytest.raises(InputError, match=r"the intermediate weights that arm trail needs when it trained .*stage1"):
        make_snapshot(trailing, key("trail", 1), place, Control())


def test_both_branches_see_the_same_batches(tiny, place, monkeypatch):
    seen = {}
    at = Batches.at

    def spy(self, update):
        images, labels = at(self, update)
        seen.setdefault(update, []).append((images.clone(), labels.clone()))
        return images, labels

    make(tiny, key("step", 1), place)
    monkeypatch.setattr(Batches, "at", spy)
    make(tiny, key("step", 2), place)
    make(tiny, key("hold", 2), place)
    # Stage 2 has two epochs of three updates, after three epochs.
    assert sorted(seen) == list(range(9, 15))
    for (images, labels), (others, theirs) in seen.values():
        assert torch.equal(images, others) and torch.equal(labels, theirs)


def test_snapshots_are_taken_at_boundaries(tiny, place):
    make(tiny, key("step", 3), place)
    expected = {0: (0, 0, None, 0.1), 1: (3, 9, 0.1, 0.01), 2: (5, 15, 0.01, 0.001), 3: (6, 18, 0.001, None)}
    for stage, wanted in expected.items():
        metadata = read_metadata(snapshot_path(place.workspace.checkpoints, "tiny", key("step", stage)))
        assert (metadata.epoch, metadata.update, metadata.rate, metadata.next_rate) == wanted
        assert metadata.source_accuracy is not None and set(metadata.source_report) == {
            "simple",
            "complex",
            "memorised",
        }
        assert metadata.source_fingerprint == load_task_data(load_task("tiny-source"), []).fingerprint


def test_shared_stages_are_made_once(tiny):
    names = [str(snapshot) for snapshot in snapshot_keys(tiny, seed=0)]
    assert len(names) == len(set(names)) == 9
    assert names.index("step/seed0/stage1") < names.index("hold/seed0/stage2") < names.index("constant/seed0/stage3")
    assert not any(name.startswith(("hold/seed0/stage1", "constant/seed0/stage2")) for name in names)


@pytest.mark.parametrize("updates", [0, 1, 4, 5])
def test_resume_is_bit_identical(tiny, place, home, updates):
    whole = make(tiny, key("hold", 2), place)
    expected = [whole.read_bytes(), batchnorm_path(whole).read_bytes(), whole.with_name("log.jsonl").read_bytes()]
    for path in [whole, batchnorm_path(whole), state_path(whole), whole.with_name("log.jsonl")]:
        path.unlink()
    if updates < 5:
        with pytest.raises(InterruptedWork, match="Run the same command again"):
            make_snapshot(tiny, key("hold", 2), place, StopsAfter(updates))
        assert progress_path(whole).is_file() and not whole.exists()
    make_snapshot(tiny, key("hold", 2), place, Control())
    resumed = [whole.read_bytes(), batchnorm_path(whole).read_bytes(), whole.with_name("log.jsonl").read_bytes()]
    assert resumed == expected
    assert not progress_path(whole).exists()
    # The mean for `average` survives the interruption too.
    make_snapshot(tiny, key("average", 2), place, Control())


@pytest.mark.parametrize("other", ["recipe", "fingerprint"])
def test_progress_of_another_recipe_or_source_is_ignored(tiny, place, other):
    whole = make(tiny, key("step", 2), place)
    expected = whole.read_bytes()
    whole.unlink()
    with pytest.raises(InterruptedWork):
        make_snapshot(tiny, key("step", 2), place, StopsAfter(2))
    content = load(progress_path(whole))
    content["weights"] = {name: torch.zeros_like(tensor) for name, tensor in content["weights"].items()}
    save(progress_path(whole), {**content, other: "another"})
    make_snapshot(tiny, key("step", 2), place, Control())
    assert whole.read_bytes() == expected


def test_damaged_progress_costs_only_time(tiny, place):
    whole = make(tiny, key("step", 2), place)
    expected = whole.read_bytes()
    whole.unlink()
    progress_path(whole).write_bytes(b"half a file")
    make_snapshot(tiny, key("step", 2), place, Control())
    assert whole.read_bytes() == expected


def test_log_has_one_line_per_epoch_and_no_times(tiny, place):
    path = make(tiny, key("step", 3), place)
    lines = [json.loads(line) for line in path.with_name("log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"], line["update"]) for line in lines] == [
        (1, 1, 3), (1, 2, 6), (1, 3, 9), (2, 4, 12), (2, 5, 15), (3, 6, 18),
    ]  # fmt: skip
    assert [line["learning_rate"] for line in lines] == [0.1] * 3 + [0.01] * 2 + [0.001]
    assert not any("time" in name or "second" in name for line in lines for name in line)


@pytest.mark.parametrize(("arm", "stage"), [("step", 1), ("average", 2)])
def test_batchnorm_statistics_are_of_the_boundary_weights(tiny, place, arm, stage):
    path = make(tiny, key(arm, stage), place)
    estimated, raw = load_file(batchnorm_path(path)), load_file(path)
    # The statistics of the first layer, computed by hand on the same sample: all 96 images, of which 64 are drawn.
    assert set(estimated) == {name for name in raw if name.endswith(("running_mean", "running_var"))}
    source = open_source(tiny.source, tiny.input, place.roots, False, place.workspace.cache, Control())
    model = create_model(tiny.model.architecture, tiny.model.arguments, classes=4)
    model.load_state_dict(raw)
    from lrbench.core.seeds import generator

    chosen = np.sort(generator(0, "batchnorm").permutation(96)[:64])
    normalise = InputNormalisation(tiny.input.mean, tiny.input.std, torch.device("cpu"))
    with torch.inference_mode():
        first = model.conv1[0](normalise(torch.from_numpy(source.train.evaluation(chosen).copy())))
    torch.testing.assert_close(estimated["conv1.1.running_mean"], first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(estimated["conv1.1.running_var"], first.var((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_non_finite_loss_names_update_rate_and_last_state(tiny, place, home, monkeypatch):
    make(tiny, key("step", 1), place)
    nan_loss_at(monkeypatch, 3)
    with pytest.raises(FailureError) as failed:
        make_snapshot(tiny, key("step", 2), place, Control())
    message = str(failed.value)
    assert "nan at update 12" in message and "learning rate 0.01" in message and "step/seed0/stage1" in message
    assert snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1)).is_file()
    assert not snapshot_path(place.workspace.checkpoints, "tiny", key("step", 2)).exists()


def test_parent_on_different_images_is_refused(tiny, place, home, tmp_path):
    make(tiny, key("step", 1), place)
    task = tmp_path / "tasks" / "tiny-source.toml"
    task.write_text(task.read_text().replace("train = 96", "train = 128"))
    open_source.cache_clear()
    with pytest.raises(InputError, match="pretrained on images or labels of tiny-source that differ"):
        make_snapshot(tiny, key("step", 2), place, Control())
    open_source.cache_clear()


def test_different_settings_under_one_name_are_refused(tiny, place):
    make(tiny, key("step", 1), place)
    other = load_suite("tiny.toml", ["schedule.weight_decay=0.1"])
    with pytest.raises(InputError, match=r"pretrained with other settings.*--set name=NAME"):
        make_snapshot(other, key("step", 1), place, Control())
    other = load_suite("tiny.toml", ["model.architecture=resnet34"])
    with pytest.raises(InputError, match="is a snapshot of resnet18, but suite tiny pretrains resnet34"):
        make_snapshot(other, key("step", 1), place, Control())


def test_failed_first_attempt_does_not_block_the_next(lrbench, home, tiny):
    suite = ("pretrain", "tiny.toml", "--set", "name=second")
    failed = lrbench(*suite, "--set", "schedule.batch=1000")
    assert failed.status == 2 and "fewer than one batch of 1000" in failed.err
    # A suite without snapshots is not the one pretrained last.
    assert "no suite was pretrained" in lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-objects").err
    assert lrbench(*suite, "--set", "schedule.epochs=6", "--arm", "constant", "--seed", "0").status == 0
    again = lrbench(*suite, "--set", "schedule.batch=16")
    assert again.status == 2 and "schedule.batch was 32 and is now 16" in again.err


def test_growing_batch_continues_from_the_boundary_at_the_same_rate(tiny, place):
    """Stage 2 with ten times the batch: the same epochs and order of images, gradients over whole batches."""
    schedule = tiny.schedule.model_copy(update={"batch": 4, "largest_batch": 40})
    suite = tiny.model_copy(update={"arms": (*tiny.arms, "grow"), "schedule": schedule})
    grown, plain = (find_segment(schedule, key(arm, 2)) for arm in ("grow", "step"))
    assert (grown.growth, grown.rate, plain.rate) == (10, 0.1, 0.01)
    assert find_segment(schedule, key("grow", 3)).growth == 10
    assert find_segment(schedule, key("grow", 3)).rate == pytest.approx(0.01)
    assert (grown.first_epoch, grown.last_epoch, grown.parent) == (plain.first_epoch, plain.last_epoch, plain.parent)
    path = make(suite, key("grow", 2), place)
    records = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    images = len(open_source(suite.source, suite.input, place.roots, False, None, Control()).train)
    assert [record["update"] for record in records] == [
        (epoch + 1) * (images // 40) for epoch in range(grown.first_epoch, grown.last_epoch)
    ]
    assert {record["learning_rate"] for record in records} == {0.1}
    # BatchNorm statistics stay those of the small batch.
    assert read_metadata(path).batchnorm_shared == 4
    children = make(suite, key("grow", 3), place)
    assert read_metadata(children).parent_sha256 == read_metadata(path).tensors_sha256


def test_rates_that_do_not_divide_leave_no_batch_to_grow_to(home):
    with pytest.raises(InputError, match=r"arm 'grow' enlarges the batch.*must be whole, not 3\.33333"):
        load_suite("tiny.toml", ['arms=["step", "grow"]', "schedule.rates=[0.1, 0.03, 0.001]"])
    with pytest.raises(InputError, match=r"largest_batch \(50\) must be a multiple of batch"):
        load_suite("tiny.toml", ["schedule.largest_batch=50"])
