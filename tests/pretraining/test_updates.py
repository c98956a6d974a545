"""Single updates: micro-batches, out-of-memory recovery, compilation, precision, and shared BatchNorm statistics."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lrbench.config.loading import validate
from lrbench.config.pretraining import Training
from lrbench.config.suite import Suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.setup import arithmetic
from lrbench.store.snapshots import read_metadata, snapshot_path
from tests.pretraining.helpers import Greedy, Listens, assert_close, bare_loop, gradients, key, make, network


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8, 100])
def test_micro_batches_give_the_gradient_of_the_batch(micro_batch):
    whole, loss, correct, _ = gradients(network(), None)
    pieces, theirs, hits, _ = gradients(network(), micro_batch)
    assert theirs == pytest.approx(loss, rel=1e-6) and hits == correct
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-7)


def test_out_of_memory_halves_the_micro_batch():
    messages = []
    halved, loss, _, going = gradients(Greedy(2), None, say=messages.append)
    whole, expected, _, _ = gradients(network(), None)
    assert going.recovery.micro_batch == 2 and loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(halved[f"inner.{name}"], gradient, rtol=1e-5, atol=1e-7)
    assert messages == [
        "Out of memory with 8 images per micro-batch; using 4, which gives the same updates.",
        "Out of memory with 4 images per micro-batch; using 2, which gives the same updates.",
    ]


@pytest.mark.parametrize(
    ("layer", "room", "why"),
    [
        (nn.BatchNorm1d(48), 4, "BatchNorm statistics would change"),
        (nn.Dropout(0.5), 4, "random dropping would change"),
        (nn.Identity(), 0, "one image is the smallest micro-batch"),
    ],
)
def test_out_of_memory_stops_where_training_would_change(layer, room, why):
    inner = nn.Sequential(nn.Flatten(), layer, nn.Linear(48, 3))
    with pytest.raises(FailureError, match=f"{why}.*--set training.micro_batch="):
        gradients(Greedy(room, inner), None)


@pytest.fixture
def no_cublas_setting(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_deterministic_gpu_sets_cublas(no_cublas_setting):
    with arithmetic(torch.device("cuda"), deterministic=False):
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ and torch.backends.cudnn.benchmark
    with arithmetic(torch.device("cuda"), deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark


def test_cublas_is_set_before_any_worker_starts(lrbench, no_cublas_setting, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lrbench.jobs.local.run_jobs", lambda *_, **__: asked.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
    )
    lrbench("pretrain", "tiny.toml", "--set", "training.deterministic=true", "--set", "name=same")
    assert asked == [":4096:8"]


@pytest.mark.parametrize("kind", [RuntimeError, Exception])
def test_network_that_does_not_compile_is_trained_without(monkeypatch, kind):
    messages = []

    def broken(*arguments, **others):
        raise kind("Failed to find C compiler.\nPlease specify via CC environment variable.")

    def compile_broken(self, **options):
        self._compiled_call_impl = broken

    monkeypatch.setattr(nn.Module, "compile", compile_broken)
    uncompiled, loss, _, _ = gradients(network(), None, training=Training(compile=True), say=messages.append)
    whole, expected, _, _ = gradients(network(), None)
    assert loss == expected and all(torch.equal(uncompiled[name], whole[name]) for name in whole)
    assert messages == [
        "Training continues without compilation, which failed: Failed to find C compiler.",
    ]


def test_error_of_the_network_is_not_taken_for_the_compiler():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        gradients(nn.Sequential(nn.Flatten(), nn.Linear(47, 3)), None)


def test_dropout_layers_draw_by_update_number():
    def loss(state):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), network()[1])
        # Earlier draws must not matter.
        torch.manual_seed(state)
        return gradients(model, None)[1]

    assert loss(2) == loss(3)


def test_bfloat16_is_close_and_stores_float32(tiny, place):
    half = Suite.model_validate(tiny.model_dump() | {"name": "half", "training": {"precision": "bfloat16"}})
    one, other = make(tiny, key("step", 1), place), make(half, key("step", 1), place)
    mine, theirs = (
        [json.loads(line)["loss"] for line in path.with_name("log.jsonl").read_text().splitlines()]
        for path in (one, other)
    )
    assert mine != theirs and mine == pytest.approx(theirs, rel=0.05)
    assert read_metadata(one).recipe != read_metadata(other).recipe
    assert {tensor.dtype for tensor in load_file(other).values()} == {torch.float32, torch.int64}


def test_bfloat16_resume_is_bit_identical(tiny, place, home):
    class Stops(Control):
        def progress(self, done, total, unit):
            if unit == "updates" and done == 4:
                self.stop()

    half = Suite.model_validate(tiny.model_dump() | {"training": {"precision": "bfloat16"}})
    whole = make(half, key("step", 1), place).read_bytes()
    elsewhere = type(place)(workspace=type(place.workspace)(root=home / "elsewhere"), roots=place.roots)
    make(half, key("step", 0), elsewhere)
    with pytest.raises(InterruptedWork):
        make_snapshot(half, key("step", 1), elsewhere, Stops())
    assert make(half, key("step", 1), elsewhere).read_bytes() == whole


def test_machine_settings_do_not_change_the_recipe(tiny, place):
    path = make(tiny, key("step", 0), place)
    content = tiny.model_dump() | {"training": {"micro_batch": 16, "compile": False, "deterministic": True}}
    assert make(Suite.model_validate(content), key("step", 0), place) == path


def test_batchnorm_shared_is_recorded_and_continued(tiny, place):
    pieces = Suite.model_validate(tiny.model_dump() | {"training": {"micro_batch": 8}})
    path = make(pieces, key("step", 1), place)
    assert read_metadata(path).batchnorm_shared == 8
    plain = Suite.model_validate(tiny.model_dump() | {"name": "plain"})
    assert read_metadata(make(plain, key("step", 1), place)).batchnorm_shared == 32
    # Without training.micro_batch, training continues with the recorded number.
    make(tiny, key("hold", 2), place)
    assert read_metadata(snapshot_path(place.workspace.checkpoints, "tiny", key("hold", 2))).batchnorm_shared == 8


def test_change_of_batchnorm_shared_is_reported(tiny, place):
    make(tiny, key("step", 1), place)
    control = Listens()
    told = Suite.model_validate(tiny.model_dump() | {"training": {"micro_batch": 16}})
    make_snapshot(told, key("step", 2), place, control)
    assert "changes the images that share BatchNorm statistics from 32 to 16" in control.told[0]
    assert read_metadata(snapshot_path(place.workspace.checkpoints, "tiny", key("step", 2))).batchnorm_shared == 16
    with pytest.raises(InputError, match=r"micro-batches of 12 images, as training.micro_batch says.*not a multiple"):
        make_snapshot(
            Suite.model_validate(tiny.model_dump() | {"training": {"micro_batch": 12}}),
            key("hold", 2),
            place,
            Control(),
        )


def test_full_batch_in_pieces_is_gradient_descent(tiny, place):
    def suite(batch, **training):
        content = tiny.model_dump()
        model = content["model"] | {"arguments": content["model"]["arguments"] | {"norm_layer": "groupnorm1"}}
        schedule = content["schedule"] | {"batch": batch}
        return Suite.model_validate(content | {"model": model, "schedule": schedule, "training": training})

    # The source has 96 images, so that the last piece is smaller.
    path = make(suite("all", micro_batch=40), key("step", 2), place)
    assert_close(load_file(path), bare_loop(suite(96), place, [0.1] * 3 + [0.01] * 2)[-1])
    assert (read_metadata(path).update, read_metadata(path).batchnorm_shared) == (5, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["step", "grow"]}, "'grow' enlarges the batch, which has all images already"),
        ({"schedule": {"largest_batch": 64}}, r"largest_batch \(64\) must be a multiple of batch \(all\)"),
        ({"schedule": {"batch": "most"}}, r"schedule\.batch"),
    ],
)
def test_settings_that_need_a_number_are_refused(tiny, tmp_path, changes, message):
    content = tiny.model_dump()
    content["schedule"] |= {"batch": "all"} | changes.get("schedule", {})
    with pytest.raises(InputError, match=message):
        validate(Suite, content | {"arms": changes.get("arms", ["step"])}, tmp_path / "suite.toml")
