import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from lrbench.transfer.metrics import metrics


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_scikit_learns(seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 9, 200)
    labels[labels == 4] = 5  # a class without images does not count
    scores = draw.normal(size=(200, 9)) + 1.5 * np.eye(9)[labels]
    found = metrics(torch.from_numpy(scores), torch.from_numpy(labels))
    predictions = scores.argmax(1)
    assert found["top1"] == pytest.approx(accuracy_score(labels, predictions))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=np.arange(9)))
    recalls = [np.mean(predictions[labels == label] == label) for label in np.unique(labels)]
    assert found["mean_per_class"] == pytest.approx(np.mean(recalls))
    if set(predictions) <= set(labels):
        assert found["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predictions))


def test_equal_scores_are_no_free_hits():
    found = metrics(torch.zeros(10, 10), torch.arange(10))
    assert found["top1"] == pytest.approx(0.1) and found["top5"] == pytest.approx(0.5)


def test_up_to_five_classes_are_all_in_the_top_five():
    assert metrics(torch.rand(8, 4), torch.zeros(8, dtype=torch.int64))["top5"] == 1.0
