"""Pretraining that is interrupted, damaged or out of memory at chosen moments."""

import errno
import importlib
import itertools
import json
import os
from contextlib import suppress
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import HashStore

from lrbench.config.pretraining import Schedule, Training
from lrbench.config.suite import Suite
from lrbench.core import distributed as ranks_module
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.models.devices import is_out_of_memory
from lrbench.models.networks import create_model, drops_at_random
from lrbench.pretraining import loop
from lrbench.pretraining import segments as segments_module
from lrbench.pretraining.recovery import Recovery
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.state import load, save
from lrbench.store.snapshots import batchnorm_path, progress_path, read_metadata, snapshot_path, state_path
from tests.helpers import Trap
from tests.pretraining.helpers import (
    NORMALISE,
    Greedy,
    OneBatch,
    StopsAfter,
    gradients,
    infinite_weights_after,
    key,
    make,
    network,
    train,
    trainer,
)


def log_stages(path):
    return [json.loads(line)["stage"] for line in path.with_name("log.jsonl").read_text().splitlines()]


def test_log_keeps_stages_made_out_of_order(tiny, place):
    make(tiny, key("step", 2), place)
    path = make(tiny, key("hold", 3), place)
    make_snapshot(tiny, key("hold", 2), place, Control())
    assert log_stages(path) == [2, 2, 3]


def test_functional_dropout_draws_by_update_number():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop_rate, self.inner = 0.5, network()

        def forward(self, images):
            return self.inner(nn.functional.dropout(images, self.drop_rate, self.training))

    def loss(state):
        torch.manual_seed(state)
        return gradients(Drops(), None)[1]

    assert loss(2) == loss(3)


@pytest.mark.parametrize(
    ("model", "drops"),
    [
        (lambda: create_model("resnet10t", {"drop_rate": 0.5}, classes=3), True),
        (lambda: create_model("resnet10t", {}, classes=3), False),
        (lambda: create_model("vit_tiny_patch16_224", {}, classes=3), False),
        (lambda: create_model("vit_tiny_patch16_224", {"drop_path_rate": 0.1}, classes=3), True),
        (lambda: nn.Sequential(nn.Dropout(0.1)), True),
    ],
)
def test_drops_at_random_detects_rates_above_zero(model, drops):
    assert drops_at_random(model()) is drops


def test_arms_from_a_kept_epoch_need_no_momentum(tiny, place):
    content = tiny.model_dump() | {"arms": ["step", "hold", "early", "late"], "seeds": [0]}
    content["schedule"] |= {"epochs": 7, "momentum": 0.0}
    suite = Suite.model_validate(content)
    for arm in ("early", "late"):
        assert read_metadata(make(suite, key(arm, 2), place)).stage == 2


def test_non_finite_final_weights_make_no_snapshot(tiny, place, monkeypatch):
    make(tiny, key("step", 0), place)
    infinite_weights_after(monkeypatch, 9)
    with pytest.raises(FailureError, match=r"weights of step/seed0/stage1 are not finite after update 9 \(conv1"):
        make_snapshot(tiny, key("step", 1), place, Control())
    assert not snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1)).exists()


def test_non_finite_weights_do_not_overwrite_good_ones(tiny, place, monkeypatch):
    make(tiny, key("step", 0), place)
    path = snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1))
    with pytest.raises(InterruptedWork):
        make_snapshot(tiny, key("step", 1), place, StopsAfter(3))
    good = progress_path(path).read_bytes()
    infinite_weights_after(monkeypatch, 2)
    with pytest.raises(FailureError, match="not finite after update"):
        make_snapshot(tiny, key("step", 1), place, StopsAfter(1))
    assert progress_path(path).read_bytes() == good


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_non_finite_loss_stops_training(tiny, place, monkeypatch, value):
    cross_entropy = nn.functional.cross_entropy
    make(tiny, key("step", 0), place)
    monkeypatch.setattr(nn.functional, "cross_entropy", lambda *given: cross_entropy(*given) + float(value))
    with pytest.raises(FailureError, match=f"became {value} at update 1 "):
        make_snapshot(tiny, key("step", 1), place, Control())


def test_initialisation_records_no_batchnorm_shared(tiny, place):
    assert read_metadata(make(tiny, key("step", 0), place)).batchnorm_shared is None


