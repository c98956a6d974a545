"""Changes between two runs of a suite: arms, seeds, images, missing locks, killed processes."""

import errno
import json
import tomllib

import pytest
import torch

from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.locks import locked
from lrbench.pretraining import segments
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.snapshots import progress_path, read_metadata, snapshot_path
from tests.helpers import one_paragraph
from tests.pretraining.helpers import StopsAfter, key, make, one_after_another, stop

TRAIL = '["step", "hold", "constant", "average", "trail"]'


def rewrite(task, *changes):
    text = task.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    task.write_text(text)


# More arms and seeds.


def test_arm_without_kept_weights_is_refused_before_work(lrbench, tiny, place):
    stage = make(tiny, key("step", 2), place)
    other = make(tiny, key("average", 2), place)
    assert read_metadata(stage.with_name("stage1.safetensors")).kept == {}
    for command in ("plan", "pretrain", "run"):
        refused = lrbench(command, "tiny.toml", "--set", f"arms={TRAIL}", "--set", "seeds=[0]")
        text = refused.err
        assert (
            refused.status == 2
            and one_paragraph(text)
            and "did not save the intermediate weights that arm trail needs when it trained step/seed0/stage1, " in text
            and "hold/seed0/stage2; trail was added after these runs" in text
        )
        assert "step/seed0/stage1.safetensors step/seed0/stage2.safetensors hold/seed0/stage2.safetensors" in text
        assert "average/seed0/stage2.safetensors) and run" in text and "--set name=tiny-2" in text
    assert stage.is_file() and other.is_file()


def test_header_lists_the_kept_epochs(lrbench, tiny, place):
    trailing = tiny.model_copy(
        update={
            "arms": (*tiny.arms, "trail", "late"),
            "schedule": tiny.schedule.model_copy(update={"trail": 6, "shift": 1}),
        }
    )
    kept = read_metadata(make(trailing, key("step", 1), place)).kept
    assert kept == {1: False, 2: False}
    assert read_metadata(make(trailing, key("hold", 2), place)).kept == {4: True}


def test_new_seed_on_different_images_is_refused(lrbench, tiny, place, home):
    make(tiny, key("step", 1), place)
    rewrite(home.parent / "tasks" / "tiny-source.toml", ("train = 96", "train = 128"))
    refused = lrbench("pretrain", "tiny.toml", "--seed", "1", "--arm", "step")
    assert refused.status == 2 and "was pretrained on images or labels of tiny-source that differ" in refused.err
    assert not snapshot_path(place.workspace.checkpoints, "tiny", key("step", 0, seed=1)).exists()


# Killed and concurrent processes.


