"""Mean of the headline metrics of several tasks, with an interval over their test images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench.core.seeds import generator
from lrbench.stats.images import compute_headlines, shrink_shares
from lrbench.stats.intervals import LEVEL

_DRAWS = 10_000


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
    """Return the mean headline metric of tasks and the ends of its 95 % interval, from a bootstrap over test images.

    Images are drawn with replacement within each task, and within each class for `mean_per_class`. The number of right ones
    among I drawn images is binomial, so that no image is drawn one by one. A task or class whose images are all right or all
    wrong gets the share of `shrink_shares`: other images could differ. Tasks are not drawn: the interval holds for these
    tasks, this network and this training.
    """
    random = generator(0, "mean over tasks")
    mean, draws = 0.0, np.zeros(_DRAWS)
    for task in tasks:
        correct = task.correct.astype(np.float64)
        mean += float(compute_headlines(correct[None], task.labels, task.metric)[0]) / len(tasks)
        groups = task.labels if task.metric == "mean_per_class" else np.zeros(len(correct), dtype=np.int64)
        counts = np.bincount(groups)
        hits = np.bincount(groups, weights=correct)[counts > 0]
        counts = counts[counts > 0]
        shares = hits / counts
        for count, share in zip(counts, shares, strict=True):
            certain = share in (0.0, 1.0)
            chance = float(shrink_shares(np.array([share]), int(count))[0]) if certain else share
            draws += random.binomial(count, chance, size=_DRAWS) / count / len(counts) / len(tasks)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean, min(float(low), mean), max(float(high), mean)
