"""Result files: whole or not there, and old ones stay readable."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lrbench.errors import FailureError, InputError
from lrbench.leaderboard import page
from lrbench.results import load_result, read_result
from lrbench.workspace import Workspace
from tests.leaderboard.fake import put

FIXTURES = Path(__file__).parent / "fixtures"


def records(workspace, suite):
    folder = workspace.results / suite
    return [load_result(path, suite) for path in sorted(folder.glob("*.json")) if path.name != "suite.json"]


@pytest.mark.parametrize("schema", [1])
def test_results_of_every_schema_stay_readable(home, schema):
    """The files were written by the lrbench that had this schema, and are never written again."""
    workspace = Workspace(root=home)
    shutil.copytree(FIXTURES / f"results-schema{schema}", workspace.results)
    stored = records(workspace, "tiny")
    assert {each.result.protocol for each in stored} == {"probe", "knn", "finetune"}
    for each in stored:
        correct = each.predictions.prediction == each.predictions.label
        assert each.result.schema_version == schema
        assert np.mean(correct) == pytest.approx(each.result.metrics["top1"])
    (foreign,) = records(workspace, "foreign")
    assert foreign.result.snapshot.reference == "timm:resnet10t"
    page.write(workspace, ["tiny", "foreign"])
    text = (workspace.leaderboard / "tiny.md").read_text()
    assert "| step/stage1" in text and "Left out" not in text and "Kept apart" not in text


def test_a_record_is_written_after_its_predictions_and_names_them(place, tiny, monkeypatch):
    path = put(place.workspace, tiny, wrong=4)
    before = path.read_bytes()

    def full(*_):
        raise FailureError("no space left")

    # The disk is full when the record's turn comes: the old record no longer fits its predictions, and says so.
    monkeypatch.setattr("lrbench.results.write_json", full)
    with pytest.raises(FailureError):
        put(place.workspace, tiny, wrong=5)
    assert path.read_bytes() == before
    (stored,) = records(place.workspace, "tiny")
    with pytest.raises(InputError, match="another hash"):
        _ = stored.predictions


def test_a_record_holds_what_a_reader_needs(place, tiny):
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


def test_a_metric_outside_zero_and_one_is_refused(place, tiny):
    path = put(place.workspace, tiny)
    record = json.loads(path.read_text())
    record["metrics"]["top1"] = 75.0
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"`metrics\.top1`"):
        read_result(path)