def test_stale_progress_is_removed_with_its_snapshot(lrbench, tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.run_jobs", one_after_another)
    path = make(tiny, key("step", 1), place)
    path.unlink()
    stop(tiny, key("step", 1), place)
    left = progress_path(path).read_bytes()
    make_snapshot(tiny, key("step", 1), place, Control())
    progress_path(path).write_bytes(left)
    assert lrbench("pretrain", "tiny.toml", "--seed", "0", "--arm", "step").status == 0
    assert not progress_path(path).exists()


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("lrbench.core.locks.fcntl.flock", refuse)


def test_without_locks_partial_files_are_left_alone(tiny, place, no_locks):
    path = make(tiny, key("step", 0), place)
    theirs = path.with_name(".stage1.progress.pt.abc.part")
    theirs.write_bytes(b"half")
    make_snapshot(tiny, key("step", 1), place, Control())
    assert theirs.is_file()


def test_without_locks_processes_hold_leases(tiny, place, no_locks):
    path = snapshot_path(place.workspace.checkpoints, "tiny", key("step", 0))
    with locked(path, Control()) as has_lock:
        assert not has_lock and path.with_name(".stage0.safetensors.lease").is_file()
        with pytest.raises(InterruptedWork), locked(path, StopsAfter(0)):
            pass


def test_without_locks_a_concurrent_snapshot_is_kept(tiny, place, no_locks, monkeypatch):
    path = make(tiny, key("step", 1), place)
    content, state = path.read_bytes(), path.with_name("stage1.state.pt").read_bytes()
    aside = path.rename(path.with_name("aside"))
    scores = segments.Evaluator.scores

    def meanwhile(evaluator):
        # The other process gets slightly different weights, as on a GPU.
        if aside.is_file():
            aside.rename(path)
        return scores(evaluator)

    monkeypatch.setattr(segments.Evaluator, "scores", meanwhile)
    monkeypatch.setattr(segments, "write_snapshot", lambda *arguments: pytest.fail("written over"))
    assert make_snapshot(tiny, key("step", 1), place, Control()) == read_metadata(path)
    assert path.read_bytes() == content and path.with_name("stage1.state.pt").read_bytes() == state


def test_training_before_a_stop_is_timed(tiny, place):
    make(tiny, key("step", 0), place)
    stop(tiny, key("step", 1), place, updates=4)
    timings = snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1)).with_name("timings.jsonl")
    (record,) = [json.loads(line) for line in timings.read_text().splitlines()]
    assert record["updates"] >= 4 and record["seconds"] > 0


# Impossible settings, and values that only look wrong.


def test_batchnorm_statistics_of_one_image_are_refused(tiny, place):
    alone = tiny.model_copy(update={"training": tiny.training.model_copy(update={"micro_batch": 1})})
    with pytest.raises(InputError, match="BatchNorm statistics of one image, which has no variance"):
        make_snapshot(alone, key("step", 0), place, Control())


def test_micro_batch_that_does_not_divide_is_refused(tiny, place):
    uneven = tiny.model_copy(update={"training": tiny.training.model_copy(update={"micro_batch": 3})})
    with pytest.raises(InputError, match="is not a multiple"):
        make_snapshot(uneven, key("step", 0), place, Control())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("name=foreign", "'foreign' is the folder of imported snapshots"),
        ("name=tiny-details", "'tiny-details' ends like the details page of another suite"),
        ("batchnorm.images=1", "batchnorm.images"),
    ],
)
def test_impossible_suite_is_refused_at_once(lrbench, home, change, said):
    refused = lrbench("run", "tiny.toml", "--set", change)
    assert refused.status == 2 and one_paragraph(refused.err) and said in refused.err
    assert not (home / "checkpoints").exists()


def test_date_is_a_valid_name(lrbench, home):
    assert lrbench("plan", "tiny.toml", "--set", "name=2024-06-01", "--json").status == 0
    assert lrbench("pretrain", "tiny.toml", "--set", "name=2024-06-01", "--arm", "step", "--seed", "3").status == 2
    kept = tomllib.loads((home / "checkpoints" / "2024-06-01" / "suite.toml").read_text())
    assert kept["name"] == "2024-06-01"


def test_damaged_suite_next_to_results_is_rewritten(lrbench, tiny, place):
    from lrbench.store.suites import write_suite_with_results

    write_suite_with_results(place.workspace, tiny)
    path = place.workspace.results / "tiny" / "suite.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    write_suite_with_results(place.workspace, tiny)
    assert path.read_bytes() == whole


def test_error_of_two_processes_is_reported_once(tiny, place):
    from lrbench.core.distributed import ProcessGroup

    class Second(ProcessGroup):
        def run_on_main(self, work):
            return work()

    with pytest.raises(InputError, match="cannot be divided evenly") as refused:
        make_snapshot(
            tiny.model_copy(update={"schedule": tiny.schedule.model_copy(update={"batch": 33})}),
            key("step", 0), place, Control(), Second(rank=1, world_size=2),
        )  # fmt: skip
    assert refused.value.silent and refused.value.shared
    assert torch.get_num_threads() == 1
