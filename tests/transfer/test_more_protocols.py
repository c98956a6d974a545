"""Few-shot, depth, concat and LogME; diagnostics of features; leaking data."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lrbench.config.protocols import Fewshot, Knn, Probe
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_file
from lrbench.jobs.plan import make_plan
from lrbench.store.cells import Cell, CellStatus, TransferSettings, status_before_loading
from lrbench.store.measures import FEATURES, curve_of, measures_of
from lrbench.store.references import PretrainedWeights, resolve_partner
from lrbench.store.results import read_result
from lrbench.store.snapshots import snapshot_path
from lrbench.store.suites import write_effective
from lrbench.transfer.cell import Transfer
from lrbench.transfer.diagnostics import describe_features
from lrbench.transfer.protocols import depth, fewshot, knn, logme, probe
from lrbench.transfer.selection import LabelledFeatures
from tests.transfer.helpers import problem, split

SETTINGS = Probe(strengths=5)


@pytest.mark.parametrize(("count", "width"), [(120, 10), (30, 50)])
def test_logme_is_the_largest_evidence(count, width):
    """Against the marginal likelihood with its full covariance, maximised by Nelder-Mead."""
    draw = np.random.default_rng(1)
    labels = np.arange(count) % 3
    features = np.maximum(draw.normal(size=(count, width)) + draw.normal(size=(3, width))[labels], 0)
    data = LabelledFeatures(features=torch.from_numpy(features).float(), labels=torch.from_numpy(labels))
    evidence = logme.Evidence(data, 3)
    wide = data.features.double().numpy()
    expected = [_best_evidence((labels == label).astype(float), wide) for label in range(3)]
    assert evidence.score == pytest.approx(np.mean(expected), abs=1e-3)


def _best_evidence(target, features):
    count = len(target)

    def negative(logs):
        covariance = np.exp(-logs[1]) * np.eye(count) + np.exp(-logs[0]) * features @ features.T
        _, determinant = np.linalg.slogdet(covariance)
        fitted = target @ np.linalg.solve(covariance, target)
        return 0.5 * (count * np.log(2 * np.pi) + determinant + fitted) / count

    level = np.log(np.square(features).mean())
    starts = [(level, 0.0), (level + 3.0, 1.0), (level - 2.0, 3.0)]
    return -min(minimize(negative, start, method="Nelder-Mead", tol=1e-9).fun for start in starts)


@pytest.mark.parametrize(("silent", "scale"), [([2], 1.0), ([2], 1e-6), ([2], 1e6), ([0, 1, 2], 1.0)])
def test_logme_of_a_class_with_zero_features(silent, scale):
    """The best weights are zero, and the evidence of a noise-only model has a closed form."""
    count = 90
    labels = np.arange(count) % 3
    features = scale * np.random.default_rng(1).exponential(size=(count, 8))
    features[np.isin(labels, silent)] = 0
    data = LabelledFeatures(features=torch.from_numpy(features).float(), labels=torch.from_numpy(labels))
    evidence = logme.Evidence(data, 3)
    assert torch.isfinite(evidence.weights).all() and float(evidence.weights[:, silent].abs().max()) * scale < 1e-9
    alone = -0.5 * np.log(2 * np.pi * (count / 3) / count) - 0.5
    if len(silent) == 3:
        assert evidence.score == pytest.approx(alone, abs=1e-9)
    else:
        shown = labels != 2
        rest = [_best_evidence((labels == label).astype(float), features) for label in np.unique(labels[shown])]
        assert evidence.score == pytest.approx(np.mean([*rest, alone]), abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_logme_of_collinear_features_is_finite(seed):
    """Rounding outside the span of the features must not count; two seeds at which it became NaN."""
    labels = np.arange(90) % 3
    draw = np.random.default_rng(seed)
    own = draw.exponential(size=(90, 4)).astype(np.float32)
    own[labels == 0], own[labels > 0, 0] = [1, 0, 0, 0], 0
    data = LabelledFeatures(
        features=torch.from_numpy(own @ draw.exponential(size=(4, 16)).astype(np.float32)),
        labels=torch.from_numpy(labels),
    )
    evidence = logme.Evidence(data, 3)
    assert evidence.score > 1 and float(evidence.weights.abs().max()) < 1
    assert torch.equal((data.features.double() @ evidence.weights).argmax(1) == 0, data.labels == 0)


def test_logme_prefers_separable_features():
    scores = {kind: logme.Evidence(problem(kind), 6).score for kind in ("separable", "overlapping")}
    noise = LabelledFeatures(features=torch.randn(240, 24), labels=problem("separable").labels)
    assert scores["separable"] > scores["overlapping"] > logme.Evidence(noise, 6).score - 0.05
    fitted = logme.fit(
        problem("separable"),
        logme.select(*split(problem("separable")), classes=6, metric="top1", settings=None),
        classes=6,
        settings=None,
    )
    test = problem("separable", seed=0)
    assert float((fitted.scores(test.features).argmax(1) == test.labels).double().mean()) > 0.9


def test_few_shots_are_drawn_by_class_and_seed():
    labels = np.array([0] * 10 + [1] * 3 + [2] * 10)
    drawn = fewshot.draw(labels, 5, seed=0)
    assert np.bincount(labels[drawn]).tolist() == [5, 3, 5]
    assert np.array_equal(drawn, fewshot.draw(labels, 5, seed=0)) and not np.array_equal(
        drawn, fewshot.draw(labels, 5, seed=1)
    )


def test_few_shot_fits_on_drawn_images_only():
    data = problem("separable")
    settings = fewshot.FewshotSettings(fewshot=Fewshot(shots=4, curve=()), probe=SETTINGS, seed=3)
    choice = fewshot.select(data, data, classes=6, metric="top1", settings=settings)
    drawn = fewshot.draw(data.labels.numpy(), 4, 3)
    # All other images are NaN: reading one would change the scores.
    spoilt = torch.full_like(data.features, float("nan"))
    spoilt[drawn] = data.features[drawn]
    whole = fewshot.fit(data, choice, classes=6, settings=settings)
    few = fewshot.fit(LabelledFeatures(features=spoilt, labels=data.labels), choice, classes=6, settings=settings)
    assert torch.equal(whole.scores(data.features), few.scores(data.features)) and whole.diagnostics["images"] == 24


def test_few_shot_curve_equals_separate_runs(reference, place):
    def run(**values):
        settings = TransferSettings.of(reference.suite).model_copy(update={"fewshot": Fewshot(**values)})
        cell = Cell(task="tiny-objects", protocol="fewshot", seed=0)
        return read_result(Transfer(reference, settings, place, Control()).run(cell))

    result = run()
    # 12 training images of each class: no point at 20.
    assert set(result.diagnostics["shots"]) == {"1", "2", "10"} and result.train_count == 20
    curve = curve_of(measures_of(result), "shots_")
    assert curve == {shots: run(shots=shots, curve=()).headline for shots in (1, 2, 5, 10)}


def test_default_few_shot_curve_is_not_written():
    assert Fewshot().model_dump(mode="json") == {"shots": 5, "strength": 1.0}
    assert Fewshot(curve=(1, 3)).model_dump(mode="json")["curve"] == [1, 3]


def test_depth_selects_the_informative_stage():
    data = problem("separable")
    noise = [torch.randn(240, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    features = torch.cat([noise[0], data.features, noise[1]], dim=1)
    settings = depth.DepthSettings(probe=SETTINGS, widths=(7, 24, 7))
    train, held = split(LabelledFeatures(features=features, labels=data.labels))
    choice = depth.select(train, held, classes=6, metric="top1", settings=settings)
    assert choice.chosen["depth"] == 2 and {candidate["depth"] for candidate in choice.candidates} == {1, 2, 3}
    fitted = depth.fit(LabelledFeatures(features=features, labels=data.labels), choice, classes=6, settings=settings)
    assert float((fitted.scores(features).argmax(1) == data.labels).double().mean()) > 0.95


@pytest.mark.parametrize("module", [probe, knn, logme])
def test_leaking_test_features_do_not_help(module):
    """A column that is zero in training and the label in test images must not help."""
    data, test = problem("overlapping", seed=1), problem("overlapping", seed=2)
    train, held = split(data)
    leaking = torch.cat([test.features, 100.0 * test.labels[:, None].float()], dim=1)
    blind = [
        LabelledFeatures(
            features=torch.cat([split.features, torch.zeros(len(split.labels), 1)], dim=1), labels=split.labels
        )
        for split in (data, train, held)
    ]
    settings = {probe: SETTINGS, knn: Knn(neighbours=(1, 5)), logme: None}[module]
    scores = []
    for (whole, *parts), features in (((data, train, held), test.features), (blind, leaking)):
        choice = module.select(*parts, classes=6, metric="top1", settings=settings)
        scores.append(module.fit(whole, choice, classes=6, settings=settings).scores(features).argmax(1))
    accuracies = [float((predictions == test.labels).double().mean()) for predictions in scores]
    assert accuracies[1] <= accuracies[0] + 0.02


def test_diagnostics_match_their_definitions():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [5, 8, 4])
    features = draw.normal(size=(17, 6)) + 2 * draw.normal(size=(3, 6))[labels]
    description = describe_features(torch.from_numpy(features).float(), torch.from_numpy(labels), 4)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    classes = [labels == label for label in range(3)]
    within = np.mean([distance[np.ix_(members, members)].mean() for members in classes])
    total = np.mean([distance[np.ix_(one, other)].mean() for one in classes for other in classes])
    assert description["class_separation"] == pytest.approx(1 - within / total, abs=1e-5)
    assert description["feature_norm"] == pytest.approx(np.linalg.norm(features, axis=1).mean(), rel=1e-5)
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / values.sum()
    assert description["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    line = np.outer(draw.normal(size=40), draw.normal(size=9))
    assert describe_features(torch.from_numpy(line), torch.zeros(40, dtype=torch.int64), 1)["effective_rank"] < 1.1


def test_effective_rank_of_collapsed_features_is_exact():
    draw = np.random.default_rng(1)
    features = (draw.normal(size=(600, 3)) @ draw.normal(size=(3, 400))).astype(np.float32)
    values = np.linalg.svd(features.astype(np.float64) - features.astype(np.float64).mean(0), compute_uv=False)
    shares = values / values.sum()
    rank = describe_features(torch.from_numpy(features), torch.zeros(600, dtype=torch.int64), 1)["effective_rank"]
    assert rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


@pytest.fixture
def reference(make_reference):
    return make_reference(2)


@pytest.mark.parametrize("protocol", ["fewshot", "concat", "depth", "logme", "representation"])
def test_protocol_writes_a_complete_cell(reference, place, protocol):
    settings = TransferSettings.of(reference.suite)
    cell = Cell(task="tiny-objects", protocol=protocol, seed=0)
    path = Transfer(reference, settings, place, Control()).run(cell)
    result = read_result(path)
    assert result.chosen and result.test_count == 40
    assert ("expected_calibration_error" in result.metrics) == (protocol not in ("logme", "representation"))
    assert set(result.diagnostics["features"]) == set(FEATURES)
    assert status_before_loading(place, reference, cell, settings) == CellStatus(path=path, is_done=True)
    if protocol == "fewshot":
        assert result.train_count == 20
        (written,) = (place.workspace.leaderboard / "splits").iterdir()
        assert sha256_file(written) == result.diagnostics["images_sha256"]
        assert len(written.read_text().splitlines()) == 21
    if protocol == "depth":
        assert len(result.selection["candidates"]) == 5
    if protocol == "concat":
        assert result.settings["partner"]["reference"] == "tiny/step/seed0/stage1"


def test_changed_partner_weights_make_a_cell_stale(reference, place, tiny):
    settings = TransferSettings.of(tiny)
    cell = Cell(task="tiny-objects", protocol="concat", seed=0)
    Transfer(reference, settings, place, Control()).run(cell)
    partner = resolve_partner(reference, "step/stage1", place.workspace)
    assert partner.text == "tiny/step/seed0/stage1"
    partner.path.write_bytes(
        snapshot_path(place.workspace.checkpoints, "tiny", SnapshotKey(arm="step", seed=0, stage=0)).read_bytes()
    )
    assert not status_before_loading(place, reference, cell, settings).is_done


def test_unsuitable_settings_are_warned_of(lrbench, reference, place):
    write_effective(place.workspace, reference.suite)
    command = ("transfer", "--task", "tiny-objects", "--protocol")
    lonely = lrbench(*command, "concat", "--snapshot", "stage1")
    assert lonely.status == 0 and "concat.partner is the snapshot itself" in lonely.err
    assert "the snapshot itself" not in lrbench(*command, "concat", "--snapshot", "stage2").err
    few = lrbench(*command, "fewshot", "--snapshot", "stage1", "--set", "fewshot.shots=40")
    assert few.status == 0 and "some classes have fewer than 40" in few.err and "with shots 40, strength 1" in few.out
    assert "fewer than" not in lrbench(*command, "fewshot", "--snapshot", "stage2").err


def test_missing_partner_is_reported_before_images_are_read(lrbench, reference, place, monkeypatch):
    from lrbench.transfer import cell

    write_effective(place.workspace, reference.suite)
    monkeypatch.setattr(cell, "open_target", lambda *given: pytest.fail("images are read"))
    command = ("transfer", "--task", "tiny-objects", "--protocol", "concat", "--snapshot", "stage1")
    missing = lrbench(*command, "--set", "concat.partner=hold/stage3")
    assert missing.status == 2 and "hold/seed0/stage3" in missing.err


def test_foreign_snapshot_needs_a_full_partner_name(place):
    with pytest.raises(InputError, match=r"belongs to no suite.*--set concat\.partner=timm:"):
        resolve_partner(PretrainedWeights(source="timm", name="test_resnet"), "step/stage1", place.workspace)


def test_suite_with_every_protocol_runs(lrbench, home, tiny, drawn):
    protocols = ["probe", "fewshot", "concat", "depth", "logme", "representation"]
    changed = tiny.model_copy(update={"protocols": tuple(protocols)})
    from lrbench.core.workspace import Place, Workspace

    plan = make_plan(changed, Place(workspace=Workspace(root=home), roots=()))
    jobs = {job.name: job for job in plan.jobs()}
    assert jobs["transfer hold/seed0/stage2 to tiny-objects"].needs == (
        "pretrain hold/seed0/stage2",
        "pretrain step/seed0/stage1",
    )
    needs = jobs["transfer step/seed0/stage2 to tiny-objects"].needs
    assert {"pretrain hold/seed0/stage2", "pretrain average/seed0/stage2"} <= set(needs)
    arguments = ("run", "tiny.toml", "--set", f"protocols={json.dumps(protocols)}", "--set", "seeds=[0]")
    done = lrbench(*arguments, "--set", 'arms=["step"]', "--set", 'targets=["tiny-objects"]', "--workers", "1")
    assert done.status == 0, done.err
    page = (home / "leaderboard" / "tiny.md").read_text()
    assert all(f"## {protocol}" in page or protocol in page for protocol in protocols)
    assert lrbench("leaderboard", "--check").status == 0


@pytest.mark.parametrize("protocol", ["probe", "depth"])
def test_unconverged_fits_are_reported(reference, place, lrbench, protocol):
    write_effective(place.workspace, reference.suite)
    arguments = ("transfer", "--snapshot", "tiny/step/stage2", "--task", "tiny-objects", "--protocol", protocol)
    short = lrbench(*arguments, "--set", "probe.iterations=1", "--json")
    assert short.status == 0
    tried = json.loads(short.out)["selection"]["candidates"]
    unsolved = sum(not candidate["converged"] for candidate in tried)
    assert unsolved >= 2 and all(candidate["iterations"] >= 1 for candidate in tried)
    assert f"{unsolved} of the {len(tried)} fits of the grid did not converge" in short.err
    whole = lrbench(*arguments, "--set", "probe.weakest=0.1", "--again", "--json")
    assert all(candidate["converged"] for candidate in json.loads(whole.out)["selection"]["candidates"])
    assert "did not converge" not in whole.err
