"""What stands beside the interval of Student's t: a bootstrap over seeds and images, and tests within one run."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench.leaderboard.statistics import LEVEL, Floats

REPLICATES = 1000

Labels = npt.NDArray[np.int64]


def image_weights(
    labels: Labels, metric: str, stream: np.random.Generator, *, replicates: int = REPLICATES
) -> npt.NDArray[np.float64]:
    """Weights of resampled test images, so that `values @ weights.T` is the headline of each replicate.

    Images are drawn with replacement: all together for `top1`, class by class for `mean_per_class`.

    Args:
        labels: Shape `(N,)`.
        metric: `top1` or `mean_per_class`.
        stream: Source of randomness.
        replicates: Number of replicates B.

    Returns:
        Shape `(B, N)`; each row sums to one.
    """
    count = len(labels)
    if metric == "top1":
        return stream.multinomial(count, np.full(count, 1 / count), size=replicates) / count
    weights = np.zeros((replicates, count))
    classes = np.unique(labels)
    for label in classes:
        members = np.flatnonzero(labels == label)
        drawn = stream.multinomial(len(members), np.full(len(members), 1 / len(members)), size=replicates)
        weights[:, members] = drawn / (len(members) * len(classes))
    return weights


def crossed_bootstrap(
    per_seed: Floats, weights: npt.NDArray[np.float64], stream: np.random.Generator
) -> tuple[float, float]:
    """A 95 % interval from resampling seeds and images independently of each other (Owen 2007: crossed factors).

    With few seeds it is too narrow, since the few are resampled among themselves; it stands beside the t interval and
    decides nothing.

    Args:
        per_seed: Per seed and image, the value whose headline is wanted. Shape `(n, N)`.
        weights: Of resampled images, from `image_weights`. Shape `(B, N)`.
        stream: Source of randomness.
    """
    seeds = len(per_seed)
    drawn = stream.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(weights)) / seeds
    return _ends((drawn * (weights @ per_seed.T)).sum(axis=1))


def paired_bootstrap(difference: Floats, weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval of one run's difference, over images alone: it says nothing of another run.

    Args:
        difference: Per image. Shape `(N,)`.
        weights: Of resampled images, from `image_weights`. Shape `(B, N)`.
    """
    return _ends(weights @ difference)


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's test on the same images under two snapshots of one run.

    Attributes:
        gained: Images that only the later snapshot has right.
        lost: Images that only the earlier one has right.
        p: Exact two-sided p (binomial on the discordant images).
    """

    gained: int
    lost: int
    p: float


def mcnemar(later: npt.NDArray[np.bool_], earlier: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test (McNemar 1947), for one pretraining seed; never for seeds pooled.

    Args:
        later: Whether each image is predicted right. Shape `(N,)`.
        earlier: The same under the other snapshot.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    gained, lost = int((later & ~earlier).sum()), int((~later & earlier).sum())
    table = [[int((later & earlier).sum()), gained], [lost, int((~later & ~earlier).sum())]]
    return McNemar(gained=gained, lost=lost, p=float(exact(table, exact=True).pvalue) if gained + lost else 1.0)


def _ends(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
