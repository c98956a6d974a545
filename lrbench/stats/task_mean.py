"""Mean of the headline metrics of several tasks, with an interval over their test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench.stats.images import compute_headlines, interval_over_images


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Predictions of one network on the test images of one task.

    Attributes:
        correct: Whether each prediction is right. Shape `(I,)`.
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
    """

    correct: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    metric: str


def mean_over_tasks(tasks: Sequence[Tested]) -> tuple[float, float, float]:
    """Return the mean headline metric of T tasks and the ends of its 95 % interval over test images.

    With the headline metrics p and the ends l and u of each task's interval (`interval_over_images`), the ends are
    mean(p) − √Σ(p − l)² / T and mean(p) + √Σ(u − p)² / T (MOVER, Zou and Donner 2008). They are inside [0, 1]; for one task
    they are its own. Tasks are not resampled: the interval holds for these tasks, this network and this training.
    """
    values = [task.correct.astype(np.float64) for task in tasks]
    shares = np.array(
        [
            compute_headlines(correct[None], task.labels, task.metric)[0]
            for correct, task in zip(values, tasks, strict=True)
        ]
    )
    low, high = np.transpose(
        [interval_over_images(correct, task.labels, task.metric) for correct, task in zip(values, tasks, strict=True)]
    )
    mean = float(shares.mean())
    return mean, mean - math.dist(shares, low) / len(tasks), mean + math.dist(high, shares) / len(tasks)
