"""What stands beside the interval of Student's t: a bootstrap over seeds and images, and tests within one run."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from lrbench.stats.intervals import LEVEL, Floats

REPLICATES = 1000

Labels = npt.NDArray[np.int64]


def image_weights(
    labels: Labels, metric: str, stream: np.random.Generator, *, replicates: int = REPLICATES
) -> npt.NDArray[np.float64]:
    """Weights of resampled test images, so that `values @ weights.T` is the headline of each replicate.

    Images are drawn with replacement: all together for `top1`, class by class for `mean_per_class`. There each class's weights
    are stretched around their mean, since resampling n images shows n − 1 n-ths of their variance (Rao and Wu 1988), so that a
    few may be below zero; classes of one image, which alone show none, are drawn together.

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
    counts = np.bincount(labels)
    groups = [np.flatnonzero(labels == label) for label in np.flatnonzero(counts > 1)]
    if (counts == 1).any():
        groups.append(np.flatnonzero(counts[labels] == 1))
    for members in groups:
        size = len(members)
        drawn = stream.multinomial(size, np.full(size, 1 / size), size=replicates)
        stretched = 1 + (drawn - 1) * np.sqrt(size / max(size - 1, 1))
        weights[:, members] = stretched / (counts[labels[members]] * np.count_nonzero(counts))
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


def paired_bootstrap(differences: Floats, weights: npt.NDArray[np.float64]) -> Floats:
    """95 % intervals of each run's difference, over images alone: they say nothing of another run.

    Args:
        differences: Per run and image. Shape `(n, N)`.
        weights: Of resampled images, from `image_weights`. Shape `(B, N)`.

    Returns:
        Lower and upper ends. Shape `(2, n)`.
    """
    ends: Floats = np.quantile(weights @ differences.T, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
    return ends


def mcnemar(later: npt.NDArray[np.bool_], earlier: npt.NDArray[np.bool_]) -> Floats:
    """McNemar's exact two-sided p for each run (McNemar 1947); never for runs pooled.

    Args:
        later: Whether each image is predicted right. Shape `(n, N)`.
        earlier: The same under the other snapshot.

    Returns:
        Shape `(n,)`; 1 where the two agree on every image.
    """
    gained, lost = (later & ~earlier).sum(axis=1), (~later & earlier).sum(axis=1)
    # On the discordant images, the later snapshot is right as often as a fair coin would have it.
    p: Floats = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))
    return p


def paired_interval(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """The difference of two accuracies on the same images, with its 95 % interval over images (Agresti and Min 2005).

    Half an image is added to each of the four outcomes, so that the interval has a width also where the two agree on all.

    Args:
        first: Whether each image is predicted right. Shape `(N,)`.
        second: The same under the other snapshot.

    Returns:
        First minus second as observed, and the interval's ends; all in [-1, 1].
    """
    count = len(first)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    total = count + 2
    centre = (gained - lost) / total
    spread = np.sqrt((gained + lost + 1) - (gained - lost) ** 2 / total) / total
    half = float(stats.norm.ppf(0.5 + LEVEL / 2) * spread)
    return (gained - lost) / count, max(-1.0, centre - half), min(1.0, centre + half)


def _ends(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
