"""Neural collapse, similarity of features, and the protocol that stores both."""

import shutil

import numpy as np
import pytest
import torch

from lrbench.config import load_suite
from lrbench.config.relatives import related_keys
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.store.cells import Cell, TransferSettings, status_before_loading
from lrbench.store.measures import FEATURES, measures_of
from lrbench.store.references import SuiteSnapshot, WeightsFile
from lrbench.store.results import read_result
from lrbench.transfer.cell import Transfer
from lrbench.transfer.collapse import measure_collapse
from lrbench.transfer.protocols import representation
from lrbench.transfer.selection import LabelledFeatures
from lrbench.transfer.similarity import linear_cka
from lrbench.transfer.target import open_target
from tests.transfer.helpers import collapse_by_definition, problem

CELL = Cell(task="tiny-objects", protocol="representation", seed=0)


@pytest.mark.parametrize(("count", "width", "classes"), [(120, 20, 5), (60, 8, 12), (40, 90, 4)])
def test_neural_collapse_matches_its_definition(count, width, classes):
    draw = np.random.default_rng(0)
    labels = np.concatenate([np.arange(classes), draw.integers(0, classes, count - classes)])
    features = (draw.normal(size=(count, width)) + 2 * draw.normal(size=(classes, width))[labels]).astype(np.float32)
    measured = measure_collapse(torch.from_numpy(features), torch.from_numpy(labels), classes + 1)
    nc1, nc2 = collapse_by_definition(features.astype(np.float64), labels)
    assert measured == pytest.approx({"nc1": nc1, "nc2": nc2}, rel=1e-9)
    shifted = measure_collapse(torch.from_numpy(8 * features + 1), torch.from_numpy(labels), classes + 1)
    assert shifted == pytest.approx(measured, rel=1e-4)


def test_collapsed_simplex_has_zero_neural_collapse():
    labels = torch.arange(30) % 5
    measured = measure_collapse(torch.eye(5)[labels], labels, 5)
    assert measured == pytest.approx({"nc1": 0.0, "nc2": 0.0}, abs=1e-12)
    # Three orthogonal axes in both directions: cosines of 0 and -1 instead of -1/5.
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    assert measure_collapse(axes, torch.arange(6), 6)["nc2"] == pytest.approx((4 * 0.2 + 0.8) / 5)


def test_neural_collapse_is_undefined_without_class_means():
    assert measure_collapse(torch.randn(10, 3), torch.zeros(10, dtype=torch.int64), 2) == {}
    assert measure_collapse(torch.ones(10, 3), torch.arange(10) % 2, 2) == {}


def test_cka_matches_its_kernel_definition():
    draw = np.random.default_rng(0)
    first = draw.normal(size=(50, 7)).astype(np.float32)
    second = (first @ draw.normal(size=(7, 90)) + draw.normal(size=(50, 90)) + 3).astype(np.float32)
    centring = np.eye(50) - 1 / 50
    kernels = [centring @ (wide @ wide.T) @ centring for wide in (first.astype(float), second.astype(float))]
    expected = np.trace(kernels[0] @ kernels[1]) / np.prod([np.linalg.norm(kernel) for kernel in kernels])
    assert linear_cka(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, rel=1e-10)
    assert linear_cka(torch.from_numpy(second), torch.from_numpy(first)) == pytest.approx(expected, rel=1e-10)


def test_cka_ignores_rotation_shift_and_scale():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(200, 16, generator=draw)
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=draw))
    assert linear_cka(features, 3 * features @ rotation + 5) == pytest.approx(1.0, abs=1e-6)
    assert linear_cka(features, features * torch.linspace(0.1, 3, 16)) < 0.99
    other = torch.randn(20_000, 16, generator=draw)
    assert linear_cka(torch.randn(20_000, 16, generator=draw), other) < 0.01
    assert linear_cka(features, torch.ones(200, 3)) is None


def test_nearest_mean_predicts_as_its_definition():
    data, test = problem("overlapping"), problem("overlapping", seed=1)
    # Class 2 has no images, and must not be predicted.
    data = LabelledFeatures(features=data.features[data.labels != 2], labels=data.labels[data.labels != 2])
    choice = representation.select(data, data.part(slice(0)), classes=6, metric="top1", settings=None)
    scores = representation.fit(data, choice, classes=6, settings=None).scores(test.features)
    means = torch.stack([data.features[data.labels == label].double().mean(0) for label in range(6)])
    distances = torch.cdist(test.features.double(), means).nan_to_num(float("inf"))
    assert torch.equal(scores.argmax(1), distances.argmin(1)) and choice.chosen == {"means": 5}
    assert torch.isfinite(scores).all()


