"""Cross-validation of the probe and of kNN."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from lrbench.config.protocols import Knn, Probe
from lrbench.store.cells import TransferSettings
from lrbench.transfer.protocols.crossval import FOLDS, assign_folds, cross_validate
from lrbench.transfer.selection import LabelledFeatures


def test_folds_are_stratified_and_equally_large():
    labels = np.repeat([3, 1, 0, 2], [11, 7, 1, 2])
    folds = assign_folds(labels, seed=0)
    assert (folds[labels == 0] == -1).all() and (folds[labels != 0] >= 0).all()
    for label in (1, 2, 3):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds[folds >= 0], minlength=FOLDS)
    assert sizes.tolist() == [4, 4, 4, 4, 4]
    assert np.array_equal(folds, assign_folds(labels, seed=0)) and not np.array_equal(
        folds, assign_folds(labels, seed=1)
    )


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_score_matches_scikit_learn(metric):
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    features = draw.normal(size=(60, 5)) + 1.2 * np.eye(3, 5)[labels]
    data = LabelledFeatures(features=torch.tensor(features, dtype=torch.float32), labels=torch.from_numpy(labels))
    settings = Probe(strengths=3, weakest=0.1, strongest=1000.0)
    score, strength = cross_validate(
        data, protocol="probe", classes=3, metric=metric, settings=TransferSettings(probe=settings), seed=0
    )
    folds = assign_folds(labels, seed=0)
    expected = {}
    for penalty in settings.grid():
        predicted = np.full(60, -1)
        for fold in range(FOLDS):
            train, test = folds != fold, folds == fold
            scale = StandardScaler().fit(features[train])
            model = LogisticRegression(C=1 / penalty, max_iter=10_000, tol=1e-8)
            model.fit(scale.transform(features[train]), labels[train])
            predicted[test] = model.predict(scale.transform(features[test]))
        right = predicted == labels
        expected[penalty] = (
            right.mean() if metric == "top1" else np.mean([right[labels == label].mean() for label in range(3)])
        )
    assert score == pytest.approx(max(expected.values())) and expected[strength] == pytest.approx(score)
    # Of equal scores the strongest penalty wins.
    assert all(value < score for penalty, value in expected.items() if penalty > strength)


def test_neighbours_match_scikit_learn():
    draw = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    features = draw.normal(size=(60, 5)) + 1.2 * np.eye(3, 5)[labels]
    data = LabelledFeatures(features=torch.tensor(features, dtype=torch.float32), labels=torch.from_numpy(labels))
    # 49 neighbours are more than the 48 training images of a fold.
    settings = TransferSettings(knn=Knn(neighbours=(1, 49)))
    score, neighbours = cross_validate(data, protocol="knn", classes=3, metric="top1", settings=settings, seed=0)
    folds, right = assign_folds(labels, seed=0), 0
    for fold in range(FOLDS):
        model = KNeighborsClassifier(1, metric="cosine").fit(features[folds != fold], labels[folds != fold])
        right += (model.predict(features[folds == fold]) == labels[folds == fold]).sum()
    assert neighbours == 1 and score == pytest.approx(right / 60)


def test_only_group_of_a_class_is_always_trained_on():
    # Class 1 is in one group only, with images of class 0.
    labels, groups = np.array([0] * 42 + [1] * 8), np.array([*range(40), *[40] * 10])
    folds = assign_folds(labels, seed=0, groups=groups)
    assert (folds[groups == 40] == -1).all() and np.bincount(folds[folds >= 0]).tolist() == [8] * FOLDS
    for fold in range(FOLDS):
        assert set(labels[folds == fold]) <= set(labels[folds != fold])


def test_fewer_groups_than_folds_leave_folds_empty():
    data = LabelledFeatures(features=torch.eye(2).repeat(15, 1), labels=torch.arange(30) % 2)
    groups = np.repeat([0, 1, 2], 10)
    assert np.bincount(assign_folds(data.labels.numpy(), 0, groups=groups), minlength=FOLDS).tolist() == [
        10,
        10,
        10,
        0,
        0,
    ]
    for protocol in ("probe", "knn"):
        settings = TransferSettings(probe=Probe(strengths=2), knn=Knn(neighbours=(1, 20)))
        score, _ = cross_validate(
            data, protocol=protocol, classes=2, metric="top1", settings=settings, seed=0, groups=groups
        )
        assert score == 1
