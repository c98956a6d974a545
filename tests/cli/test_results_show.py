"""`lrbench results show`: one result by class, its predictions as a file, and the hint to the metric."""

import json

import numpy as np
import pandas
import pytest
from sklearn.metrics import f1_score

from lrbench.cli.outcome import metric_hint
from lrbench.stats.classification import measure_classes, summarise_classes
from lrbench.store.predictions import Predictions
from lrbench.store.results import load_result, write_result
from tests.leaderboard.fake import put

CELL = "step-seed0-stage1.tiny-objects.probe.seed0"


@pytest.fixture
def binary(place, tiny):
    """A result on two classes of 90 and 10 images, with scores."""
    label = np.repeat([0, 1], [90, 10])
    scores = np.concatenate([np.linspace(-3, -1, 90), np.linspace(-2, 2, 10)]).astype(np.float32)
    predictions = Predictions(
        index=np.arange(100),
        label=label,
        prediction=(scores > 0).astype(np.int64),
        images=[f"{number}.png" for number in range(100)],
        classes=["healthy", "ill"],
        scores=scores,
    )
    record = json.loads(put(place.workspace, tiny).read_text())
    for name in ("schema", "predictions_sha256", "record_sha256"):
        del record[name]
    record["task"] |= {"name": "tiny-cells", "classes": 2}
    record |= {"metrics": {**predictions.metrics(), "top5": 1.0}, "test_count": 100}
    return write_result(place.workspace.results, record, predictions)


def test_classes_and_confusions_are_shown(lrbench, place, tiny):
    put(place.workspace, tiny)
    done = lrbench("results", "show", CELL)
    assert done.status == 0 and "class 3" in done.out and "0: class 0" in done.out
    shown = json.loads(lrbench("results", "show", CELL, "--json").out)
    assert [row["images"] for row in shown["classes"]] == [10, 10, 10, 10]
    assert sum(pair["images"] for pair in shown["confusions"] if pair["true"] != pair["predicted"]) == 10
    predictions = load_result(put(place.workspace, tiny), "tiny").predictions
    expected = f1_score(predictions.label, predictions.prediction, average="macro")
    assert shown["summary"]["macro_f1"] == pytest.approx(expected) and "auc" not in shown["summary"]
    assert f"macro F1 {100 * expected:.2f} %" in done.out


@pytest.mark.filterwarnings("error")
def test_one_class_has_no_correlation():
    label = np.ones(5, dtype=np.int64)
    measures = measure_classes(label, label, 2)
    assert summarise_classes(label, label, measures) == {"macro_f1": 1.0, "weighted_f1": 1.0, "matthews": 0.0}


def test_names_of_classes_stay_on_their_line(lrbench, place, tiny):
    from dataclasses import replace

    from lrbench.store.results import load_result, write_result

    stored = load_result(put(place.workspace, tiny), "tiny")
    predictions = replace(stored.predictions, classes=["a\nremoved 3 results", "b", "c", "d"])
    write_result(place.workspace.results, stored.result.model_dump(mode="json"), predictions)
    assert "\nremoved" not in lrbench("results", "show", "tiny").out


def test_two_classes_have_an_area_under_the_curve(lrbench, binary):
    shown = json.loads(lrbench("results", "show", binary, "--json").out)
    better = np.linspace(-2, 2, 10)[:, None] > np.linspace(-3, -1, 90)[None]
    assert shown["summary"]["auc"] == pytest.approx(better.mean())
    ill = shown["classes"][1]
    assert ill["accuracy"] == 0.5 and ill["precision"] == 1.0 and ill["f1"] == pytest.approx(2 / 3)
    assert "AUC" in lrbench("results", "show", binary).out


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_are_written_with_names(lrbench, binary, home, suffix):
    assert lrbench("results", "show", binary, "--predictions", f"out.{suffix}").status == 0
    frame = (pandas.read_csv if suffix == "csv" else pandas.read_parquet)(home / f"out.{suffix}")
    assert frame.loc[99, ["image", "label_name", "prediction_name"]].tolist() == ["99.png", "ill", "ill"]
    assert frame.score.iloc[-1] == 2


def test_confusion_matrix_is_written(lrbench, binary, home):
    assert lrbench("results", "show", binary, "--confusion", "matrix.csv").status == 0
    assert (home / "matrix.csv").read_text() == "true class,healthy,ill\nhealthy,90,0\nill,5,5\n"
    assert "neither .csv nor .parquet" in lrbench("results", "show", binary, "--predictions", "out.xlsx").err


def test_hint_names_the_metric_of_unbalanced_tasks(lrbench, binary, place, tiny, home):
    hint = metric_hint(load_result(binary, "tiny").result)
    assert 'metric = "mean_per_class"' in hint and "95.0 %" in hint and "75.0 %" in hint
    assert metric_hint(load_result(put(place.workspace, tiny), "tiny").result) is None


def test_transfer_stores_scores_of_two_classes(lrbench, snapshot, home, small_probe_grid):
    (home / "pair.toml").write_text(
        'name = "pair"\n[files]\nlayout = "synthetic"\ngenerator = "objects"\nsize = 32\ntrain = 24\ntest = 20\n'
        "options = { classes = 2 }\n"
    )
    assert lrbench("transfer", "--snapshot", "stage0", "--task", "pair.toml").status == 0
    (path,) = (home / "leaderboard" / "results" / "tiny").glob("*.pair.*.json")
    predictions = load_result(path, "tiny").read_predictions(names=True)
    assert np.array_equal(predictions.scores > 0, predictions.prediction == 1)
    assert "AUC" in lrbench("results", "show", path).out
