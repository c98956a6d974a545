"""Memory of protocols besides the features."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lrbench.config.protocols import Fewshot, Knn, Probe
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.transfer import blocks
from lrbench.transfer.diagnostics import describe_features
from lrbench.transfer.metrics import calibration, metrics
from lrbench.transfer.protocols import fewshot, knn, logistic, logistic_large, logme, probe
from lrbench.transfer.selection import LabelledFeatures
from tests.transfer.helpers import collapse_by_definition


class Largest(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operation creates."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        outputs = operation(*arguments, **(named or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in arguments if isinstance(tensor, torch.Tensor)}
        for tensor in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return outputs


def labelled_features(count, width, classes, kind=torch.relu):
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=draw)
    features = torch.randn(count, width, generator=draw)
    features += torch.randn(classes, width, generator=draw)[labels]
    return LabelledFeatures(features=kind(features), labels=labels)


def plain(features, labels, classes):
    """Return the same statistics from a float64 copy of all features."""
    wide = features.double()
    norms = wide.norm(dim=1)
    unit = wide / norms[:, None]
    centres = torch.stack([unit[labels == label].mean(0) for label in range(classes) if (labels == label).any()])
    within, total = 1 - centres.square().sum(1).mean(), 1 - centres.mean(0).square().sum()
    values = torch.linalg.svdvals(wide - wide.mean(0))
    nc1, nc2 = collapse_by_definition(wide.numpy(), labels.numpy())
    shares = values / values.sum()
    return {
        "class_separation": float(1 - within / total),
        "effective_rank": float(torch.special.entr(shares).sum().exp()),
        "feature_norm": float(norms.mean()),
        "nc1": nc1,
        "nc2": nc2,
    }


@pytest.mark.parametrize(("count", "width", "classes"), [(900, 40, 7), (300, 30, 400), (60, 90, 5)])
def test_blockwise_description_equals_the_whole(count, width, classes, monkeypatch):
    data = labelled_features(count, width, classes)
    expected = plain(data.features, data.labels, classes)
    for size in (blocks._BYTES, 8 * 90 * 7):
        monkeypatch.setattr(blocks, "_BYTES", size)
        description = describe_features(data.features, data.labels, classes)
        # With N < D, centred features have a zero singular value, whose rounding error enters as its square root.
        assert description == pytest.approx(expected, rel=1e-9 if count > width else 1e-6)


@pytest.mark.parametrize("what", ["describe", "logme"])
def test_no_tensor_is_near_the_size_of_the_features(what, monkeypatch):
    data = labelled_features(5000, 64, 20)
    whole = data.features.nbytes
    monkeypatch.setattr(blocks, "_BYTES", whole // 10)
    with Largest() as largest:
        if what == "describe":
            describe_features(data.features, data.labels, 20)
        else:
            nothing = LabelledFeatures(features=data.features[:0], labels=data.labels[:0])
            choice = logme.select(data, nothing, classes=20, metric="top1", settings=None)
    assert largest.bytes <= 0.1 * whole
    if what == "logme":
        # Only the scores have an entry per image.
        with Largest() as largest:
            scores = logme.fit(data, choice, classes=20, settings=None).scores(data.features)
        assert largest.bytes <= max(0.1 * whole, scores.nbytes)


def test_probe_works_in_blocks_with_few_classes(monkeypatch):
    data = labelled_features(5000, 64, 3)
    monkeypatch.setattr(blocks, "_BYTES", data.features.nbytes // 10)
    monkeypatch.setattr(logistic, "_SMALL", 0)
    monkeypatch.setattr(logistic_large, "_INPUT_BYTES", data.features.nbytes // 10)
    standardise = logistic.Standardiser(data.features)
    inputs = standardise(data.features)
    strength = Probe(strengths=2)
    with Largest() as largest:
        (fit,) = logistic.solve(inputs, data.labels, [1.0], classes=3, settings=strength)
        # In float64, logits and their gradients for 5,000 images take 120 kB.
        assert largest.bytes <= data.features.nbytes / 8
    fitted = probe.FittedProbe(standardise, fit)
    with Largest() as largest:
        scores = fitted.scores(data.features)
    assert largest.bytes <= inputs.nbytes
    torch.testing.assert_close(scores, inputs.double() @ fit.weights, rtol=1e-12, atol=1e-12)


def test_knn_selection_stores_no_scores(monkeypatch):
    train, queries = labelled_features(300, 16, 200), labelled_features(2000, 16, 200)
    monkeypatch.setattr(knn, "_BYTES", 4 * 300 * 50)
    with Largest() as largest:
        knn.select(train, queries, classes=200, metric="top1", settings=Knn())
    # Scores of all queries would take 3.2 MB for each k; those of 50 queries take 80 kB.
    assert largest.bytes <= 8 * 2000 * 7


@pytest.mark.parametrize("classes", [3, 50])
def test_blockwise_evidence_equals_the_whole(classes, monkeypatch):
    data = labelled_features(400, 24, classes)
    whole = logme.Evidence(data, classes)
    told, control = [], Control()
    control.progress = lambda done, total, unit: told.append((done, total, unit))
    monkeypatch.setattr(logme, "_BYTES", 8 * 24 * 2)
    parts = logme.Evidence(data, classes, control)
    assert parts.score == pytest.approx(whole.score, rel=1e-12)
    torch.testing.assert_close(parts.weights, whole.weights, rtol=1e-10, atol=1e-12)
    assert told[0] == (1, 100, "iterations at most") and len(told) > 2


def test_logme_works_on_blocks_of_classes(monkeypatch):
    data = labelled_features(3000, 16, 2000)
    monkeypatch.setattr(blocks, "_BYTES", 8 * 16 * 100)
    monkeypatch.setattr(logme, "_BYTES", 8 * 16 * 100)
    with Largest() as largest:
        evidence = logme.Evidence(data, 2000)
    # One number per feature and class; all other tensors are smaller.
    assert largest.bytes <= evidence.weights.nbytes
    with Largest() as largest:
        scores = blocks.float64_product(data.features, evidence.weights)
    assert largest.bytes <= scores.nbytes
    with Largest() as largest:
        metrics(scores, data.labels)
        calibration(scores, data.labels)
    assert largest.bytes <= scores.nbytes / 50


def test_stop_interrupts_between_blocks_of_classes(monkeypatch):
    monkeypatch.setattr(logme, "_BYTES", 8 * 16)
    control = Control()
    asked = []
    monkeypatch.setattr(control, "stop_requested", lambda: asked.append(1) or len(asked) > 30)
    with pytest.raises(InterruptedWork):
        logme.Evidence(labelled_features(300, 16, 200), 200, control)
    assert len(asked) == 31


def test_long_fit_reports_iterations_and_can_stop(monkeypatch):
    monkeypatch.setattr(logistic, "_SMALL", 0)
    monkeypatch.setattr(logistic_large, "_REPORT_SECONDS", 0.0)
    monkeypatch.setattr(logistic_large, "_LOGIT_BYTES", 4 * 50 * 10)
    data, told, control = labelled_features(200, 8, 50), [], Control()
    control.progress = lambda done, total, unit: told.append((done, total, unit))
    choice = probe.Choice(chosen={"shots": 2, "strength": 1.0}, candidates=(), edge=False, metric="top1")
    settings = fewshot.FewshotSettings(fewshot=Fewshot(shots=2), probe=Probe(), seed=0)
    fewshot.fit(data, choice, classes=50, settings=settings, control=control)
    assert told[0] == (1, Probe().iterations, "iterations at most") and told[-1][0] > 3
    asked = []
    monkeypatch.setattr(control, "stop_requested", lambda: asked.append(1) or len(asked) > 3)
    with pytest.raises(InterruptedWork):
        fewshot.fit(data, choice, classes=50, settings=settings, control=control)


def test_largest_counts_every_tensor():
    with Largest() as largest:
        torch.zeros(10, 10).double()
    assert largest.bytes == 800
