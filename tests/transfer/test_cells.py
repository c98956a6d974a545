from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lrbench.config.protocols import PROTOCOLS
from lrbench.config.schedule import SnapshotKey, cosine_rate
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.data.examples import TaskData
from lrbench.models.tensors import load_tensors
from lrbench.store.cells import Cell, TransferSettings, status_before_loading
from lrbench.store.measures import FEATURES
from lrbench.store.predictions import read_predictions
from lrbench.store.results import read_result
from lrbench.store.snapshots import batchnorm_path, read_metadata, write_snapshot
from lrbench.transfer import cell as cell_module
from lrbench.transfer import features as features_module
from lrbench.transfer.cell import Transfer
from lrbench.transfer.protocols import finetune_run, implementation
from lrbench.transfer.target import open_target
from tests.leaderboard.fake import rewrite


def test_out_of_memory_error_is_one_paragraph(reference, place, monkeypatch):
    def full(*arguments, **others):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(features_module, "extract", full)
    monkeypatch.setattr(finetune_run.TrainingRun, "_start", full)
    for protocol, advice in (("probe", "run the same command again."), ("finetune", "Or lower finetune.batch")):
        with pytest.raises(FailureError, match=rf"to tiny-objects \({protocol}\): CUDA out of memory.*{advice}"):
            transfer(reference, place).run(Cell(task="tiny-objects", protocol=protocol, seed=0))


def transfer(reference, place, control=None):
    return Transfer(reference, TransferSettings.of(reference.suite), place, control or Control())


@pytest.mark.parametrize("protocol", ["probe", "knn", "finetune"])
def test_cell_record_is_complete_and_reproducible(reference, place, protocol):
    cell = Cell(task="tiny-objects", protocol=protocol, seed=0)
    path = transfer(reference, place).run(cell)
    result = read_result(path)
    predictions = read_predictions(path.with_suffix(".parquet"), result.predictions_sha256)
    assert result.test_count == len(predictions.label) == 40 and result.train_count == 48
    assert result.metrics["top1"] == pytest.approx(np.mean(predictions.label == predictions.prediction))
    assert result.protocol_version == PROTOCOLS[protocol].version
    assert result.snapshot.reference == "tiny/step/seed0/stage1" and result.snapshot.batchnorm == "re-estimated"
    assert result.snapshot.source_accuracy is not None and not result.partial
    assert result.chosen and result.selection["candidates"] and result.device and result.versions["torch"]
    assert set(result.diagnostics["features"]) == set(FEATURES)
    assert result.arithmetic == ({} if result.device == "cpu" else {"convolutions": "tf32", "products": "float32"})
    first = path.read_text()
    again = transfer(reference, place).run(cell)
    varying = {"timings", "computed", "record_sha256"}
    assert read_result(again).model_dump(exclude=varying) == result.model_dump(exclude=varying) and first


@pytest.mark.parametrize("protocol", ["probe", "knn", "finetune"])
def test_final_fit_uses_all_labelled_images(reference, place, protocol, monkeypatch):
    seen = {}
    if protocol == "finetune":
        train = finetune_run.TrainingRun.train

        def spy(self, *rest):
            seen.setdefault("counts", []).append(len(self._subset))
            return train(self, *rest)

        monkeypatch.setattr(finetune_run.TrainingRun, "train", spy)
    else:
        module = implementation(protocol)
        select, fit = module.select, module.fit
        monkeypatch.setattr(
            module,
            "select",
            lambda train, validation, **named: (
                seen.update(counts=[len(train.labels)], held_out=len(validation.labels))
                or select(train, validation, **named)
            ),
        )
        monkeypatch.setattr(
            module,
            "fit",
            lambda data, *rest, **named: seen["counts"].append(len(data.labels)) or fit(data, *rest, **named),
        )
    transfer(reference, place).run(Cell(task="tiny-objects", protocol=protocol, seed=0))
    # 48 training images in 4 classes of 12: round(0.2 · 12) = 2 of each are held out.
    assert set(seen["counts"][:-1]) == {40} and seen["counts"][-1] == 48 and seen.get("held_out", 8) == 8


def test_cell_is_done_only_if_nothing_changed(reference, place, tiny):
    cell = Cell(task="tiny-objects", protocol="knn", seed=0)
    settings = TransferSettings.of(tiny)

    def done():
        status = status_before_loading(place, reference, cell, settings)
        return status.path if status.is_done else None

    assert done() is None
    path = transfer(reference, place).run(cell)
    assert done() == path
    other = TransferSettings.of(tiny.model_copy(update={"knn": tiny.knn.model_copy(update={"neighbours": (1,)})}))
    assert not status_before_loading(place, reference, cell, other).is_done
    content = path.with_suffix(".parquet").read_bytes()
    path.with_suffix(".parquet").unlink()
    assert done() is None
    path.with_suffix(".parquet").write_bytes(content[:-1])
    assert done() is None
    path.with_suffix(".parquet").write_bytes(content)
    assert done() == path
    reference.path.with_name("stage1.bn.safetensors").unlink()
    assert done() is None


