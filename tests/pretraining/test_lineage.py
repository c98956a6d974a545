"""A snapshot continues only from the current weights of its parent."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError
from lrbench.pretraining.log import write_log
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.state import load, save
from lrbench.store.snapshots import (
    batchnorm_path,
    progress_path,
    read_metadata,
    snapshot_path,
    state_path,
    write_snapshot,
)
from tests.pretraining.helpers import Listens, infinite_weights_after, key, make, nan_loss_at, one_after_another, stop


def remake(path):
    """Give a stage different weights with a matching state, as if retrained on another machine."""
    weights = {
        name: tensor * 1.25 if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
    }
    write_snapshot(path, weights, read_metadata(path), load_file(batchnorm_path(path)))
    save(state_path(path), load(state_path(path)) | {"tensors_sha256": read_metadata(path).tensors_sha256})


def test_snapshot_records_its_parent_and_its_hash(tiny, place):
    assert read_metadata(make(tiny, key("step", 0), place)).parent is None
    for child, parent in ((("step", 1), ("step", 0)), (("hold", 2), ("step", 1)), (("average", 2), ("hold", 2))):
        metadata = read_metadata(make(tiny, key(*child), place))
        before = read_metadata(snapshot_path(place.workspace.checkpoints, "tiny", key(*parent)))
        assert (metadata.parent, metadata.parent_sha256) == (str(key(*parent)), before.tensors_sha256)


def test_stage_of_a_retrained_parent_is_refused(lrbench, tiny, place):
    for snapshot in (("step", 3), ("average", 2)):
        make(tiny, key(*snapshot), place)
    parent = make(tiny, key("step", 1), place)
    assert lrbench("snapshots", "verify").status == 0
    remake(parent)
    child = parent.with_name("stage2.safetensors")
    with pytest.raises(InputError, match=r"computed from earlier weights of .*stage1.safetensors") as refused:
        make_snapshot(tiny, key("step", 2), place, Control())
    # All affected snapshots are listed at once, with their descendants.
    folder, former = parent.parents[2], "step/seed0/stage2 step/seed0/stage3 hold/seed0/stage2 average/seed0/stage2"
    listed = " ".join(f"{name}.safetensors" for name in former.split())
    assert f"computed from the earlier weights (`lrbench snapshots remove`; in {folder}: {listed})" in str(
        refused.value
    )
    for command in (("plan", "tiny.toml"), ("pretrain", "tiny.toml", "--seed", "0")):
        outcome = lrbench(*command)
        assert outcome.status == 2 and "computed from earlier weights" in outcome.err and child.is_file()
    verified = lrbench("snapshots", "verify")
    assert verified.status == 1 and verified.out.count("computed from earlier weights of") == 2
    # After deleting them as advised, everything comes from one run again.
    for name in listed.split():
        folder.joinpath(name).unlink()
    assert lrbench("pretrain", "tiny.toml", "--seed", "0").status == 0
    assert lrbench("snapshots", "verify").status == 0


def test_restoring_the_earlier_parent_is_enough(lrbench, tiny, place):
    make(tiny, key("step", 2), place)
    parent = make(tiny, key("step", 1), place)
    files = {
        name: parent.with_name(name) for name in ("stage1.safetensors", "stage1.bn.safetensors", "stage1.state.pt")
    }
    former = {name: path.read_bytes() for name, path in files.items()}
    remake(parent)
    with pytest.raises(InputError, match="restore the earlier stage1 with all of its files") as refused:
        make_snapshot(tiny, key("step", 2), place, Control())
    assert f"({', '.join(files)})" in str(refused.value)
    for name, path in files.items():
        path.write_bytes(former[name])
    assert lrbench("pretrain", "tiny.toml", "--seed", "0").status == 0


def test_retraining_a_parent_with_other_weights_fails(lrbench, tiny, place, monkeypatch):
    """Retrain with slightly different results, as on another machine."""
    from lrbench.pretraining import segments

    make(tiny, key("step", 2), place)
    parent = make(tiny, key("step", 1), place)
    parent.unlink()

    def otherwise(path, *arguments):
        write_snapshot(path, *arguments)
        if path == parent:
            remake(path)

    monkeypatch.setattr(segments, "write_snapshot", otherwise)
    monkeypatch.setattr("lrbench.jobs.local.run_jobs", one_after_another)
    outcome = lrbench("pretrain", "tiny.toml", "--seed", "0", "--arm", "step")
    assert (
        outcome.status == 2
        and f"{parent.with_name('stage2.safetensors')} was computed from earlier weights" in outcome.err
    )


def test_snapshot_under_a_wrong_name_is_refused(lrbench, tiny, place):
    path = make(tiny, key("hold", 2), place)
    other = make(tiny, key("step", 2), place)
    for part in (path, batchnorm_path(path)):
        other.with_name(part.name).write_bytes(part.read_bytes())
    outcome = lrbench("plan", "tiny.toml")
    message = f"{other} should be step/seed0/stage2, but its header says hold/0/2 (arm, seed, stage)"
    assert outcome.status == 2 and message in outcome.err


def test_parent_without_a_hash_refuses_no_child(tiny, place):
    """Older versions of lrbench wrote no hash."""
    from lrbench.store.snapshots import encode

    make(tiny, key("step", 2), place)
    parent = make(tiny, key("step", 1), place)
    record = read_metadata(parent).model_dump(mode="json") | {"tensors_sha256": None}
    parent.write_bytes(encode(load_file(parent), record))
    make_snapshot(tiny, key("step", 2), place, Control())


def test_snapshot_outside_its_suite_needs_no_parent(lrbench, tiny, place, home):
    path = make(tiny, key("step", 2), place)
    away = path.parents[2] / "kept" / "before" / "stage2.safetensors"
    away.parent.mkdir(parents=True)
    for part in (path, batchnorm_path(path)):
        (away.parent / part.name).write_bytes(part.read_bytes())
    remake(make(tiny, key("step", 1), place))
    assert lrbench("snapshots", "verify", str(away)).status == 0
    path.with_name("stage1.safetensors").unlink()
    assert lrbench("snapshots", "verify", path).status == 0


def test_state_of_other_weights_is_refused(tiny, place):
    path = make(tiny, key("step", 1), place)
    content = load(state_path(path))
    remake(path)
    save(state_path(path), content)
    with pytest.raises(InputError, match=r"stage1.state.pt belongs to different weights than stage1.safetensors"):
        make_snapshot(tiny, key("step", 2), place, Control())


@pytest.mark.parametrize("wrong", ["update", "momentum"])
def test_incomplete_state_is_reported_with_a_remedy(tiny, place, wrong):
    path = make(tiny, key("step", 1), place)
    content = load(state_path(path))
    content.pop("update") if wrong == "update" else content["momentum"].update({"conv1.0.weight": torch.zeros(1)})
    save(state_path(path), content)
    message = r"stage1.state.pt is damaged: it does not fit this network. Delete .*stage1.safetensors"
    with pytest.raises(InputError, match=message):
        make_snapshot(tiny, key("step", 2), place, Control())


def test_progress_from_other_weights_is_discarded(tiny, place, home):
    remade = make(tiny, key("step", 1), place)
    stop(tiny, key("step", 2), place)
    remake(remade)
    control = Listens()
    make_snapshot(tiny, key("step", 2), place, control)
    assert "stage2.progress.pt started from weights that step/seed0/stage1 no longer has" in control.told[0]
    path = remade.with_name("stage2.safetensors")
    before = path.read_bytes()
    path.unlink()
    make_snapshot(tiny, key("step", 2), place, Control())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("weights"),
        lambda content: content.pop("recipe"),
        lambda content: content["weights"].pop("conv1.0.weight"),
        lambda content: content["weights"].update({"conv1.0.weight": torch.zeros(2)}),
        lambda content: content["momentum"].update({"conv1.0.weight": torch.zeros(2)}),
        lambda content: content.update(momentum=[]),
    ],
)
def test_incomplete_progress_costs_only_time(tiny, place, damage):
    path = make(tiny, key("step", 2), place)
    expected = path.read_bytes()
    path.unlink()
    stop(tiny, key("step", 2), place)
    content = load(progress_path(path))
    damage(content)
    save(progress_path(path), content)
    control = Listens()
    make_snapshot(tiny, key("step", 2), place, control)
    assert (
        path.read_bytes() == expected and "is damaged. step/seed0/stage2 starts again from its last" in control.told[0]
    )


@pytest.mark.parametrize(("arm", "stage", "schedule"), [("trail", 1, {"trail": 6}), ("early", 1, {})])
def test_arm_added_mid_stage_gets_what_it_needs(tiny, place, home, arm, stage, schedule):
    more = tiny.model_copy(update={"arms": (*tiny.arms, arm)})
    if schedule:
        more = more.model_copy(update={"schedule": tiny.schedule.model_copy(update=schedule)})
    fewer = more.model_copy(update={"arms": tiny.arms})
    make(fewer, key("step", 0), place)
    stop(fewer, key("step", 1), place, updates=7)
    control = Listens()
    snapshot = make(more, key(arm, stage), place, control)
    assert "lacks the state of epoch" in control.told[0] and "starts again from its last boundary" in control.told[0]
    elsewhere = type(place)(workspace=type(place.workspace)(root=home / "elsewhere"), roots=place.roots)
    assert make(more, key(arm, stage), elsewhere).read_bytes() == snapshot.read_bytes()


def test_arm_added_before_its_epoch_costs_nothing(tiny, place):
    trailing = tiny.model_copy(
        update={"arms": (*tiny.arms, "trail"), "schedule": tiny.schedule.model_copy(update={"trail": 6})}
    )
    fewer = trailing.model_copy(update={"arms": tiny.arms})
    make(fewer, key("step", 0), place)
    stop(fewer, key("step", 1), place, updates=1)
    control = Listens()
    make(trailing, key("trail", 1), place, control)
    assert control.told == []


def test_last_good_state_is_the_saved_one(tiny, place, monkeypatch):
    make(tiny, key("step", 0), place)
    stop(tiny, key("step", 1), place, updates=3)
    infinite_weights_after(monkeypatch, 3)
    with pytest.raises(FailureError, match=r"The last good state is that of update 4, which is saved; finished"):
        make_snapshot(tiny, key("step", 1), place, Control())


def test_save_in_flight_counts_when_the_loss_breaks(tiny, place, monkeypatch):
    from lrbench.pretraining import loop, segments

    make(tiny, key("step", 0), place)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(segments, "save", lambda *arguments: (time.sleep(0.3), save(*arguments)))
    nan_loss_at(monkeypatch, 5)
    with pytest.raises(
        FailureError, match=r"nan at update 5 .*The last good state is that of update 4, which is saved"
    ):
        make_snapshot(tiny, key("step", 1), place, Control())


def test_damaged_log_is_backed_up_and_training_continues(tiny, place):
    make(tiny, key("step", 2), place)
    log = snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1)).with_name("log.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole[:-40] + b"\n{}\n\xff\n")
    control = Listens()
    make_snapshot(tiny, key("step", 3), place, control)
    assert control.told[0].startswith(f"Skipped 3 damaged lines of {log}") and len(control.told) == 1
    aside = log.with_name("log.damaged.jsonl")
    assert aside.read_bytes() == whole[:-40] + b"\n{}\n\xff\n"
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 6]


def test_damaged_log_has_a_copy_at_every_moment(tmp_path, monkeypatch):
    from lrbench.pretraining import log as module

    path, good = tmp_path / "log.jsonl", {"stage": 1, "update": 5}
    write_log(tmp_path / "stage1.safetensors", 1, [good], print)
    for damage in (b"first\n", b"second\n"):
        path.write_bytes(path.read_bytes() + damage)
        with monkeypatch.context() as full:
            full.setattr(module, "write_text", lambda *arguments: (_ for _ in ()).throw(OSError("no space left")))
            with pytest.raises(OSError, match="no space"):
                write_log(tmp_path / "stage2.safetensors", 2, [{"stage": 2, "update": 9}], print)
        assert json.loads(path.read_bytes().splitlines()[0]) == good
        write_log(tmp_path / "stage2.safetensors", 2, [{"stage": 2, "update": 9}], print)
        assert [json.loads(line)["stage"] for line in path.read_bytes().splitlines()] == [1, 2]
    kept = [damaged.read_bytes().splitlines()[-1] for damaged in sorted(tmp_path.glob("log.damaged*"))]
    assert sorted(kept) == [b"first", b"first", b"second", b"second"]


def test_concurrent_log_writes_lose_nothing(tmp_path, monkeypatch):
    """The second reads the log only after the first has written it."""
    from threading import Event, Thread

    from lrbench.pretraining import log as module

    read, reading, go_on = module._read, Event(), Event()

    def slowly(path, say):
        records = read(path, say)
        reading.set()
        go_on.wait(0.5)
        return records

    monkeypatch.setattr(module, "_read", slowly)
    threads = [
        Thread(
            target=write_log,
            args=(tmp_path / f"stage{stage}.safetensors", stage, [{"stage": stage, "update": stage}], print),
        )
        for stage in (1, 2)
    ]
    threads[0].start()
    reading.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["stage"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_leftovers_of_a_killed_process_are_removed(tiny, place):
    path = make(tiny, key("step", 1), place)
    left = [
        path.with_name(name) for name in (".log.jsonl.x1.part", ".stage1.safetensors.x1.part", "stage1.progress.pt")
    ]
    for leftover in left:
        leftover.write_bytes(b"half")
    make_snapshot(tiny, key("step", 1), place, Control())
    assert not any(leftover.exists() for leftover in left) and path.is_file()
