import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score

from lrbench.transfer.metrics import binary_scores, calibration, metrics


@pytest.mark.parametrize("seed", range(5))
def test_metrics_match_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 9, 200)
    labels[labels == 4] = 5  # Classes without images do not count.
    scores = draw.normal(size=(200, 9)) + 1.5 * np.eye(9)[labels]
    measured = metrics(torch.from_numpy(scores), torch.from_numpy(labels))
    predictions = scores.argmax(1)
    assert measured["top1"] == pytest.approx(accuracy_score(labels, predictions))
    assert measured["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=np.arange(9)))
    recalls = [np.mean(predictions[labels == label] == label) for label in np.unique(labels)]
    assert measured["mean_per_class"] == pytest.approx(np.mean(recalls))
    if set(predictions) <= set(labels):
        assert measured["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predictions))


def test_equal_scores_are_not_all_hits():
    measured = metrics(torch.zeros(10, 10), torch.arange(10))
    assert measured["top1"] == pytest.approx(0.1) and measured["top5"] == pytest.approx(0.5)


def test_up_to_five_classes_are_all_in_the_top_five():
    assert metrics(torch.rand(8, 4), torch.zeros(8, dtype=torch.int64))["top5"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_calibration_matches_reference(seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 6, 300)
    scores = 2 * draw.normal(size=(300, 6)) + 2 * np.eye(6)[labels]
    error, likelihood = calibration(torch.from_numpy(scores), torch.from_numpy(labels))
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert likelihood == pytest.approx(log_loss(labels, probabilities, labels=np.arange(6)))
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for low in range(15):
        members = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if members.any():
            expected += members.mean() * abs(confidence[members].mean() - correct[members].mean())
    assert error == pytest.approx(expected)


def test_confident_errors_are_miscalibrated():
    labels = torch.arange(5)
    sure = 100.0 * torch.eye(5)
    assert calibration(sure, labels) == pytest.approx((0.0, 0.0))
    assert calibration(sure, labels.roll(1))[0] == pytest.approx(1.0)


def test_scores_of_an_excluded_class_are_not_stored():
    assert binary_scores(torch.tensor([[0.0, 2.0], [1.0, 0.5]])).tolist() == [2.0, -0.5]
    assert binary_scores(torch.tensor([[0.0, -torch.inf], [1.0, 0.5]])) is None
    assert binary_scores(torch.zeros(2, 3)) is None
