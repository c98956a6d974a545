"""Result files: written atomically, checked, and readable in every schema."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lrbench.core.errors import FailureError, InputError
from lrbench.core.files import DamagedFile
from lrbench.core.workspace import Workspace
from lrbench.leaderboard import page
from lrbench.store.index import load_index
from lrbench.store.results import load_result, read_result
from tests.leaderboard.fake import put, rewrite
from tests.leaderboard.helpers import suite_page

FIXTURES = Path(__file__).parent.parent / "fixtures"


def records(workspace, suite):
    folder = workspace.results / suite
    return [load_result(path, suite) for path in sorted(folder.glob("*.json")) if path.name != "suite.json"]


@pytest.mark.parametrize("schema", [1])
def test_results_of_every_schema_stay_readable(home, schema):
    """The files were written by the lrbench that had this schema, and are never written again."""
    workspace = Workspace(root=home)
    shutil.copytree(FIXTURES / f"results-schema{schema}", workspace.results)
    stored = records(workspace, "tiny")
    assert {result.result.protocol for result in stored} == {"probe", "knn", "finetune"}
    for result in stored:
        correct = result.predictions.prediction == result.predictions.label
        assert result.result.schema_version == schema
        assert np.mean(correct) == pytest.approx(result.result.metrics["top1"])
    (foreign,) = records(workspace, "foreign")
    assert foreign.result.snapshot.reference == "timm:resnet10t"
    page.write(workspace, ["tiny", "foreign"])
    text = suite_page(workspace)
    assert "| step/stage1" in text and "Unreadable" not in text and "Excluded" not in text


def test_record_is_written_after_its_predictions(place, tiny, monkeypatch):
    path = put(place.workspace, tiny, wrong=4)
    before = path.read_bytes()

    def full(*_):
        raise FailureError("no space left")

    # The disk is full when the record's turn comes: the old record no longer fits its predictions, and says so.
    monkeypatch.setattr("lrbench.store.results.write_json", full)
    with pytest.raises(FailureError):
        put(place.workspace, tiny, wrong=5)
    assert path.read_bytes() == before
    (stored,) = records(place.workspace, "tiny")
    with pytest.raises(InputError, match="another hash"):
        _ = stored.predictions


def test_record_holds_all_fields(place, tiny):
    record = json.loads(put(place.workspace, tiny).read_text())
    assert {
        "schema",
        "protocol_version",
        "metrics",
        "chosen",
        "test_count",
        "partial",
        "diagnostics",
        "timings",
    } <= set(record)
    assert set(record["metrics"]) == {"top1", "top5", "mean_per_class"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["metrics"].update(top1=75.0), "`metrics.top1`"),
        (lambda record: record.update(metrics={}), "`metrics` lacks mean_per_class, top1, top5"),
        (lambda record: record["metrics"].update(top5=0.5), "`metrics.top5` is less"),
        (lambda record: record["snapshot"].update(source_accuracy=5.0), "`snapshot.source_accuracy`"),
        (lambda record: record["snapshot"].update(epoch=10**30), "`snapshot.epoch`"),
        (lambda record: record["snapshot"].update(stage=True), "`snapshot.stage`"),
        (lambda record: record["snapshot"].update(rate=-1.0), "`snapshot.rate`"),
        (lambda record: record["snapshot"]["source_report"].update(simple=1.5), "`snapshot.source_report.simple`"),
        (lambda record: record["task"].update(classes=0), "`task.classes`"),
        (lambda record: record.update(test_count=-1), "`test_count`"),
        (lambda record: record["timings"].update(fit=-1.0), "`timings.fit`"),
        (lambda record: record["selection"].update(candidates=[1]), "`selection.candidates`"),
        (lambda record: record["selection"].update(candidates=[{"score": "0.5"}]), "`selection.candidates`"),
        (lambda record: record["chosen"].update(strength="1"), "`chosen.strength"),
        (lambda record: record.pop("seed"), "`seed`"),
    ],
)
def test_impossible_value_is_refused_by_name(place, tiny, change, message):
    path = put(place.workspace, tiny)
    rewrite(path, change)
    with pytest.raises(DamagedFile, match=re.escape(message)) as refused:
        read_result(path)
    assert str(path) in str(refused.value) and "Delete it" in str(refused.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"top1": 0.75', '"top1": 0.76'),
        ('"source_accuracy": 0.5', '"source_accuracy": 0.9'),
        ('"train_count": 48', '"train_count": 49'),
        ('"top1": 0.75', '"top1": NaN'),
        ('"top1": 0.75', '"top1": 1e999'),
        ('"device": "cpu"', '"device": "\\ud800"'),
        ('"device": "cpu"', '"device": ' + "[" * 100_000),
        ('"seed": 0', '"seed": ' + "1" * 5000),
        ('"schema": 2', '"schema": 1'),
        ('"record_sha256"', '"other"'),
        ("{", "[{"),
    ],
)
def test_changed_record_is_refused(place, tiny, before, after):
    path = put(place.workspace, tiny)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_result(path)


def test_spacing_of_a_record_does_not_matter(place, tiny):
    path = put(place.workspace, tiny)
    before = read_result(path)
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert read_result(path) == before and before.checked


def test_old_records_are_reported_as_unchecked(home, lrbench):
    workspace = Workspace(root=home)
    shutil.copytree(FIXTURES / "results-schema1", workspace.results)
    index = load_index(workspace.results, "tiny", workspace.cache)
    assert index.unchecked == len(index.entries) == 5
    assert not any(stored.result.checked for stored in records(workspace, "tiny"))
    assert "6 results have schema 1, without a checksum" in lrbench("leaderboard").err


def test_damaged_results_are_named_and_others_shown(place, tiny, lrbench):
    workspace = place.workspace
    for stage, wrong in ((1, 10), (2, 20)):
        put(workspace, tiny, stage=stage, wrong=wrong)
    bad = [put(workspace, tiny, stage=3, protocol=protocol) for protocol in ("probe", "knn")]
    rewrite(bad[0], lambda record: record.update(test_count=-1))
    bad[1].write_text(bad[1].read_text().replace('"device": "cpu"', '"device": "\\udcff"'))
    # Names that are no text, links that lead nowhere or round in circles, and folders.
    folder = bad[0].parent
    os.symlink("nowhere.json", folder / "nowhere-to-go.json")
    os.symlink("loop.json", folder / "loop.json")
    (folder / "folder.json").mkdir()
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json"))).write_text("{}")
    written = lrbench("leaderboard")
    assert written.status == 0 and "6 results are left out" in written.err
    text = suite_page(workspace)
    assert "| 75.0" in text and "| 50.0" in text
    left_out = text.split("## Unreadable results")[1]
    for name in (bad[0].name, bad[1].name, "nowhere-to-go.json", "loop.json", "folder.json", "\\udcff.json"):
        assert name in left_out
    assert lrbench("leaderboard", "--check").status == 0
