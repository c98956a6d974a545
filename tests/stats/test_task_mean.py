"""Mean over tasks, compared with a bootstrap that draws image by image."""

import numpy as np
import pytest

from lrbench.stats.images import compute_headlines, image_variance
from lrbench.stats.task_mean import Tested, mean_over_tasks


def _tasks():
    random = np.random.default_rng(0)
    tasks = []
    for count, classes, share, metric in ((400, 4, 0.8, "top1"), (300, 6, 0.6, "mean_per_class"), (50, 2, 0.9, "top1")):
        labels = random.permutation(np.arange(count) % classes)
        tasks.append(Tested(correct=random.random(count) < share, labels=labels, metric=metric))
    return tasks


def test_interval_agrees_with_drawing_images():
    tasks, random = _tasks(), np.random.default_rng(1)
    mean, low, high = mean_over_tasks(tasks)
    headline = [compute_headlines(task.correct[None].astype(float), task.labels, task.metric)[0] for task in tasks]
    assert mean == pytest.approx(np.mean(headline))
    draws = np.zeros(2000)
    for task in tasks:
        for draw in range(len(draws)):
            if task.metric == "top1":
                drawn = random.integers(len(task.labels), size=len(task.labels))
                draws[draw] += task.correct[drawn].mean() / 3
            else:
                by_class = [task.correct[task.labels == label] for label in np.unique(task.labels)]
                shares = [hits[random.integers(len(hits), size=len(hits))].mean() for hits in by_class]
                draws[draw] += np.mean(shares) / 3
    assert (low, high) == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.004)
    variance = sum(image_variance(task.correct.astype(float), task.labels, task.metric) for task in tasks) / 9
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.05)


def test_all_right_is_not_certain():
    perfect = Tested(correct=np.ones(100, dtype=bool), labels=np.arange(100) % 5, metric="top1")
    mean, low, high = mean_over_tasks([perfect])
    assert mean == high == 1 and 0.97 < low < 1
