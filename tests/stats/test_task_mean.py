"""Mean over tasks: the coverage of its interval."""

import numpy as np
import pytest

from lrbench.stats.images import compute_headlines, image_variance, interval_over_images
from lrbench.stats.task_mean import Tested, mean_over_tasks


def draw(random, *, classes, images, tasks, metric):
    """Predictions on tasks whose classes have different accuracies, and the mean that other images would have."""
    chances = np.clip(0.88 + random.normal(0, 0.1, (tasks, classes)), 0, 1)
    labels = np.repeat(np.arange(classes), images)
    tested = [Tested(correct=random.random(len(labels)) < row[labels], labels=labels, metric=metric) for row in chances]
    return tested, chances.mean()


@pytest.mark.parametrize(("classes", "images", "tasks"), [(100, 1, 1), (100, 2, 2), (30, 5, 8), (4, 100, 3)])
@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_interval_covers_the_mean(classes, images, tasks, metric):
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        tested, truth = draw(random, classes=classes, images=images, tasks=tasks, metric=metric)
        _, low, high = mean_over_tasks(tested)
        covered += low <= truth <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_width_is_that_of_the_variances():
    tested, _ = draw(np.random.default_rng(1), classes=6, images=200, tasks=3, metric="mean_per_class")
    mean, low, high = mean_over_tasks(tested)
    values = [task.correct.astype(float) for task in tested]
    assert mean == pytest.approx(np.mean([compute_headlines(v[None], tested[0].labels, "top1")[0] for v in values]))
    variance = sum(image_variance(v, tested[0].labels, "mean_per_class") for v in values) / 9
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.02)


def test_one_task_has_its_own_interval():
    perfect = Tested(correct=np.ones(100, dtype=bool), labels=np.arange(100) % 5, metric="top1")
    mean, low, high = mean_over_tasks([perfect])
    assert mean == high == 1 and 0.95 < low < 1
    assert (low, high) == pytest.approx(interval_over_images(np.ones(100), perfect.labels, "top1"))