def test_partial_result_is_not_done_for_full_data(reference, place, tiny):
    cell = Cell(task="tiny-objects", protocol="knn", seed=0)
    path = transfer(reference, place).run(cell)

    def done(place, partial):
        def mark(record):
            record["partial"] = record["snapshot"]["source_partial"] = True
            record["task"]["partial"] = partial

        rewrite(path, mark)
        return status_before_loading(place, reference, cell, TransferSettings.of(tiny)).is_done

    # A partial source: computing the cell again would not help.
    assert done(place, False)
    assert not done(place, True) and done(replace(place, partial=True), True)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_test_labels_do_not_change_predictions(reference, place, protocol, monkeypatch):
    """A cell with every test label changed has the same choice and predictions."""
    cell = Cell(task="tiny-objects", protocol=protocol, seed=0)
    path = transfer(reference, place).run(cell)
    before = read_result(path)
    predicted = read_predictions(path.with_suffix(".parquet"), before.predictions_sha256).prediction

    target = open_target("tiny-objects", reference.suite.input, place.roots, False, place.workspace.cache, Control())
    test = target.data.splits["test"]
    wrong = type(test)(ids=test.ids, labels=(test.labels + 1) % 4, images=test.images)
    data = TaskData(task=target.data.task, classes=target.data.classes, splits={**target.data.splits, "test": wrong})
    leaky = type(target)(**{**vars(target), "data": data})
    monkeypatch.setattr(cell_module, "open_target", lambda *_: leaky)
    path = transfer(reference, place).run(cell)
    after = read_result(path)
    assert after.chosen == before.chosen and after.selection == before.selection
    assert after.diagnostics.get("features") == before.diagnostics.get("features")
    assert np.array_equal(
        read_predictions(path.with_suffix(".parquet"), after.predictions_sha256).prediction, predicted
    )


def test_finetuning_does_not_change_the_snapshot(reference, place):
    working = transfer(reference, place)
    before = {name: tensor.clone() for name, tensor in working._network.snapshot.model.state_dict().items()}
    working.run(Cell(task="tiny-objects", protocol="finetune", seed=0))
    for name, tensor in working._network.snapshot.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert cosine_rate(0.1, 0, 10) == pytest.approx(0.1)
    assert cosine_rate(0.1, 5, 10) == pytest.approx(0.05)
    assert cosine_rate(0.1, 10, 10) == pytest.approx(0.0, abs=1e-12)


def test_diverged_points_are_never_selected(reference, place, monkeypatch):
    cross_entropy = nn.functional.cross_entropy
    rate = {}
    cosine = finetune_run.cosine_rate
    monkeypatch.setattr(
        finetune_run, "cosine_rate", lambda base, *rest: rate.__setitem__("now", base) or cosine(base, *rest)
    )

    def breaks(logits, labels):
        return cross_entropy(logits, labels) * (float("nan") if rate["now"] in bad else 1.0)

    monkeypatch.setattr(finetune_run.nn.functional, "cross_entropy", breaks)
    bad = {0.05}
    path = transfer(reference, place).run(Cell(task="tiny-objects", protocol="finetune", seed=0))
    result = read_result(path)
    assert result.chosen["learning_rate"] == 0.01
    assert [candidate.get("diverged", False) for candidate in result.selection["candidates"]] == [False, True]
    bad = {0.01, 0.05}
    with pytest.raises(FailureError, match=r"diverged at every learning rate.*finetune\.rates"):
        transfer(reference, place).run(Cell(task="tiny-objects", protocol="finetune", seed=0))


def test_bfloat16_learns_nearly_the_same(reference, place, tiny):
    scores = {}
    for precision in ("float32", "bfloat16"):
        grid = tiny.finetune.model_copy(update={"rates": (0.01,), "updates": 8, "precision": precision})
        settings = TransferSettings.of(tiny).model_copy(update={"finetune": grid})
        cell = Cell(task="tiny-objects", protocol="finetune", seed=0)
        assert not status_before_loading(place, reference, cell, settings).is_done
        result = read_result(Transfer(reference, settings, place, Control()).run(cell))
        assert result.settings["finetune"]["precision"] == precision
        scores[precision] = result.diagnostics["negative_log_likelihood"]
    assert scores["float32"] != scores["bfloat16"] and abs(scores["float32"] - scores["bfloat16"]) < 0.3


