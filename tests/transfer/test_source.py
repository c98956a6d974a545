"""Predictions of the source's test images: a result of every snapshot of a suite, apart from its transfers."""

import json
import shutil

import numpy as np
import pytest

from lrbench import load_predictions, load_results
from lrbench.config import load_suite, load_task
from lrbench.config.schedule import snapshot_keys
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from lrbench.jobs.plan import make_plan
from lrbench.leaderboard.gathering import gather
from lrbench.store.cells import TransferSettings, cell_path, cell_status, source_cell
from lrbench.store.references import SuiteSnapshot
from lrbench.store.results import read_result
from lrbench.store.snapshots import identity, read_metadata, snapshot_path
from tests.helpers import make_home, run_here
from tests.leaderboard.fake import put, put_source, rewrite

ONE = ["--set", "seeds=[0]", "--set", 'protocols=["knn"]', "--set", 'targets=["tiny-objects"]', "--workers", "1"]


@pytest.fixture
def suite(home):
    """The tiny suite with one seed, protocol and target."""
    return load_suite("tiny.toml", [value for value in ONE if "=" in value])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_snapshots):
    """A workspace in which the suite was run; tests use copies."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_home(tmp_path_factory.mktemp("finished"), monkeypatch)
        shutil.copytree(tiny_snapshots, root / "checkpoints" / "tiny")
        assert run_here(monkeypatch, "run", "tiny.toml", *ONE) == 0
    return root


@pytest.fixture
def done(home, finished):
    """Copy the finished workspace into the test's."""
    shutil.copytree(finished, home, dirs_exist_ok=True)


def records(place, suite):
    """Return the path of each snapshot's predictions of the source, and of the snapshot, by snapshot."""
    workspace, cell, task = place.workspace, source_cell(suite, 0), load_task(suite.source)
    paths = {}
    for key in snapshot_keys(suite):
        reference = SuiteSnapshot(suite=suite, key=key, checkpoints=workspace.checkpoints)
        paths[key] = (
            cell_path(workspace, reference, "", cell, task),
            snapshot_path(workspace.checkpoints, suite.name, key),
        )
    return paths


def test_predictions_give_the_recorded_source_accuracy(done, suite, place):
    labels = load_task_data(load_task(suite.source), []).splits["test"].labels
    paths = records(place, suite)
    assert len(paths) == 9
    for key, (record, snapshot) in paths.items():
        assert record.name == f"{key.arm}-seed0-stage{key.stage}.tiny-source.source.seed0.json"
        result, metadata = read_result(record), read_metadata(snapshot)
        predictions = load_predictions(record.relative_to(place.workspace.root), place.workspace.root)
        assert predictions.correct.mean() == pytest.approx(metadata.source_accuracy)
        assert predictions.label.tolist() == labels.tolist()
        assert result.metrics["top1"] == pytest.approx(metadata.source_accuracy)
        assert result.train_count == 96 and result.test_count == 40 and result.chosen == {}
    results = load_results(place.workspace.root)
    source = results[results.protocol == "source"]
    assert len(source) == 9 and np.allclose(source.top1, source.source_accuracy)


def test_evidence_has_source_predictions_by_row_and_seed(done, suite, place):
    (evidence,) = gather(place.workspace.results, suite)
    assert evidence.source_labels.shape == (40,) and evidence.source_correct.keys() == evidence.source.keys()
    assert len(evidence.source_correct) == 9
    for snapshot, correct in evidence.source_correct.items():
        assert correct.dtype == np.float32 and correct.mean() == pytest.approx(evidence.source[snapshot])
    # Cells of targets are counted apart.
    assert evidence.completed == evidence.expected == 9 and evidence.excluded == [] and evidence.other_columns == []


def test_source_predictions_are_computed_only_once(lrbench, done, suite, place):
    plan = make_plan(suite, place)
    assert len(plan.cells) == len(plan.source_cells) == 9 and plan.jobs() == []
    removed = next(iter(records(place, suite).values()))[0]
    removed.with_suffix(".parquet").unlink()
    (job,) = make_plan(suite, place).jobs()
    assert [cell.protocol for cell in job.cells] == ["source"]
    assert "; predictions of the source are missing for 1 snapshots" in lrbench("plan", "tiny.toml", *ONE[:-2]).out
    again = lrbench("run", "tiny.toml", *ONE)
    assert again.status == 0 and "images of tiny-source predicted" in again.err
    assert make_plan(suite, place).jobs() == []


