"""Predictions of a source's wrongly labelled images and of conflicting evidence, for suites that ask for them."""

import numpy as np
import pytest

from lrbench import load_predictions
from lrbench.config import load_suite, load_task
from lrbench.config.schedule import snapshot_keys
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_json
from lrbench.data.loading import load_task_data
from lrbench.jobs.plan import make_plan
from lrbench.leaderboard.gathering import gather
from lrbench.store.results import read_result
from lrbench.store.snapshots import read_metadata, snapshot_path
from lrbench.transfer.source import select_hits
from tests.leaderboard.fake import put

ONE = ["seeds=[0]", 'protocols=["knn"]', 'targets=["tiny-objects"]', 'arms=["step"]', "source_hits=true"]


def test_hits_give_the_memorised_share_of_the_header(home, place):
    suite = load_suite("tiny.toml", ONE)
    for job in make_plan(suite, place).jobs():
        job.run(suite, place, Control())
    train = load_task_data(load_task(suite.source), []).splits["train"]
    wrong = np.flatnonzero(train.annotations["wrong"])
    (evidence,) = gather(place.workspace.results, suite)
    assert evidence.excluded == [] and evidence.other_columns == [] and evidence.completed == evidence.expected
    for key in snapshot_keys(suite):
        record = place.workspace.results / "tiny" / f"step-seed0-stage{key.stage}.tiny-source.source-hits.seed0.json"
        result, predictions = read_result(record), load_predictions(record, place.workspace.root)
        assert result.diagnostics["hits"] == {"wrong": len(wrong), "right": len(wrong), "conflict": 0}
        positions = [train.ids.index(image) for image in predictions.image]
        assert positions[: len(wrong)] == wrong.tolist() and len(set(positions)) == 2 * len(wrong)
        assert predictions.label.tolist() == train.labels[positions].tolist()
        report = read_metadata(snapshot_path(place.workspace.checkpoints, "tiny", key)).source_report
        hits = evidence.select_hits("wrong", [(key.arm, key.stage)])
        assert hits.correct.mean() == pytest.approx(report["memorised"])
        clean = evidence.select_hits("right", [(key.arm, key.stage)])
        assert clean.correct.ravel().tolist() == predictions.correct[len(wrong) :].tolist()
    assert evidence.select_hits("conflict", [("step", 1)]) is None
    data = evidence.select_hits("wrong", [("step", 2), ("step", 1)])
    assert data.effect(data.correct[0] - data.correct[1]).estimate().seeds == 1
    assert make_plan(suite, place).jobs() == []


def test_other_suites_are_unchanged(home, place):
    plain, asked = load_suite("tiny.toml"), load_suite("tiny.toml", ["source_hits=true"])
    assert "source_hits" not in plain.model_dump(mode="json")
    assert sha256_json(plain.model_dump(mode="json")) != sha256_json(asked.model_dump(mode="json"))
    cells = [[planned.cell.protocol for planned in make_plan(suite, place).source_cells] for suite in (plain, asked)]
    assert set(cells[0]) == {"source"} and set(cells[1]) == {"source", "source-hits"}
    assert len(cells[1]) == 2 * len(cells[0])


def test_images_with_conflicting_evidence_come_last(home):
    (home / "ps10.toml").write_text(
        'name = "mine"\n[files]\nlayout = "synthetic"\ngenerator = "ps10"\nsize = 16\ntrain = 100\ntest = 30\n'
        "options = { wrong = 0.2 }\n"
    )
    data = load_task_data(load_task("ps10.toml"), [])
    selected = select_hits(data)
    train, conflict = data.splits["train"], data.splits["conflict"]
    count = int(train.annotations["wrong"].sum())
    assert selected.counts == {"wrong": count, "right": count, "conflict": 10}
    labels = selected.labels(data)
    (_, positions), (last, _) = selected.parts
    assert train.annotations["wrong"][positions].tolist() == [1] * count + [0] * count
    assert last == "conflict" and labels[2 * count :].tolist() == conflict.labels.tolist()
    assert selected.names(data)[-1] == conflict.ids[-1]


def test_a_source_of_unknown_evidence_is_refused_before_any_work(lrbench, home):
    refused = lrbench("run", "tiny.toml", "--set", "source_hits=true", "--set", 'source="digits"')
    assert refused.status == 2 and "evidence of its source digits are not known" in refused.err
    assert not (home / "checkpoints" / "tiny" / "step").exists()


def test_a_source_without_such_images_is_refused():
    with pytest.raises(InputError, match="toy-objects has no training images that are known to be labelled wrongly"):
        select_hits(load_task_data(load_task("toy-objects"), []))


def test_hits_of_other_weights_are_excluded(place, tiny):
    def put_hits(**others):
        put(place.workspace, tiny, target="tiny-source", protocol="source-hits", chosen={}, **others)

    for stage in (1, 2):
        put(place.workspace, tiny, stage=stage)
        put_hits(stage=stage, wrong=2, diagnostics={"hits": {"wrong": 3}})
    put_hits(stage=2, snapshot={"sha256": "9" * 64}, diagnostics={"hits": {"wrong": 3}})
    (evidence,) = gather(place.workspace.results, tiny)
    assert set(evidence.hits["wrong"]) == {(("step", 1), 0)} and len(evidence.hit_labels["wrong"]) == 3
    assert evidence.select_hits("wrong", [("step", 1)]).correct.ravel().tolist() == [0, 0, 1]
    assert evidence.source_correct == {} and len(evidence.excluded) == 1


def test_hits_are_no_transfer_protocol(lrbench, home):
    with pytest.raises(InputError, match="'source-hits' is not a transfer protocol: set source_hits = true"):
        load_suite("tiny.toml", ['protocols=["source-hits"]'])
    refused = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-source", "--protocol", "source-hits")
    assert refused.status == 2 and "suites with source_hits = true" in refused.err