def test_halving_gives_up_the_worse_half(reference, place, tiny, monkeypatch):
    trained = {}
    train = finetune_run.TrainingRun.train

    def spy(self, end, control):
        train(self, end, control)
        trained[self._rate, len(self._subset)] = self._update

    monkeypatch.setattr(finetune_run.TrainingRun, "train", spy)
    fed = []
    batches = finetune_run.training_batches
    monkeypatch.setattr(
        finetune_run,
        "training_batches",
        lambda made, first, last, device: fed.append((first, last)) or batches(made, first, last, device),
    )
    results = {}
    for halving in (False, True):
        grid = tiny.finetune.model_copy(update={"rates": (1e-6, 1e-5, 0.01, 0.05), "updates": 16, "halving": halving})
        settings = TransferSettings.of(tiny).model_copy(update={"finetune": grid})
        trained.clear()
        path = Transfer(reference, settings, place, Control()).run(
            Cell(task="tiny-objects", protocol="finetune", seed=0)
        )
        results[halving] = read_result(path), dict(trained)
    whole, spent = results[False]
    assert {updates for (_, count), updates in spent.items() if count == 40} == {16}
    halved, spent = results[True]
    # Four points, two, one: after 2, 4 and 8 of the 16 updates.
    assert sorted(updates for (_, count), updates in spent.items() if count == 40) == [2, 2, 4, 16]
    # Each run continues with the batches that it has not seen; the last is the final fit.
    assert fed[5:] == [(0, 2)] * 4 + [(2, 4)] * 2 + [(4, 8), (8, 16), (0, 16)]
    given_up = [candidate for candidate in halved.selection["candidates"] if "updates" in candidate]
    assert len(given_up) == 3 and all("diverged" not in candidate for candidate in given_up)
    survivor = next(candidate for candidate in halved.selection["candidates"] if "updates" not in candidate)
    assert halved.chosen["learning_rate"] == survivor["learning_rate"]
    # A paused run ends as an uninterrupted one.
    same = next(
        candidate
        for candidate in whole.selection["candidates"]
        if candidate["learning_rate"] == survivor["learning_rate"]
    )
    assert same["score"] == survivor["score"]


def test_halving_keeps_the_best_on_validation(reference, place, tiny, monkeypatch):
    monkeypatch.setattr(finetune_run.TrainingRun, "_evaluate", lambda self, validation, metric: {"score": self._rate})
    grid = tiny.finetune.model_copy(update={"rates": (0.01, 0.02, 0.03, 0.04), "updates": 16, "halving": True})
    settings = TransferSettings.of(tiny).model_copy(update={"finetune": grid})
    path = Transfer(reference, settings, place, Control()).run(Cell(task="tiny-objects", protocol="finetune", seed=0))
    result = read_result(path)
    stopped = {candidate["learning_rate"]: candidate.get("updates") for candidate in result.selection["candidates"]}
    assert stopped == {0.01: 2, 0.02: 2, 0.03: 4, 0.04: None} and result.chosen["learning_rate"] == 0.04


def test_stop_keeps_finished_cells(reference, place):
    control = Control()
    working = transfer(reference, place, control)
    path = working.run(Cell(task="tiny-objects", protocol="knn", seed=0))
    control.stop()
    with pytest.raises(InterruptedWork, match="Run the same"):
        working.run(Cell(task="tiny-indoor", protocol="knn", seed=0))
    assert path.is_file()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tiny-objects", "tiny-indoor"]),
        st.sampled_from(["probe", "knn", "logme", "fewshot", "depth", "concat"]),
        st.sampled_from(["step/stage1", "step/stage0", "raw"]),
        st.sampled_from(["", "fingerprint", "content"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_cached_features_match_fresh_ones(reference, place, steps):
    """A change of anything that features depend on is a miss; everything else is a hit."""
    raw = replace(reference, checkpoints=place.workspace.root / "raw")
    if not raw.path.exists():
        metadata = read_metadata(reference.path).model_copy(update={"batchnorm_sha256": None})
        write_snapshot(raw.path, load_tensors(reference.path), metadata)
    first = SnapshotKey(arm="step", seed=0, stage=0)
    snapshots = {
        "step/stage1": reference,
        "step/stage0": replace(reference, key=first),
        # The same weights with BatchNorm statistics that are not re-estimated.
        "raw": raw,
    }
    assert not batchnorm_path(raw.path).exists()
    extracted = []
    extract = features_module.extract

    def counted(model, target, *rest):
        extracted.append(target.data.task.name)
        return extract(model, target, *rest)

    transfers = {name: transfer(each, place) for name, each in snapshots.items()}
    kept = {name: (None, set()) for name in snapshots}
    for task, protocol, name, split in steps:
        target = open_target(task, reference.suite.input, place.roots, False, None, transfers[name]._control)
        if split:
            # The same name with different images.
            target = replace(target, identity=replace(target.identity, **{split: f"another {task}"}))
        kind = PROTOCOLS[protocol].features
        if kept[name][0] != target.identity:
            kept[name] = (target.identity, set())
        needs = {"partner": {"partner", "penultimate"}}.get(kind, {kind}) - kept[name][1]
        before = len(extracted)
        with mock.patch.object(features_module, "extract", counted):
            features = transfers[name]._features.get(target, kind).features
        assert len(extracted) - before == len(needs)
        kept[name][1].update(needs)
        fresh = transfer(snapshots[name], place)._features.get(target, kind).features
        assert torch.equal(features.test, fresh.test) and torch.equal(features.development, fresh.development)
        assert features.widths == fresh.widths
