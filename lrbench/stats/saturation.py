"""The saturation null: target error as a function of source error if the learning rate never falls.

The curve `e_target = k · e_source^a + c` with k, a > 0 and c ≥ 0 (Abnar et al. 2022) is fitted to snapshots without decay. A
snapshot after decay that transfers as well as its source accuracy predicts is on this curve; its residual is the distance.
Averages of weights are not used for the fit: averaging improves source accuracy far more than transfer, so they are not on
the curve.

Shapes: N snapshots without decay, S pretraining seeds, I test images of the target, J of the source, B replicates.
"""

from dataclasses import dataclass

import numpy as np

from lrbench.core.seeds import generator
from lrbench.stats.effects import Effect
from lrbench.stats.images import Labels, compute_headlines, min_image_variance
from lrbench.stats.intervals import Floats
from lrbench.stats.resampling import image_weights

MIN_SNAPSHOTS = 8
"""Smallest number of snapshots without decay for which the null is fitted."""

MIN_ON_EACH_SIDE = 2
"""Smallest number of them whose source error is below that of the snapshot in question, and above it."""

_REPLICATES = 200
# The exponent is searched on this grid; for each, the other two parameters have a closed form.
_EXPONENTS = np.geomspace(0.05, 20.0, 121)


@dataclass(frozen=True, kw_only=True)
class Null:
    """Fitted curves, one for each of B columns of target errors.

    Attributes:
        scale: k. Shape `(B,)`.
        exponent: a. Shape `(B,)`.
        offset: c. Shape `(B,)`.
    """

    scale: Floats
    exponent: Floats
    offset: Floats

    def predict(self, source_error: float | Floats) -> Floats:
        """Return the target error at one source error, or at one for each column. Shape `(B,)`."""
        predicted: Floats = self.scale * source_error**self.exponent + self.offset
        return predicted


def fit_null(source_error: Floats, target_error: Floats) -> Null:
    """Fit the curve by least squares to each column of errors.

    For a fixed exponent a, the curve is linear in x = e_source^a, so k and c have the closed form of a simple regression. If
    it gives c < 0, the best feasible fit has c = 0 and k = Σxy / Σx². If then k < 0, it has k = 0 and c = mean(y). The exponent
    is searched on a grid; in a tie the smaller one wins.

    Args:
        source_error: Errors in [0, 1]. Shape `(N, B)`.
        target_error: One column for each replicate. Shape `(N, B)`.

    Returns:
        The fitted curves.
    """
    replicates = target_error.shape[1]
    best = np.full(replicates, np.inf)
    chosen = [np.zeros(replicates) for _ in range(3)]
    mean_y = target_error.mean(axis=0)
    logs = np.log(np.maximum(source_error, 1e-300))
    for exponent in _EXPONENTS:
        x = np.exp(exponent * logs)
        mean_x = x.mean(axis=0)
        spread = x - mean_x
        slope = _quotient((spread * target_error).sum(axis=0), (spread * spread).sum(axis=0))
        offset = mean_y - slope * mean_x
        # On the boundary of the feasible region, the other parameter has its own least-squares solution.
        through_zero = _quotient((x * target_error).sum(axis=0), (x * x).sum(axis=0))
        slope, offset = np.where(offset < 0, through_zero, slope), np.where(offset < 0, 0.0, offset)
        slope, offset = np.where(slope < 0, 0.0, slope), np.where(slope < 0, mean_y, offset)
        squares = ((target_error - x * slope - offset) ** 2).sum(axis=0)
        better = squares < best
        best = np.where(better, squares, best)
        for parameter, value in zip(chosen, (slope, np.full(replicates, exponent), offset), strict=True):
            parameter[better] = value[better]
    return Null(scale=chosen[0], exponent=chosen[1], offset=chosen[2])


def _quotient(top: Floats, bottom: Floats) -> Floats:
    """Return top / bottom, and 0 where bottom is 0."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Correctness of R snapshots of each seed on the images of one test set.

    Attributes:
        correct: Share of transfer seeds that predict each image correctly. Shape `(R, S, I)`.
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
    """

    correct: Floats
    labels: Labels
    metric: str

    def errors(self, *key: str | int) -> Floats:
        """Return the errors on the images themselves, then on B samples of them that all snapshots share.

        Args:
            key: Words that key the random stream; sets of the same images that are resampled together share them.

        Returns:
            Shape `(R, S, 1 + B)`.
        """
        weights = image_weights(self.labels, self.metric, generator(0, *key), replicates=_REPLICATES)
        plain = np.array([compute_headlines(rows, self.labels, self.metric) for rows in self.correct])
        errors: Floats = 1 - np.concatenate([plain[:, :, None], self.correct @ weights.T], axis=2)
        return errors


def residual(target: Scored, source: Scored, seeds: tuple[int, ...], *key: str | int) -> Effect | str:
    """Return the observed minus the predicted target error, with the null fitted for each seed.

    Each replicate resamples the images of target and source once for all seeds, and fits every null again.

    Args:
        target: The N snapshots without decay, then the snapshot in question, on the target. Shape `(N + 1, S, I)`.
        source: The same snapshots on the source. Shape `(N + 1, S, J)`.
        seeds: The S pretraining seeds.
        key: Words that key the random stream of the target's images: the same for all boundaries of a target.

    Returns:
        The residual, or the reason why the null is not identified, in a few words.
    """
    fitted = len(target.correct) - 1
    if fitted < MIN_SNAPSHOTS:
        plural = "" if fitted == 1 else "s"
        return f"not identified: {fitted} snapshot{plural} without decay per seed, {MIN_SNAPSHOTS} are needed"
    source_errors = source.errors("source images of the saturation null")
    for seed, errors in zip(seeds, source_errors[:, :, 0].T, strict=True):
        below, above = int((errors[:-1] < errors[-1]).sum()), int((errors[:-1] > errors[-1]).sum())
        if min(below, above) < MIN_ON_EACH_SIDE:
            return (
                f"not identified: of the snapshots without decay of seed {seed}, {below} have less and {above} have more "
                f"source error than this one ({100 * errors[-1]:.1f} %); {MIN_ON_EACH_SIDE} of each are needed"
            )
    target_errors = target.errors("saturation null", *key)
    residuals = np.array(
        [
            target_errors[-1, position]
            - fit_null(source_errors[:-1, position], target_errors[:-1, position]).predict(source_errors[-1, position])
            for position in range(len(seeds))
        ]
    )
    return Effect(
        seeds=seeds,
        values=residuals[:, 0],
        replicates=residuals[:, 1:],
        # If all networks predict the same, another sample of images could still differ.
        floor=min_image_variance(len(target.labels)),
    )