def test_plan_counts_one_prediction_for_each_snapshot(lrbench, home):
    shown = lrbench("plan", "tiny.toml")
    assert "0 of 18 snapshots and 0 of 72 cells are done; predictions of the source are missing for 18" in shown.out
    record = json.loads(lrbench("plan", "tiny.toml", "--json").out)
    assert len(record["cells"]) == 72 and len(record["source"]) == 18
    assert not any(cell["done"] for cell in record["source"])


def test_damaged_source_predictions_are_refused(lrbench, done, suite, place):
    record = next(iter(records(place, suite).values()))[0]
    path = record.with_suffix(".parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="another hash"):
        load_predictions(record, place.workspace.root)
    (evidence,) = gather(place.workspace.results, suite)
    assert len(evidence.source_correct) == 8 and "another hash" in evidence.problems[0]
    assert sum(not cell.done for cell in make_plan(suite, place).source_cells) == 1


def test_other_images_of_the_source_are_refused(lrbench, pretrain_tiny, home, suite):
    pretrain_tiny()
    task = home.parent / "tasks" / "tiny-source.toml"
    task.write_text(task.read_text().replace("test = 40", "test = 44"))
    refused = lrbench("run", "tiny.toml", *ONE)
    assert refused.status == 2 and "was pretrained on images or labels of tiny-source that differ" in refused.err
    # Transfers do not need the source.
    assert (
        "9 of 9 snapshots and 9 of 9 cells are done; predictions of the source are missing for 9"
        in lrbench("plan", "tiny.toml", *ONE[:-2]).out
    )


def test_missing_source_does_not_prevent_transfers(lrbench, pretrain_tiny, suite, monkeypatch):
    from lrbench.data import loading

    check = loading.check_task_data

    def without_source(tasks, roots, **others):
        if any(task.name == "tiny-source" for task in tasks):
            raise InputError("there is no data of tiny-source.")
        check(tasks, roots, **others)

    pretrain_tiny()
    monkeypatch.setattr(loading, "check_task_data", without_source)
    shown = lrbench("run", "tiny.toml", *ONE)
    assert shown.status == 0 and "predictions of the source tiny-source are left out: there is no data" in shown.err
    results = load_results(suite=suite.name)
    assert len(results) == 9 and "source" not in set(results.protocol)


def test_partial_source_is_computed_once(done, suite, place):
    """A snapshot of partial data has partial results; computing them again would change nothing."""
    key, (record, snapshot) = next(iter(records(place, suite).items()))

    def mark(content):
        content["partial"] = content["task"]["partial"] = content["snapshot"]["source_partial"] = True

    rewrite(record, mark)
    reference = SuiteSnapshot(suite=suite, key=key, checkpoints=place.workspace.checkpoints)
    settings = TransferSettings.of(suite)
    status = cell_status(place, reference, source_cell(suite, 0), settings, sha256=identity(snapshot))
    assert status.is_done
    full, partial = gather(place.workspace.results, suite)
    assert len(full.source_correct) == 8 and len(partial.source_correct) == 1


def test_incomparable_source_predictions_are_excluded(place, tiny):
    workspace = place.workspace
    for stage in range(4):
        put(workspace, tiny, stage=stage)
        put_source(workspace, tiny, stage=stage)
    put_source(workspace, tiny, stage=2, snapshot={"sha256": "9" * 64})
    put_source(workspace, tiny, stage=3, task={"fingerprint": "b" * 64})
    (evidence,) = gather(workspace.results, tiny)
    assert set(evidence.source_correct) == {(("step", 0), 0), (("step", 1), 0)}
    reasons = [reason for _, reason in evidence.excluded]
    assert len(reasons) == 2
    assert any("different weights of this snapshot (99999999)" in reason for reason in reasons)
    assert any("different images or labels" in reason for reason in reasons)


def test_results_without_source_predictions_stay_readable(place, tiny):
    put(place.workspace, tiny)
    (evidence,) = gather(place.workspace.results, tiny)
    assert evidence.source_labels is None and evidence.source_correct == {} and evidence.source


def test_source_is_no_transfer_protocol(lrbench, home):
    with pytest.raises(InputError, match="'source' is not a transfer protocol; `lrbench run` computes it"):
        load_suite("tiny.toml", ['protocols=["probe", "source"]'])
    with pytest.raises(InputError, match="'source' is not a transfer protocol"):
        load_suite("tiny.toml", ['protocol_arms={source=["step"]}'])
    refused = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-source", "--protocol", "source")
    assert refused.status == 2 and "'source' is not a transfer protocol; `lrbench run SUITE` computes it" in refused.err