def test_related_snapshots_are_parents_and_controls(home):
    suite = load_suite("tiny.toml", changes=['arms=["step","hold","constant","average","trail","raise"]'])

    def related(arm, stage):
        return {
            name: f"{key.arm}/{key.stage}"
            for name, key in related_keys(suite, SnapshotKey(arm=arm, seed=1, stage=stage)).items()
        }

    assert related("step", 0) == {}
    assert related("step", 1) == {"previous": "step/0"}
    assert related("step", 2) == {"previous": "step/1", "hold": "hold/2", "average": "average/2"}
    assert related("hold", 3) == {"previous": "step/2"} and related("average", 3) == {"previous": "step/2"}
    assert related("constant", 3) == {"previous": "hold/2"} and related("raise", 4) == {"previous": "step/3"}
    assert related("trail", 1) == {}


@pytest.fixture
def reference(tiny, place, pretrain_tiny):
    pretrain_tiny()
    return SuiteSnapshot(
        suite=tiny, key=SnapshotKey(arm="step", seed=0, stage=2), checkpoints=place.workspace.checkpoints
    )


def transfer(reference, place):
    return read_result(Transfer(reference, TransferSettings.of(reference.suite), place, Control()).run(CELL))


def is_done(reference, place):
    return status_before_loading(place, reference, CELL, TransferSettings.of(reference.suite)).is_done


def test_representation_compares_with_parent_and_controls(reference, place):
    working = Transfer(reference, TransferSettings.of(reference.suite), place, Control())
    result = read_result(working.run(CELL))
    similarity = result.diagnostics["similarity"]
    assert {name: entry["reference"] for name, entry in similarity.items()} == {
        "previous": "tiny/step/seed0/stage1",
        "hold": "tiny/hold/seed0/stage2",
        "average": "tiny/average/seed0/stage2",
    }
    target = open_target("tiny-objects", reference.suite.input, place.roots, False, place.pixel_cache, Control())
    key = SnapshotKey(arm="hold", seed=0, stage=2)
    other = SuiteSnapshot(suite=reference.suite, key=key, checkpoints=reference.checkpoints)
    features = [
        Transfer(snapshot, TransferSettings(), place, Control())._features.get(target, "penultimate").features.test
        for snapshot in (reference, other)
    ]
    assert similarity["hold"]["cka"] == linear_cka(*features) < 1
    measures = measures_of(result)
    assert {*FEATURES, *(f"source_{name}" for name in FEATURES)} < set(measures)
    assert measures["source_nc1"] != measures["nc1"] and measures["cka_hold"] == similarity["hold"]["cka"]
    # The second target computes the description on the source no second time.
    again = read_result(working.run(Cell(task="tiny-indoor", protocol="representation", seed=0)))
    assert again.diagnostics["source_features"] == result.diagnostics["source_features"]
    assert again.timings["source"] < result.timings["source"] and is_done(reference, place)


def test_new_or_changed_relatives_make_a_comparison_stale(reference, place):
    hold = reference.path.parents[2] / "hold"
    hidden = hold.with_name("hidden")
    hold.rename(hidden)
    assert "hold" not in transfer(reference, place).diagnostics["similarity"] and is_done(reference, place)
    hidden.rename(hold)
    assert not is_done(reference, place)
    transfer(reference, place)
    assert is_done(reference, place)
    path = hold / "seed0" / "stage2.safetensors"
    shutil.copy2(reference.path, path)
    assert not is_done(reference, place)
    path.unlink()
    # A result is kept without the snapshot that it was compared with.
    assert is_done(reference, place)


def test_representation_outside_of_a_suite(reference, place, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(Control, "say", lambda self, text: said.append(text))
    monkeypatch.setenv("LRBENCH_TASKS", str(tmp_path / "others"))
    shutil.copytree(tmp_path / "tasks", tmp_path / "others")
    (tmp_path / "others" / "tiny-source.toml").unlink()
    foreign = WeightsFile(text=str(reference.path), path=reference.path)
    result = read_result(Transfer(foreign, TransferSettings(), place, Control()).run(CELL))
    assert result.diagnostics["similarity"] == {} and "source_features" not in result.diagnostics
    assert any("not described on the source" in text for text in said)


def test_transfer_prints_the_measures(lrbench, pretrain_tiny):
    pretrain_tiny("step", "hold")
    command = ("transfer", "--snapshot", "stage2", "--task", "tiny-objects", "--protocol", "representation")
    done = lrbench(*command)
    assert done.status == 0 and "nc1 " in done.err and "cka_hold 0." in done.err and "with means 4" in done.out, (
        done.err
    )
    assert "cka_average" not in done.err
