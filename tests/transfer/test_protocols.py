import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from lrbench.config.protocols import Knn, Probe
from lrbench.core.errors import InputError
from lrbench.transfer.metrics import metrics
from lrbench.transfer.protocols import knn, probe
from lrbench.transfer.protocols.lbfgs import Minimum
from lrbench.transfer.selection import Choice, LabelledFeatures
from tests.transfer.helpers import problem, split

SETTINGS = Probe(strengths=9)


def objective(inputs, labels, weights, strength):
    loss = torch.nn.functional.cross_entropy(inputs.double() @ weights, labels, reduction="sum")
    return float(loss + strength / 2 * weights[:-1].square().sum())


@pytest.mark.parametrize("kind", ["overlapping", "separable", "collinear"])
@pytest.mark.parametrize("together", [True, False])
def test_every_strength_reaches_scikit_learns_objective(kind, together, monkeypatch):
    # On a GPU several strengths are solved together.
    monkeypatch.setattr(probe._Problems, "at_once", lambda self: 5 if together else 1)
    data = problem(kind)
    inputs = probe.Standardiser(data.features)(data.features)
    grid = Probe(strengths=12).grid()
    for strength, fit in zip(grid, probe.solve(inputs, data.labels, grid, classes=6, settings=SETTINGS), strict=True):
        theirs = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=10000)
        theirs.fit(inputs[:, :-1].double().numpy(), data.labels.numpy())
        weights = torch.from_numpy(np.vstack([theirs.coef_.T, theirs.intercept_[None]]))
        reference = objective(inputs, data.labels, weights, strength)
        mine = objective(inputs, data.labels, fit.weights, strength)
        assert mine <= max(reference * (1 + 1e-5), reference + 1e-7 * len(data.labels))
        assert fit.objective * len(data.labels) == pytest.approx(mine, rel=1e-9, abs=1e-12)
        assert fit.converged and fit.gradient <= SETTINGS.tolerance * max(1, strength / len(data.labels))
        agree = ((inputs.double() @ fit.weights).argmax(1) == (inputs.double() @ weights).argmax(1)).double().mean()
        assert agree > 0.99


def test_the_solution_is_checked_in_double_precision_and_gone_on_with_there(monkeypatch):
    data = problem("overlapping")
    inputs = probe.Standardiser(data.features)(data.features)
    # A tolerance that single precision cannot reach.
    tight = Probe(strengths=3, weakest=0.1, strongest=10, tolerance=1e-11)
    kinds = []
    evaluate = probe._Problems.evaluate
    monkeypatch.setattr(
        probe._Problems,
        "evaluate",
        lambda self, points, which: kinds.append(points.dtype) or evaluate(self, points, which),
    )
    for fit in probe.solve(inputs, data.labels, tight.grid(), classes=6, settings=tight):
        assert fit.converged and fit.gradient <= 1e-11
    assert kinds.count(torch.float64) > 6 and torch.float32 in kinds


def test_single_precision_is_not_taken_at_its_word(monkeypatch):
    data = problem("overlapping")
    inputs = probe.Standardiser(data.features)(data.features)
    minimise = probe.minimise

    def boasts(evaluate, start, **settings):
        if start.dtype == torch.float64:
            return minimise(evaluate, start, **settings)
        # Stops at once and says that it is done.
        return Minimum(
            points=start.clone(),
            iterations=torch.zeros(len(start), dtype=torch.int64),
            converged=torch.ones(len(start), dtype=torch.bool),
            scales=torch.zeros(len(start)),
        )

    monkeypatch.setattr(probe, "minimise", boasts)
    (fit,) = probe.solve(inputs, data.labels, [1.0], classes=6, settings=SETTINGS)
    assert fit.converged and fit.gradient <= SETTINGS.tolerance and fit.iterations > 5


def test_a_fit_that_is_cut_off_says_that_it_did_not_converge():
    data = problem("overlapping")
    short = Probe(strengths=2, iterations=2, weakest=1e-3, strongest=1.0)
    inputs = probe.Standardiser(data.features)(data.features)
    fits = probe.solve(inputs, data.labels, short.grid(), classes=6, settings=short)
    assert not any(fit.converged for fit in fits) and all(fit.gradient > short.tolerance for fit in fits)
    choice = probe.select(data, data, classes=6, metric="top1", settings=short)
    assert [candidate["converged"] for candidate in choice.candidates] == [False, False]


@pytest.mark.parametrize("module", [probe, knn])
def test_selection_reads_validation_and_breaks_ties_to_the_smoother_side(module):
    data = problem("separable")
    train, held = split(data)
    settings = SETTINGS if module is probe else Knn()
    choice = module.select(train, held, classes=6, metric="top1", settings=settings)
    best = max(candidate["score"] for candidate in choice.candidates)
    name = "strength" if module is probe else "neighbours"
    smoothest = max(candidate[name] for candidate in choice.candidates if candidate["score"] == best)
    assert choice.chosen == {name: smoothest}