def test_every_flipped_bit_of_a_state_is_detected(tiny, place):
    path = state_path(make(tiny, key("step", 1), place))
    whole, content = path.read_bytes(), load(path)
    draw = np.random.default_rng(0)
    for position in draw.choice(len(whole), 60, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = load(path)
        except InputError as error:
            assert "is damaged" in str(error) or "has format" in str(error)
            continue
        # The other bits belong to the container and have no meaning.
        assert loaded.keys() == content.keys()
        for name, tensor in content["momentum"].items():
            assert torch.equal(loaded["momentum"][name], tensor)


def test_state_with_code_is_refused_and_not_run(tmp_path):
    trap = Trap(tmp_path / "was-run")
    save(tmp_path / "a.state.pt", {"update": 1, "momentum": {}, "trap": trap})
    with pytest.raises(InputError, match="is damaged: lrbench did not write this content"):
        load(tmp_path / "a.state.pt")
    assert not (tmp_path / "was-run").exists()


def test_failed_write_keeps_the_old_state(tmp_path):
    path = tmp_path / "stage1.progress.pt"
    save(path, {"update": 1})
    with (
        mock.patch("lrbench.core.files.os.replace", side_effect=OSError(errno.ENOSPC, "")),
        pytest.raises(FailureError, match="no space left"),
    ):
        save(path, {"update": 2})
    assert load(path)["update"] == 1 and list(tmp_path.iterdir()) == [path]


def test_snapshot_is_synced_last_after_its_other_files(tiny, place, monkeypatch):
    """The snapshot is written last; every file and its name are synced before the next file."""
    make(tiny, key("step", 1), place)
    events = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(
        "lrbench.core.files.os.replace", lambda source, target: events.append(target.name) or replace(source, target)
    )
    monkeypatch.setattr("lrbench.core.files.os.fsync", lambda handle: events.append("sync") or fsync(handle))
    make_snapshot(tiny, key("step", 2), place, Control())
    names = [event for event in events if event != "sync"]
    assert names[-4:] == ["log.jsonl", "stage2.state.pt", "stage2.bn.safetensors", "stage2.safetensors"]
    for position, event in enumerate(events):
        if event != "sync":
            assert events[position - 1] == events[position + 1] == "sync"


def test_partial_files_of_a_killed_process_are_removed(tiny, place):
    path = make(tiny, key("step", 1), place)
    other = path.with_name(".stage10.progress.pt.abcdefgh.part")
    for stale in (path.with_name(".stage2.progress.pt.abcdefgh.part"), other):
        stale.write_bytes(b"half")
    make_snapshot(tiny, key("step", 2), place, Control())
    assert [partial.name for partial in path.parent.glob(".*.part")] == [other.name]


@pytest.mark.parametrize(
    ("arm", "trunk"),
    [
        ("average", "hold"),
        ("step-average", "step"),
        ("tail-average", "hold"),
        ("step-tail-average", "step"),
        ("moving-average", "hold"),
    ],
)
@pytest.mark.parametrize("updates", [2, 4])
def test_mean_of_an_interrupted_stage_is_bit_identical(tiny, place, home, arm, trunk, updates):
    suite = tiny.model_copy(update={"arms": tuple(dict.fromkeys((*tiny.arms, arm)))})
    make(suite, key("step", 1), place)
    with pytest.raises(InterruptedWork):
        make_snapshot(suite, key(trunk, 2), place, StopsAfter(updates))
    interrupted = make(suite, key(arm, 2), place)
    elsewhere = type(place)(workspace=type(place.workspace)(root=home / "elsewhere"), roots=place.roots)
    whole = make(suite, key(arm, 2), elsewhere)
    assert interrupted.read_bytes() == whole.read_bytes()
    assert batchnorm_path(interrupted).read_bytes() == batchnorm_path(whole).read_bytes()


def test_progress_is_saved_by_time(tiny, place, monkeypatch):
    make(tiny, key("step", 0), place)
    clock = itertools.count(0, 50)
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    saved = []
    monkeypatch.setattr(segments_module._SegmentRun, "_save", lambda self, progress: saved.append(progress.update))
    make_snapshot(tiny, key("step", 1), place, Control())
    # Each reading of the clock adds 50 s, and a save reads it twice: 120 s pass in three updates.
    assert saved == [3, 6]


def test_failed_save_is_reported_at_stop_and_at_the_end(tiny, place, monkeypatch):
    make(tiny, key("step", 0), place)

    def full(self, progress):
        raise FailureError("the disk is full")

    monkeypatch.setattr(segments_module._SegmentRun, "_save", full)
    with pytest.raises(FailureError, match="the disk is full"):
        make_snapshot(tiny, key("step", 1), place, StopsAfter(2))
    # A failed save by time also stops the stage.
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    with pytest.raises(FailureError, match="the disk is full"):
        make_snapshot(tiny, key("step", 1), place, Control())


def test_nesterov_matches_torch():
    schedule = Schedule(epochs=2, boundaries=(1,), rates=(0.1, 0.01), batch=8, nesterov=True, weight_decay=0.0)
    batches = OneBatch(updates_per_epoch=3)
    images, mine, other = batches.images, network(), network()
    train(trainer(mine, schedule, batches))
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        theirs.zero_grad()
        nn.functional.cross_entropy(other(NORMALISE(images)), torch.arange(8) % 3).backward()
        theirs.step()
    for one, two in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


class Lonely(nn.Module):
    """A stand-in for DistributedDataParallel."""

    def __init__(self, model, **options):
        super().__init__()
        self.inner = model

    def forward(self, images):
        return self.inner(images)


def test_out_of_memory_with_several_processes_stops(monkeypatch):
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Lonely)
    with pytest.raises(FailureError, match=r"all processes must use the same size.*--set training.micro_batch=4"):
        gradients(Greedy(4), ranks=ranks_module.ProcessGroup(rank=0, world_size=2))


