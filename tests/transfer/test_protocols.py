import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from lrbench.config.protocols import Knn, Probe
from lrbench.core.errors import InputError
from lrbench.transfer.metrics import metrics
from lrbench.transfer.protocols import knn, logistic, logistic_large, probe
from lrbench.transfer.protocols.lbfgs import Minimum
from lrbench.transfer.selection import Choice, LabelledFeatures
from tests.transfer.helpers import problem, split

SETTINGS = Probe(strengths=9)


def objective(inputs, labels, weights, strength):
    loss = torch.nn.functional.cross_entropy(inputs.double() @ weights, labels, reduction="sum")
    return float(loss + strength / 2 * weights[:-1].square().sum())


@pytest.mark.parametrize("kind", ["overlapping", "separable", "collinear"])
@pytest.mark.parametrize("solver", ["small", "in turn", "together"])
def test_probe_objective_matches_scikit_learn(kind, solver, monkeypatch):
    if solver != "small":
        monkeypatch.setattr(logistic, "_SMALL", 0)
    # On a GPU several strengths are solved together.
    monkeypatch.setattr(logistic_large._Problems, "at_once", lambda self: 5 if solver == "together" else 1)
    data = problem(kind)
    inputs = logistic.Standardiser(data.features)(data.features)
    grid = Probe(strengths=12).grid()
    for strength, fit in zip(
        grid, logistic.solve(inputs, data.labels, grid, classes=6, settings=SETTINGS), strict=True
    ):
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


def test_solvers_agree_on_more_features_than_images(monkeypatch):
    data = problem("overlapping", count=60, width=90)
    inputs, grid = logistic.Standardiser(data.features)(data.features), SETTINGS.grid()
    small = logistic.solve(inputs, data.labels, grid, classes=6, settings=SETTINGS)
    monkeypatch.setattr(logistic, "_SMALL", 0)
    large = logistic.solve(inputs, data.labels, grid, classes=6, settings=SETTINGS)
    assert [fit.objective for fit in small] == pytest.approx([fit.objective for fit in large], abs=1e-7)
    assert all(fit.converged for fit in small)
    unseen = torch.cat([torch.randn(50, 90), torch.ones(50, 1)], dim=1).double()
    for one, other in zip(small[:6], large[:6], strict=True):
        assert torch.allclose(unseen @ one.weights, unseen @ other.weights, atol=0.05)


def test_solutions_are_refined_in_float64(monkeypatch):
    data = problem("overlapping")
    inputs = logistic.Standardiser(data.features)(data.features)
    # A tolerance that float32 cannot reach.
    tight = Probe(strengths=3, weakest=0.1, strongest=10, tolerance=1e-11)
    kinds = []
    monkeypatch.setattr(logistic, "_SMALL", 0)
    evaluate = logistic_large._Problems.evaluate
    monkeypatch.setattr(
        logistic_large._Problems,
        "evaluate",
        lambda self, points, which: kinds.append(points.dtype) or evaluate(self, points, which),
    )
    for fit in logistic.solve(inputs, data.labels, tight.grid(), classes=6, settings=tight):
        assert fit.converged and fit.gradient <= 1e-11
    assert kinds.count(torch.float64) > 6 and torch.float32 in kinds


def test_float32_convergence_is_verified(monkeypatch):
    data = problem("overlapping")
    inputs = logistic.Standardiser(data.features)(data.features)
    monkeypatch.setattr(logistic, "_SMALL", 0)
    minimise = logistic_large.minimise

    def boasts(evaluate, start, **settings):
        if start.dtype == torch.float64:
            return minimise(evaluate, start, **settings)
        # Claims convergence at once.
        return Minimum(
            points=start.clone(),
            iterations=np.zeros(len(start), dtype=np.int64),
            converged=np.ones(len(start), dtype=bool),
            scales=np.zeros(len(start)),
        )

    monkeypatch.setattr(logistic_large, "minimise", boasts)
    (fit,) = logistic.solve(inputs, data.labels, [1.0], classes=6, settings=SETTINGS)
    assert fit.converged and fit.gradient <= SETTINGS.tolerance and fit.iterations > 5