@pytest.mark.parametrize("module", [probe, knn])
def test_permuted_labels_score_chance(module):
    settings = SETTINGS if module is probe else Knn()
    scores = []
    for seed in range(5):
        data = problem("separable", seed=seed)
        shuffled = data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))]
        train, held = split(LabelledFeatures(features=data.features, labels=shuffled), seed)
        choice = module.select(train, held, classes=6, metric="top1", settings=settings)
        fitted = module.fit(train, choice, classes=6, settings=settings)
        test = problem("separable", seed=seed + 100)
        scores.append(float((fitted.scores(test.features).argmax(1) == test.labels).double().mean()))
    assert np.mean(scores) < 1 / 6 + 0.08


def test_standardisation_is_learnt_on_what_is_fitted_alone():
    data = problem("overlapping")
    standardise = probe.Standardiser(data.features)
    inputs = standardise(data.features)[:, :-1].double()
    assert torch.allclose(inputs.mean(0), torch.zeros(24, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(inputs.std(0, unbiased=False), torch.ones(24, dtype=torch.float64), atol=1e-6)
    assert not torch.allclose(
        standardise(data.features + 5)[:, :-1].double().mean(0), torch.zeros(24, dtype=torch.float64)
    )


def test_the_probe_is_the_same_bits_each_time():
    data = problem("overlapping")
    choice = Choice(chosen={"strength": 0.1}, candidates=(), edge=False, metric="top1")
    first, again = (probe.fit(data, choice, classes=6, settings=SETTINGS).scores(data.features) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_agrees_with_scikit_learn(k):
    train, test = problem("overlapping", seed=1), problem("overlapping", seed=2, count=100)
    choice = Choice(chosen={"neighbours": k}, candidates=(), edge=False, metric="top1")
    mine = knn.fit(train, choice, classes=6, settings=Knn()).scores(test.features)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train.features, train.labels)
    votes = theirs.predict_proba(test.features) * k
    assert np.allclose(np.round(mine.numpy()), votes, atol=1e-6)


def test_knn_votes_are_not_overturned_by_similarity():
    data = LabelledFeatures(features=torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.9, 0.5]]), labels=torch.tensor([0, 1, 1]))
    choice = Choice(chosen={"neighbours": 3}, candidates=(), edge=False, metric="top1")
    scores = knn.fit(data, choice, classes=2, settings=Knn()).scores(torch.tensor([[1.0, 0.0]]))
    assert scores.argmax(1).item() == 1


@pytest.mark.parametrize("k", [1, 4])
def test_knn_puts_classes_without_votes_in_the_order_of_their_nearest_images(k, monkeypatch):
    """Written out; a class's number says nothing, so that top-5 is the same where classes are numbered in another order."""
    train, test = (problem("overlapping", seed=seed, count=count, classes=12) for seed, count in ((1, 240), (2, 60)))
    # Several chunks, and a class without images.
    monkeypatch.setattr(knn, "_BYTES", 4 * 240 * 7)
    choice = Choice(chosen={"neighbours": k}, candidates=(), edge=False, metric="top1")
    scores = knn.fit(train, choice, classes=13, settings=Knn()).scores(test.features)
    unit, queries = (each / each.norm(dim=1, keepdim=True) for each in (train.features, test.features))
    for query, own in zip(queries, scores, strict=True):
        similarity = unit @ query
        voters = set(train.labels[similarity.topk(k).indices].tolist())
        nearest = {label: float(similarity[train.labels == label].max()) for label in set(range(12)) - voters}
        order = own.argsort(descending=True).tolist()
        assert set(order[: len(voters)]) == voters
        assert order[len(voters) :] == [*sorted(nearest, key=lambda label: -nearest[label]), 12]
    other = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    renamed = LabelledFeatures(features=train.features, labels=other[train.labels])
    again = knn.fit(renamed, choice, classes=13, settings=Knn()).scores(test.features)
    assert metrics(again, other[test.labels]) == pytest.approx(metrics(scores, test.labels))


@pytest.mark.parametrize("exponent", [-120, -40, 64, 120])
def test_knn_is_the_same_bits_at_every_scale_of_features(exponent):
    train, test = problem("overlapping", seed=1), problem("overlapping", seed=2, count=50)
    train.features[3] = 0
    choice = Choice(chosen={"neighbours": 5}, candidates=(), edge=False, metric="top1")
    expected = knn.fit(train, choice, classes=6, settings=Knn()).scores(test.features)
    scaled = LabelledFeatures(features=train.features * 2.0**exponent, labels=train.labels)
    assert torch.isfinite(scaled.features).all()
    found = knn.fit(scaled, choice, classes=6, settings=Knn()).scores(test.features * 2.0**exponent)
    assert torch.equal(found, expected)
    # At a common scale the lengths are those of a plain division.
    plain = torch.nn.functional.normalize(train.features, dim=1)
    assert torch.equal(knn._unit(train.features), plain)


def test_knn_with_every_k_too_large_says_what_to_set():
    data = problem("overlapping", count=12)
    with pytest.raises(InputError, match=r"knn\.neighbours"):
        knn.select(data, data, classes=6, metric="top1", settings=Knn(neighbours=(50,)))
