"""`lrbench features`: files with the features that the probe reads."""

import csv

import numpy as np
import pyarrow.parquet as parquet
import pytest

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.store.references import resolve_reference
from lrbench.transfer.feature_files import write_features
from lrbench.transfer.features import FeatureCache, Network
from lrbench.transfer.target import open_target


def test_files_hold_what_the_probe_reads(lrbench, snapshot, place, home):
    assert lrbench("features", "stage0", "--task", "tiny-objects", "--output", "out.parquet").status == 0
    done = lrbench("features", "stage0", "--task", "tiny-objects", "--output", "out.npy")
    assert done.out.split() == ["out.npy", "out.csv"] and "88 images, 16 features" in done.err
    network = Network.load(resolve_reference("stage0", place.workspace))
    target = open_target("tiny-objects", network.input, place.roots, False, None, Control())
    read = FeatureCache(network, "", place.workspace, Control()).get(target, "penultimate").features
    expected = np.concatenate([read.development.numpy(), read.test.numpy()])
    array = np.load(home / "out.npy")
    assert array.dtype == np.float32 and np.array_equal(array, expected)
    table = parquet.read_table(home / "out.parquet")
    assert np.array_equal(np.stack(table["features"].to_numpy()), expected)
    rows = list(csv.DictReader((home / "out.csv").open()))
    assert [row["split"] for row in rows] == ["train"] * 48 + ["test"] * 40
    assert table["image"].to_pylist() == [row["image"] for row in rows]
    assert table["label"].to_pylist()[48:] == target.data.splits["test"].labels.tolist()
    assert table["label_name"][0].as_py() == target.data.classes[table["label"][0].as_py()]


def test_stopped_extraction_leaves_no_file(snapshot, place, home):
    control = Control()
    control.stop()
    with pytest.raises(InterruptedWork):
        write_features(resolve_reference("stage0", place.workspace), "tiny-objects", home / "out.npy", place, control)
    assert not list(home.glob("out.*"))


def test_other_formats_and_existing_files_are_refused(lrbench, snapshot, home):
    features = ("features", "stage0", "--task", "tiny-objects", "--output")
    assert "neither .parquet nor .npy" in lrbench(*features, "out.pt").err
    (home / "out.csv").write_text("mine")
    refused = lrbench(*features, "out.npy")
    assert refused.status == 2 and "out.csv exists" in refused.err


def test_random_weights_are_named(lrbench, home):
    done = lrbench("features", "timm:test_resnet", "--task", "tiny-objects", "--output", "out.npy")
    assert done.status == 0 and "timm:test_resnet has no tag, so its weights are random." in done.err
