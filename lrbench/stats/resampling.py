"""Bootstraps over seeds and images, and tests within one run.

Shapes: S pretraining seeds, I test images, C classes, B replicates.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from lrbench.stats.images import Labels
from lrbench.stats.intervals import LEVEL, Floats

REPLICATES = 1000
DIGITS = 12
"""Decimal places to which metrics are rounded; those of whole images differ by far more."""


def image_weights(
    labels: Labels, metric: str, stream: np.random.Generator, *, replicates: int = REPLICATES
) -> npt.NDArray[np.float64]:
    """Return weights of resampled test images, for `resample_images`.

    Images are drawn with replacement: all together for `top1`, within their classes for `mean_per_class`. An image that is
    drawn k times has weight k / I for `top1`. In a class of I_c images, the variance of resampling is too small by the factor
    (I_c − 1) / I_c, so the weight is [1 + (k − 1) sqrt(I_c / (I_c − 1))] / (I_c · C) (Rao and Wu 1988); it may be below zero.
    Classes of one image have no variance of their own and are resampled together.

    Args:
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
        stream: Source of randomness.
        replicates: Number of replicates B.

    Returns:
        Shape `(B, I)`; each row sums to one.
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
        rescaled = 1 + (drawn - 1) * np.sqrt(size / max(size - 1, 1))
        weights[:, members] = rescaled / (counts[labels[members]] * np.count_nonzero(counts))
    return weights


def resample_images(values: Floats, weights: npt.NDArray[np.float64]) -> Floats:
    """Return the headline metric of each run in each replicate of the images.

    The digits that depend on the machine are rounded off: sums of floats depend on the number of threads, and a page would
    round 9.85 up on one machine and down on another.

    Args:
        values: Values for each run and image. Shape `(S, I)`.
        weights: Weights from `image_weights`. Shape `(B, I)`.

    Returns:
        Shape `(B, S)`.
    """
    resampled: Floats = np.round(weights @ values.T, DIGITS)
    return resampled


def crossed_bootstrap(resampled: Floats, stream: np.random.Generator) -> tuple[float, float]:
    """Return a 95 % interval from resampling seeds and images independently (crossed factors, Owen 2007).

    It is too narrow with few seeds and therefore decides no claim.

    Args:
        resampled: Metrics from `resample_images`, a run for each seed. Shape `(B, S)`.
        stream: Source of randomness.
    """
    replicates, seeds = resampled.shape
    drawn = stream.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
    low, high = np.quantile((drawn * resampled).sum(axis=1), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def paired_bootstrap(resampled: Floats) -> Floats:
    """Return the 95 % interval of each run over images only, which says nothing about another run.

    Args:
        resampled: Metrics from `resample_images`, of differences within each run. Shape `(B, S)`.

    Returns:
        Lower and upper ends. Shape `(2, S)`.
    """
    ends: Floats = np.quantile(resampled, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
    return ends


def mcnemar(later: npt.NDArray[np.bool_], earlier: npt.NDArray[np.bool_]) -> Floats:
    """Return McNemar's exact two-sided p for each run (McNemar 1947). Runs are never pooled.

    Args:
        later: Whether each image is predicted correctly. Shape `(S, I)`.
        earlier: The same for the other snapshot.

    Returns:
        Shape `(S,)`; 1 if the two agree on every image.
    """
    # Imported late, because reading results needs neither scipy.stats nor scipy.optimize, which import slowly.
    from scipy import stats

    gained, lost = (later & ~earlier).sum(axis=1), (~later & earlier).sum(axis=1)
    # Under the null, the later snapshot is right on a discordant image with probability 1/2.
    p: Floats = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))
    return p


def paired_interval(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the difference of two accuracies on the same images, with its 95 % interval (Agresti and Min 2005).

    Half an image is added to each of the four outcomes, so the interval has a positive width even if the two always agree.

    Args:
        first: Whether each image is predicted correctly. Shape `(I,)`.
        second: The same for the other snapshot.

    Returns:
        The observed difference, first minus second, and the ends of its interval; all in [-1, 1].
    """
    count = len(first)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    total = count + 2
    centre = (gained - lost) / total
    spread = np.sqrt((gained + lost + 1) - (gained - lost) ** 2 / total) / total
    half = float(special.ndtri(0.5 + LEVEL / 2) * spread)
    return (gained - lost) / count, max(-1.0, centre - half), min(1.0, centre + half)