def test_advised_micro_batch_under_batchnorm_is_an_even_share():
    inner = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 3))
    with pytest.raises(FailureError, match=r"--set training.micro_batch=4\."):
        gradients(Greedy(5, inner), None)


def test_cpu_allocator_error_counts_as_out_of_memory():
    class Full(Greedy):
        def forward(self, images):
            if len(images) > self.room:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")
            return self.inner(images)

    assert gradients(Full(4))[3].recovery.micro_batch == 4


def test_out_of_memory_in_evaluation_is_one_paragraph(tiny, place, monkeypatch):
    def evaluate(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(segments_module.Evaluator, "scores", evaluate)
    with pytest.raises(
        FailureError, match=r"Out of memory on the cpu while making step/seed0/stage0: CUDA out of memory"
    ):
        make_snapshot(tiny, key("step", 0), place, Control())


@pytest.mark.parametrize(("updates", "compiled"), [(1999, False), (2000, True)])
def test_long_schedule_is_compiled_on_a_gpu(monkeypatch, updates, compiled):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append(options))
    Recovery(
        network(),
        Training(),
        torch.device("cuda"),
        ranks_module.SINGLE_PROCESS,
        micro_batch=None,
        updates=updates,
        say=print,
    )
    assert bool(asked) is compiled


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with (
        pytest.raises(InputError, match=r"4 processes were started on this machine, which has 2 GPUs.*at most 2"),
        ranks_module.init_process_group(),
    ):
        pass


@pytest.mark.parametrize(
    ("gpus", "error", "shared", "waits"),
    [
        (2, None, False, True),
        (2, FailureError("full"), True, True),
        (2, FailureError("full"), False, False),
        (2, ZeroDivisionError(), False, False),
        (0, ZeroDivisionError(), False, True),
    ],
)
def test_process_that_fails_alone_on_a_gpu_does_not_wait(monkeypatch, gpus, error, shared, waits):
    calls = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    module = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(module, "rendezvous", lambda *_, **__: iter([(HashStore(), 1, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda kind, **_: calls.append(kind))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("farewell"))
    threads = torch.get_num_threads()
    with suppress(FailureError, ZeroDivisionError), ranks_module.init_process_group() as ranks:
        if error is not None:
            raise ranks.mark_shared(error) if shared else error
    torch.set_num_threads(threads)
    assert calls == ["nccl" if gpus else "gloo", *(["farewell"] if waits else [])]


@pytest.mark.parametrize(
    ("message", "is_full"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True),
        ("CUDA error: out of memory", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_out_of_memory_errors_are_recognised(message, is_full):
    assert is_out_of_memory(RuntimeError(message)) is is_full


def test_task_is_opened_once_for_any_control(tiny, place):
    from lrbench.pretraining.source import open_source
    from lrbench.transfer.target import open_target

    for opened, name in ((open_source, tiny.source), (open_target, "tiny-objects")):
        opened.cache_clear()
        first, again = (
            opened(name, tiny.input, place.roots, False, place.workspace.cache, Control()) for _ in range(2)
        )
        assert first is again
        assert opened(name, tiny.input, place.roots, True, place.workspace.cache, Control()) is not first


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("batchnorm", {"images": 32}), ("schedule", {"weight_decay": 0.1}), ("schedule", {"momentum": 0.5}),
        ("schedule", {"augmentation": "none"}), ("input", {"crop_fraction": 0.5}), ("model", {"arguments": {}}),
    ],
)  # fmt: skip
def test_settings_that_change_training_change_the_recipe(tiny, section, change):
    from lrbench.store.suites import recipe

    content = tiny.model_dump()
    content[section] |= change
    assert recipe(Suite.model_validate(content)) != recipe(tiny)


def test_verify_detects_a_flipped_bit(lrbench, tiny, place):
    path = make(tiny, key("step", 0), place)
    assert lrbench("snapshots", "verify").status == 0
    for part in (path, batchnorm_path(path)):
        whole = part.read_bytes()
        part.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        outcome = lrbench("snapshots", "verify")
        assert outcome.status == 1 and f"{part} does not match the hash in {path.name}" in outcome.out
        part.write_bytes(whole)
    batchnorm_path(path).unlink()
    outcome = lrbench("snapshots", "verify")
    assert outcome.status == 1 and "stage0.bn.safetensors is missing" in outcome.out
    assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())
