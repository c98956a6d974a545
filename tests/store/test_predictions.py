"""Predictions: checked against their record, with names of images and classes."""

from dataclasses import replace

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch

import lrbench
from lrbench.config.protocols import PROTOCOLS
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.store.cells import _stored_result
from lrbench.store.index import load_index
from lrbench.store.predictions import Predictions, encode_predictions, read_predictions
from lrbench.store.results import StoredResult, read_result
from lrbench.transfer.metrics import accuracies
from tests.leaderboard.fake import put, rewrite, rewrite_predictions


@pytest.fixture
def path(place, tiny):
    return put(place.workspace, tiny, wrong=10)


def stored(path):
    return StoredResult(result=read_result(path), path=path)


def changed(path, **columns):
    """The predictions of a result with other columns."""
    table = parquet.read_table(path.with_suffix(".parquet"))
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        table = table.remove_column(position)
        if values is not None:
            table = table.add_column(position, name, arrow.array(values))
    return table


LABELS = np.arange(40) % 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": None}, "lacks the column"),
        ({"label": [None, *LABELS[1:]]}, "'label' does not hold whole numbers"),
        ({"prediction": [str(label) for label in LABELS]}, "'prediction' does not hold whole numbers"),
        ({"prediction": LABELS}, "give top1 1, and its record says 0.75"),
        ({"label": [4, *LABELS[1:]]}, "a label outside the 4 classes"),
        ({"prediction": [-1, *LABELS[1:]]}, "a prediction outside the 4 classes"),
        ({"index": np.arange(40)[::-1].copy()}, "not numbered from 0 in order"),
    ],
)
def test_predictions_that_contradict_the_record_are_refused(place, path, columns, message):
    rewrite_predictions(path, changed(path, **columns))
    with pytest.raises(DamagedFile, match=message) as refused:
        _ = stored(path).predictions
    assert path.with_suffix(".parquet").name in str(refused.value)
    # The leaderboard leaves it out, and a run computes it again.
    index = load_index(place.workspace.results, "tiny", place.workspace.cache)
    assert index.entries == () and message in index.problems[0]
    version = read_result(path).protocol_version
    assert PROTOCOLS["probe"].version == version + 1
    assert whole_at_version(path, version) is None


def whole_at_version(path, version):
    """What counts as a whole result where the protocol has this version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "probe", replace(PROTOCOLS["probe"], version=version))
        result = _stored_result(path, read_result(path).snapshot.sha256, "probe")
    return None if result is None else result.result


def test_complete_result_is_done(path):
    assert whole_at_version(path, read_result(path).protocol_version) == read_result(path)


@pytest.mark.parametrize("name", ["top1", "mean_per_class"])
def test_metrics_must_follow_from_predictions(path, name):
    rewrite(path, lambda record: record["metrics"].update({name: 0.99, "top5": 1.0}))
    with pytest.raises(DamagedFile, match=f"give {name} 0.75, and its record says 0.99"):
        _ = stored(path).predictions


def test_wrong_number_of_test_images_is_refused(path):
    rewrite(path, lambda record: record.update(test_count=41))
    with pytest.raises(DamagedFile, match="predictions for 40 images, and its record says 41"):
        _ = stored(path).predictions


def test_any_flipped_byte_is_detected(path):
    file, digest = path.with_suffix(".parquet"), read_result(path).predictions_sha256
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        content = bytearray(whole)
        content[position] ^= 1
        file.write_bytes(content)
        with pytest.raises(DamagedFile, match="another hash"):
            read_predictions(file, digest)


def test_metrics_match_those_of_scores():
    draw = np.random.default_rng(0)
    label, prediction = draw.integers(0, 7, 500), draw.integers(0, 7, 500)
    # A class without images does not count.
    label[label == 5] = 4
    metrics = Predictions(index=np.arange(500), label=label, prediction=prediction).metrics()
    assert metrics == pytest.approx(accuracies(torch.from_numpy(prediction), torch.from_numpy(label), 7), abs=1e-12)


def test_image_names_take_little_space():
    index = np.arange(20_000)
    plain = Predictions(index=index, label=index % 10, prediction=index % 9)
    named = Predictions(
        index=index,
        label=index % 10,
        prediction=index % 9,
        images=[f"test/ILSVRC2012_val_{number:08d}.JPEG" for number in index],
        classes=[f"n{label:08d}" for label in range(10)],
    )
    assert len(encode_predictions(named)) - len(encode_predictions(plain)) < 4 * len(index)


def test_load_predictions_names_images_and_classes(place, path):
    (record,) = lrbench.load_results(place.workspace.root).path
    frame = lrbench.load_predictions(record, place.workspace.root)
    assert len(frame) == 40 and int((~frame.correct).sum()) == 10
    assert frame.loc[0].to_dict() == {
        "index": 0,
        "image": "test/000.png",
        "label": 0,
        "prediction": 1,
        "label_name": "class 0",
        "prediction_name": "class 1",
        "correct": False,
    }
    assert frame.image.iloc[-1] == "test/039.png" and frame.label_name.iloc[-1] == "class 3"


def test_load_predictions_of_schema_1_has_no_names(path):
    rewrite_predictions(path, changed(path, image=None).replace_schema_metadata(None))
    frame = lrbench.load_predictions(path)
    assert len(frame) == 40 and frame[["image", "label_name", "prediction_name"]].isna().all(axis=None)


def test_load_results_of_no_workspace_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there are no results in .*nowhere.* Pass the workspace"):
        lrbench.load_results(tmp_path / "nowhere")


def test_the_package_lists_its_functions():
    assert {"__version__", "load_predictions", "load_results"} <= set(dir(lrbench))
