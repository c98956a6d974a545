"""Honesty of transfers: data of each step, and the snapshot of the features."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lrbench.config.protocols import Probe
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.models.devices import to_device
from lrbench.models.networks import create_model, penultimate
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.references import PretrainedWeights, SuiteSnapshot, WeightsFile
from lrbench.store.results import read_result
from lrbench.transfer import cell as cell_module
from lrbench.transfer.cell import Transfer
from lrbench.transfer.features import extract
from lrbench.transfer.protocols import logistic, logme, probe
from lrbench.transfer.recommend import on_equal_terms, recommend
from lrbench.transfer.recommendation import Candidate
from lrbench.transfer.selection import LabelledFeatures
from lrbench.transfer.target import open_target
from tests.transfer.helpers import problem


def test_standardisation_uses_training_statistics():
    train, other = problem("overlapping", seed=1), problem("overlapping", seed=2, count=60)
    shifted = LabelledFeatures(features=3 * other.features + 5, labels=other.labels)
    settings = Probe(strengths=3)
    choice = probe.select(train, shifted, classes=6, metric="top1", settings=settings)
    fitted = probe.fit(train, choice, classes=6, settings=settings)
    mean, deviation = train.features.double().mean(0), train.features.double().std(0, unbiased=False)
    inputs = torch.cat([(shifted.features.double() - mean) / deviation, torch.ones(60, 1)], dim=1)
    torch.testing.assert_close(fitted.scores(shifted.features), inputs @ fitted._weights, rtol=1e-4, atol=1e-4)
    # Validation is scored in the same way.
    best = max(candidate["score"] for candidate in choice.candidates)
    grid = settings.grid()
    standard = (train.features.double() - mean) / deviation
    scores = [
        float(((inputs @ fit.weights).argmax(1) == other.labels).double().mean())
        for fit in logistic.solve(
            torch.cat([standard, torch.ones(len(standard), 1)], dim=1).float(), train.labels, grid,
            classes=6, settings=settings,
        )
    ]  # fmt: skip
    assert best == pytest.approx(max(scores))


def test_selection_uses_the_metric_of_the_task():
    # One class has nearly all images: by top-1 the strongest penalty, which always predicts it, is best.
    draw = np.random.default_rng(0)
    labels = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
    features = torch.from_numpy(draw.normal(size=(100, 8)).astype(np.float32)) + labels[:, None] * 0.8
    data = LabelledFeatures(features=features, labels=labels)
    chosen = {
        metric: probe.select(data, data, classes=3, metric=metric, settings=Probe(strengths=12)).candidates
        for metric in ("top1", "mean_per_class")
    }
    strongest = {metric: candidates[0]["score"] for metric, candidates in chosen.items()}
    assert strongest["top1"] == pytest.approx(0.9) and strongest["mean_per_class"] == pytest.approx(1 / 3)


def test_official_validation_split_is_used(reference, place, monkeypatch):
    target = open_target("tiny-objects", reference.suite.input, place.roots, False, place.workspace.cache, Control())
    given = np.arange(40, 48)
    development = type(target.development)(**{**vars(target.development), "given": given})
    monkeypatch.setattr(
        cell_module, "open_target", lambda *_: type(target)(**{**vars(target), "development": development})
    )
    seen = {}
    select = probe.select
    monkeypatch.setattr(
        probe,
        "select",
        lambda train, validation, **named: (
            seen.update(train=len(train.labels), labels=validation.labels) or select(train, validation, **named)
        ),
    )
    working = Transfer(reference, TransferSettings.of(reference.suite), place, Control())
    result = read_result(working.run(Cell(task="tiny-objects", protocol="probe", seed=0)))
    assert seen["train"] == 40 and seen["labels"].tolist() == development.labels[given].tolist()
    assert result.selection["on"] == "validation split"


def test_concat_partner_has_the_same_seed(tiny, place):
    for seed in (0, 1):
        for stage in (0, 1):
            make_snapshot(tiny, SnapshotKey(arm="step", seed=seed, stage=stage), place, Control())
    own, partner, other = (SnapshotKey(arm="step", seed=seed, stage=stage) for seed, stage in ((1, 0), (1, 1), (0, 1)))
    named = {
        key: SuiteSnapshot(suite=tiny, key=key, checkpoints=place.workspace.checkpoints)
        for key in (own, partner, other)
    }
    target = open_target("tiny-objects", tiny.input, place.roots, False, place.workspace.cache, Control())
    alone = {
        key: extract(working._network.inference, target, working._network.normalise, Control(), penultimate).test
        for key, working in (
            (key, Transfer(reference, TransferSettings.of(tiny), place, Control())) for key, reference in named.items()
        )
    }
    together = Transfer(named[own], TransferSettings.of(tiny), place, Control())
    features = together._features.get(target, "partner").features
    assert torch.equal(features.test, torch.cat([alone[own], alone[partner]], dim=1))
    assert not torch.equal(alone[partner], alone[other])


def test_recommendation_ignores_test_accuracy(monkeypatch, place, home):
    scores = {"a": (0.9, 0.1), "b": (0.5, 0.8)}

    def compare(candidate, protocols, work):
        validation, test = scores[candidate.reference.text]
        candidate.score = validation
        candidate.logme = 1.0
        candidate.result = SimpleNamespace(result=SimpleNamespace())
        candidate.result.result.snapshot = SimpleNamespace(sha256=candidate.reference.text)
        candidate.result.result.task = SimpleNamespace(metric="top1")
        candidate.result.result.selection = {"candidates": [{"score": validation}]}
        candidate.result.result.metrics, candidate.result.result.test_count = {"top1": test}, 100
        candidate.result.predictions = SimpleNamespace(label=np.zeros(4, dtype=np.int64), prediction=np.zeros(4))

    monkeypatch.setattr("lrbench.transfer.recommend._compare", compare)
    recommendation = recommend(
        [WeightsFile(text=name, path=home / name) for name in ("b", "a")],
        "tiny-objects",
        TransferSettings(),
        place,
        Control(),
        top=5,
    )
    assert recommendation.best is not None and recommendation.best.reference.text == "a"
    assert isinstance(recommendation.best, Candidate)


@pytest.mark.usefixtures("small_probe_grid")
def test_suite_settings_apply_to_its_snapshots_only(lrbench, pretrain_tiny, home):
    pretrain_tiny()
    # Results of the suite are reused, and the leaderboard misses nothing.
    first = lrbench("recommend", "--task", "tiny-objects", "--snapshots", "stage1", "--snapshots", "stage2")
    assert first.status == 0 and lrbench("leaderboard", "tiny").status == 0
    paths = list((home / "leaderboard/results/tiny").rglob("*.probe.seed0.json"))
    assert paths and all(json.loads(path.read_text())["settings"]["probe"]["strengths"] == 3 for path in paths)
    content = [path.read_bytes() for path in paths]
    file = home / "mine.safetensors"
    for ending in (".bn.safetensors", ".safetensors"):
        original = home / f"checkpoints/tiny/step/seed0/stage2{ending}"
        file.with_name(f"mine{ending}").write_bytes(original.read_bytes())
    mixed = lrbench("recommend", "--task", "tiny-objects", "--snapshots", "stage1", "--snapshots", str(file))
    assert mixed.status == 0, mixed.err
    assert [path.read_bytes() for path in paths] == content
    assert len(list((home / "leaderboard/results/foreign").rglob("*.probe.seed0.json"))) == 2


def test_large_grid_on_a_cpu_is_announced(capsys):
    from lrbench.cli.many import note_grid_cost
    from lrbench.config.protocols import Finetune

    note_grid_cost(Finetune(updates=100))
    assert capsys.readouterr().err == ""
    note_grid_cost(Finetune())
    assert "fine-tuning 20 grid points on a CPU, for 5,000 updates of 64 images each" in capsys.readouterr().err


def test_settings_are_shared_within_one_suite(tiny, place):
    key = SnapshotKey(arm="step", seed=0, stage=1)
    own = SuiteSnapshot(suite=tiny, key=key, checkpoints=place.workspace.checkpoints)
    references, settings, _ = on_equal_terms([own, own])
    assert references[0].suite == tiny and settings == TransferSettings.of(tiny)
    references, settings, _ = on_equal_terms([own, PretrainedWeights(source="timm", name="x")])
    assert not any(isinstance(reference, SuiteSnapshot) for reference in references) and settings == TransferSettings()


def test_every_snapshot_of_a_folder_is_transferred(lrbench, pretrain_tiny, home):
    pretrain_tiny("step")
    folder = home / "checkpoints" / "tiny" / "step" / "seed0"
    done = lrbench("transfer", "--snapshot", str(folder), "--task", "tiny-objects", "--protocol", "knn", "--json")
    records = json.loads(done.out)
    assert done.status == 0 and [record["snapshot"]["stage"] for record in records] == [None] * 4
    assert len({record["snapshot"]["sha256"] for record in records}) == 4
    again = lrbench("transfer", "--snapshot", str(folder), "--task", "tiny-objects", "--protocol", "knn")
    assert again.err.count("nothing was computed") == 4 and len(again.out.splitlines()) == 2 + 4


def folder_of_three(lrbench, home):
    """The command for a folder of snapshots, the second of which is damaged."""
    for seed, name in enumerate(("a", "b", "c")):
        torch.save(create_model("test_resnet", {}, classes=4, seed=seed).state_dict(), home / f"{name}.pth")
    assert lrbench("snapshots", "add", "a.pth", "b.pth", "c.pth", "--architecture", "test_resnet").status == 0
    folder = home / "checkpoints" / "foreign"
    (folder / "b.safetensors").write_bytes(b"no tensors")
    return ("transfer", "--snapshot", str(folder), "--task", "tiny-objects", "--protocol", "knn")


def test_bad_file_does_not_stop_a_folder(lrbench, home):
    command = folder_of_three(lrbench, home)
    done = lrbench(*command, "--json")
    assert done.status == 2, done.err
    assert [record["snapshot"]["reference"] for record in json.loads(done.out)] == ["foreign/a", "foreign/c"]
    last = done.err.splitlines()[-1]
    assert (
        last.startswith("lrbench: 1 of 3 transfers failed. ") and "foreign/b: " in last and "not a safetensors" in last
    )
    lines = lrbench(*command)
    assert lines.status == 2 and len(lines.out.splitlines()) == 2 + 2 and "foreign/b: " in lines.err.splitlines()[-1]
    # A bad snapshot that is named alone ends the command.
    alone = lrbench(*command[:2], "foreign/b", *command[3:], "--json")
    assert alone.status == 2 and alone.out == "" and "transfers failed" not in alone.err


def test_stop_ends_a_folder_and_prints_finished_results(lrbench, home, monkeypatch):
    command = folder_of_three(lrbench, home)
    run = Transfer.run

    def stopped(self, cell, **options):
        if self.record.reference == "foreign/c":
            raise InterruptedWork("stopped here.")
        return run(self, cell, **options)

    (home / "checkpoints" / "foreign" / "d.safetensors").write_bytes(b"never reached")
    monkeypatch.setattr(Transfer, "run", stopped)
    done = lrbench(*command, "--json")
    assert done.status == 130 and "stopped here." in done.err and "foreign/b: " in done.err
    assert "foreign/d" not in done.err
    assert [record["snapshot"]["reference"] for record in json.loads(done.out)] == ["foreign/a"]


def test_pretrained_weights_are_computed_once(lrbench, home):
    for expected in (0, 1):
        done = lrbench("transfer", "--snapshot", "timm:test_resnet", "--task", "tiny-objects", "--protocol", "knn")
        assert done.status == 0 and done.err.count("nothing was computed") == expected


def test_stop_interrupts_feature_extraction(reference, place):
    control = Control()
    control.progress = lambda done, total, unit: unit == "images" and control.stop()
    working = Transfer(reference, TransferSettings.of(reference.suite), place, control)
    with pytest.raises(InterruptedWork, match="while extracting features of tiny-objects"):
        working.run(Cell(task="tiny-objects", protocol="probe", seed=0))


@pytest.mark.parametrize("protocol", ["probe", "knn", "fewshot", "depth", "logme"])
def test_stop_interrupts_a_protocol(reference, place, protocol, monkeypatch):
    control = Control()
    working = Transfer(reference, TransferSettings.of(reference.suite), place, control)
    extract = working._features.get

    def extracted(*given):
        features = extract(*given)
        control.stop()
        return features

    monkeypatch.setattr(working._features, "get", extracted)
    with pytest.raises(InterruptedWork, match="stopped within a cell"):
        working.run(Cell(task="tiny-objects", protocol=protocol, seed=0))


def test_probe_reports_solved_strengths():
    data, told, control = problem("overlapping"), [], Control()
    control.progress = lambda done, total, unit: told.append((done, total, unit))
    probe.select(data, data, classes=6, metric="top1", settings=Probe(strengths=3), control=control)
    assert told == [(1, 3, "strengths"), (2, 3, "strengths"), (3, 3, "strengths")]


def test_class_without_images_does_not_change_logme():
    data = problem("overlapping")
    wider = logme.Evidence(data, 9).score
    assert wider == pytest.approx(logme.Evidence(data, 6).score, rel=1e-12)


def test_evidence_is_computed_once_per_cell(monkeypatch):
    data = problem("overlapping")
    created = []
    begin = logme.Evidence.__init__
    monkeypatch.setattr(logme.Evidence, "__init__", lambda self, *given: created.append(1) or begin(self, *given))
    choice = logme.select(data, data, classes=6, metric="top1", settings=None)
    logme.fit(data, choice, classes=6, settings=None)
    assert created == [1]


def test_five_dimensional_weights_stay_contiguous():
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, 2, 3, 4, 5))

    assert to_device(Wide(), torch.device("cpu")).weight.shape == (1, 2, 3, 4, 5)


def test_strided_convolution_gets_contiguous_input_on_cpu():
    """torch 2.14 writes out of bounds in the backward pass if the input or the weight is channels last."""
    model = to_device(torch.nn.Sequential(torch.nn.Conv2d(3, 48, 1, stride=2)), torch.device("cpu"))
    images = torch.zeros(2, 224, 224, 3).permute(0, 3, 1, 2)
    # The hook is registered once.
    (order,) = to_device(model, torch.device("cpu"))[0]._forward_pre_hooks.values()
    assert not images.is_contiguous() and order(model[0], (images,))[0].is_contiguous()
    assert model[0].weight.stride() == (3, 1, 1, 1)
    model(images).sum().backward()
    usual = to_device(create_model("test_resnet", {}, classes=2), torch.device("cpu"))
    assert not any(module._forward_pre_hooks for module in usual.modules())