@pytest.mark.parametrize("small", [0, 5_000_000])
def test_unfinished_fit_is_unconverged(small, monkeypatch):
    monkeypatch.setattr(logistic, "_SMALL", small)
    data = problem("overlapping")
    short = Probe(strengths=2, iterations=2, weakest=1e-3, strongest=1.0)
    inputs = logistic.Standardiser(data.features)(data.features)
    fits = logistic.solve(inputs, data.labels, short.grid(), classes=6, settings=short)
    assert not any(fit.converged for fit in fits) and all(fit.gradient > short.tolerance for fit in fits)
    choice = probe.select(data, data, classes=6, metric="top1", settings=short)
    assert [candidate["converged"] for candidate in choice.candidates] == [False, False]


def test_the_size_of_a_problem_decides_its_solver(monkeypatch):
    """Both are within the same tolerance of the solution, and a small problem never uses the device of its features."""
    solved = []
    for name in ("solve_small", "solve_large"):
        solver = getattr(logistic, name)
        monkeypatch.setattr(
            logistic, name, lambda *args, name=name, solver=solver, **more: solved.append(name) or solver(*args, **more)
        )
    data = problem("overlapping")
    inputs = logistic.Standardiser(data.features)(data.features)
    monkeypatch.setattr(logistic, "_SMALL", inputs.numel() * 6)
    (small,) = logistic.solve(inputs, data.labels, [1.0], classes=6, settings=SETTINGS)
    monkeypatch.setattr(logistic, "_SMALL", inputs.numel() * 6 - 1)
    (large,) = logistic.solve(inputs, data.labels, [1.0], classes=6, settings=SETTINGS)
    assert solved == ["solve_small", "solve_large"]
    assert small.objective == pytest.approx(large.objective, abs=2e-8)
    torch.testing.assert_close(small.weights, large.weights, rtol=0, atol=2e-3)


@pytest.mark.parametrize("module", [probe, knn])
def test_ties_prefer_the_smoother_model(module):
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


def test_standardisation_uses_fitted_features_only():
    data = problem("overlapping")
    standardise = logistic.Standardiser(data.features)
    inputs = standardise(data.features)[:, :-1].double()
    assert torch.allclose(inputs.mean(0), torch.zeros(24, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(inputs.std(0, unbiased=False), torch.ones(24, dtype=torch.float64), atol=1e-6)
    assert not torch.allclose(
        standardise(data.features + 5)[:, :-1].double().mean(0), torch.zeros(24, dtype=torch.float64)
    )


def test_probe_is_bit_identical():
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
def test_knn_orders_classes_without_votes_by_similarity(k, monkeypatch):
    """The order of class numbers must not matter for top-5."""
    train, test = (problem("overlapping", seed=seed, count=count, classes=12) for seed, count in ((1, 240), (2, 60)))
    # Several chunks, and a class without images.
    monkeypatch.setattr(knn, "_BYTES", 4 * 240 * 7)
    choice = Choice(chosen={"neighbours": k}, candidates=(), edge=False, metric="top1")
    scores = knn.fit(train, choice, classes=13, settings=Knn()).scores(test.features)
    unit, queries = (features / features.norm(dim=1, keepdim=True) for features in (train.features, test.features))
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
def test_knn_is_bit_identical_at_every_scale(exponent):
    train, test = problem("overlapping", seed=1), problem("overlapping", seed=2, count=50)
    train.features[3] = 0
    choice = Choice(chosen={"neighbours": 5}, candidates=(), edge=False, metric="top1")
    expected = knn.fit(train, choice, classes=6, settings=Knn()).scores(test.features)
    scaled = LabelledFeatures(features=train.features * 2.0**exponent, labels=train.labels)
    assert torch.isfinite(scaled.features).all()
    scores = knn.fit(scaled, choice, classes=6, settings=Knn()).scores(test.features * 2.0**exponent)
    assert torch.equal(scores, expected)
    # At a moderate scale the result is that of a plain division.
    plain = torch.nn.functional.normalize(train.features, dim=1)
    assert torch.equal(knn._unit(train.features), plain)


def test_knn_with_every_k_too_large_is_refused():
    data = problem("overlapping", count=12)
    with pytest.raises(InputError, match=r"knn\.neighbours"):
        knn.select(data, data, classes=6, metric="top1", settings=Knn(neighbours=(50,)))
