"""Which results a merge adds: none twice, none of another run, and none that becomes confirmatory by it."""

import shutil

import pytest

from lrbench.leaderboard import registration as registrations
from lrbench.leaderboard.registration import read_registration, register
from lrbench.store.results import load_result
from lrbench.store.suites import write_effective
from tests.leaderboard.fake import put, put_registered, rewrite
from tests.sharing.collections import CELL, TASKS


def cells(workspace, suite):
    return sorted(path.stem for path in (workspace.results / suite).glob("*.parquet"))


def push(lrbench, workspace, folder):
    """Send the workspace's results to a folder and remove them."""
    assert lrbench("results", "push", folder, *TASKS).status == 0
    shutil.rmtree(workspace.results)


def test_result_under_a_second_name_is_not_added_again(lrbench, place, sent):
    lrbench("results", "merge", sent, "--name", "alice")
    done = lrbench("results", "merge", sent, "--name", "copy of alice")
    assert "already in this workspace: 2 results" in done.out and len(cells(place.workspace, "foreign")) == 2


@pytest.mark.parametrize("option", [(), ("--trusted",)])
def test_lost_predictions_are_restored(lrbench, place, sent, option):
    lrbench("results", "merge", sent, *option)
    path = next(place.workspace.results.rglob("*.parquet"))
    content = path.read_bytes()
    path.unlink()
    assert lrbench("results", "merge", sent, *option).status == 0 and path.read_bytes() == content


def test_results_received_from_others_stay_behind(lrbench, place, sent):
    origin = {"name": "a", "suite": "tiny", "reference": "b", "record_sha256": "c"}
    rewrite(sent / "results" / "tiny" / f"{CELL}.json", lambda record: record.update(origin=origin))
    done = lrbench("results", "merge", sent, "--trusted")
    assert "left out 1 result that the collection received from others" in done.out
    assert CELL not in cells(place.workspace, "tiny")


def test_run_with_two_weights_of_a_snapshot_is_left_out(lrbench, place, tiny, tmp_path):
    put(place.workspace, tiny)
    put(place.workspace, tiny, target="tiny-indoor", snapshot={"sha256": "b" * 64})
    push(lrbench, place.workspace, tmp_path / "mixed")
    put(place.workspace, tiny, protocol="knn")
    done = lrbench("results", "merge", tmp_path / "mixed", "--trusted")
    assert "left out 2 results of tiny, seed 0" in done.out and len(cells(place.workspace, "tiny")) == 1


@pytest.mark.parametrize("batch", [None, 16])
def test_results_of_other_snapshots_are_left_out(lrbench, place, tiny, sent, batch):
    own = (
        tiny
        if batch is None
        else tiny.model_copy(update={"schedule": tiny.schedule.model_copy(update={"batch": batch})})
    )
    write_effective(place.workspace, own)
    snapshot = place.workspace.checkpoints / "tiny" / "step" / "seed0" / "stage1.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(b"weights of this workspace")
    done = lrbench("results", "merge", sent, "--trusted")
    reason = "seed 0, of which this workspace has a different run" if batch is None else "pretraining settings differ"
    assert reason in done.out and not place.workspace.results.exists()


def test_merge_does_not_make_results_confirmatory(lrbench, place, tiny, tmp_path, monkeypatch):
    put_registered(place.workspace, tiny, seed=1)
    push(lrbench, place.workspace, tmp_path / "other")
    monkeypatch.setattr(registrations, "utc_now", lambda: "2026-11-29T00:00:00Z")
    register(place.workspace, tiny)
    done = lrbench("results", "merge", tmp_path / "other", "--trusted")
    assert "left out 1 result of tiny, exploratory in the collection" in done.out
    # The same registration on both sides.
    shutil.copytree(place.workspace.registrations, tmp_path / "other" / "registrations")
    assert "added 1 result to tiny" in lrbench("results", "merge", tmp_path / "other", "--trusted").out


def test_registration_is_taken_before_the_first_result_only(lrbench, place, tiny, tmp_path):
    register(place.workspace, tiny)
    put(place.workspace, tiny, seed=1)
    push(lrbench, place.workspace, tmp_path / "other")
    registered = place.workspace.registrations / "tiny.json"
    content = registered.read_bytes()
    registered.unlink()
    put(place.workspace, tiny)
    done = lrbench("results", "merge", tmp_path / "other", "--trusted")
    assert "registration of tiny was not taken" in done.err
    assert read_registration(place.workspace.leaderboard, "tiny") is None
    shutil.rmtree(place.workspace.results)
    lrbench("results", "merge", tmp_path / "other", "--trusted")
    assert registered.read_bytes() == content


def test_seeds_that_the_suite_does_not_have_are_named(lrbench, place, tiny, tmp_path):
    put(place.workspace, tiny.model_copy(update={"seeds": (7,)}), seed=7)
    push(lrbench, place.workspace, tmp_path / "other")
    put(place.workspace, tiny)
    done = lrbench("results", "merge", tmp_path / "other", "--trusted")
    assert "added 1 result to tiny" in done.out and "leave out its seeds 7" in done.err


def test_nothing_is_written_without_a_usable_result(lrbench, sent, tmp_path):
    for path in (sent / "results" / "tiny").glob("*.json"):
        path.write_text("{")
    done = lrbench("results", "fetch", sent, tmp_path / "theirs")
    assert done.status == 1 and "no result of" in done.err and not (tmp_path / "theirs").exists()


def test_folder_above_is_shown_by_its_name(lrbench, place, sent, monkeypatch):
    monkeypatch.chdir(sent / "results")
    monkeypatch.setenv("LRBENCH_HOME", str(place.workspace.root))
    assert lrbench("results", "merge", "..").status == 0
    paths = (place.workspace.results / "foreign").glob("*.json")
    assert {load_result(path, "foreign").result.origin.name for path in paths} == {"sent"}


def test_workspace_may_have_other_results(lrbench, place, sent, tmp_path):
    (tmp_path / "workspace" / "results" / "logs").mkdir(parents=True)
    sent.rename(tmp_path / "workspace" / "leaderboard")
    assert "added 2 results" in lrbench("results", "merge", tmp_path / "workspace").out
