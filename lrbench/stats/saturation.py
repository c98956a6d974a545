"""The saturation null: target error as a function of source error if the learning rate never falls.

The curve `e_target = k · e_source^a + c` with k, a > 0 and c ≥ 0 (Abnar et al. 2022) is fitted to snapshots without decay. A
snapshot after decay that transfers as well as its source accuracy predicts is on this curve; its residual is the distance.

Shapes: N snapshots without decay, S pretraining seeds, I test images, B replicates over images.
"""

from dataclasses import dataclass

import numpy as np

from lrbench.core.seeds import generator
from lrbench.stats.intervals import Estimate, Floats, estimate, min_image_variance
from lrbench.stats.resampling import Labels, image_weights

MIN_SNAPSHOTS = 8
"""Smallest number of snapshots without decay for which the null is fitted."""

_REPLICATES = 300
# The exponent is searched on this grid; for each, the other two parameters have a closed form.
_EXPONENTS = np.geomspace(0.05, 20.0, 241)


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

    def predict(self, source_error: float) -> Floats:
        """Return the target error at a source error. Shape `(B,)`."""
        predicted: Floats = self.scale * source_error**self.exponent + self.offset
        return predicted


def fit_null(source_error: Floats, target_error: Floats) -> Null:
    """Fit the curve by least squares to each column of target errors.

    For a fixed exponent a, the curve is linear in x = e_source^a, so k and c have the closed form of a simple regression. If
    it gives c < 0, the best feasible fit has c = 0 and k = Σxy / Σx². If then k < 0, it has k = 0 and c = mean(y). The exponent
    is searched on a grid; in a tie the smaller one wins.

    Args:
        source_error: Errors in [0, 1]. Shape `(N,)`.
        target_error: One column for each replicate. Shape `(N, B)`.

    Returns:
        The fitted curves.
    """
    replicates = target_error.shape[1]
    best = np.full(replicates, np.inf)
    chosen = [np.zeros(replicates) for _ in range(3)]
    mean_y = target_error.mean(axis=0)
    for exponent in _EXPONENTS:
        x = source_error**exponent
        spread = x - x.mean()
        denominator = float(spread @ spread)
        slope = spread @ target_error / denominator if denominator > 0 else np.zeros(replicates)
        offset = mean_y - slope * x.mean()
        # On the boundary of the feasible region, the other parameter has its own least-squares solution.
        squared = float(x @ x)
        through_zero = x @ target_error / squared if squared > 0 else np.zeros(replicates)
        slope, offset = np.where(offset < 0, through_zero, slope), np.where(offset < 0, 0.0, offset)
        slope, offset = np.where(slope < 0, 0.0, slope), np.where(slope < 0, mean_y, offset)
        squares = ((target_error - x[:, None] * slope - offset) ** 2).sum(axis=0)
        better = squares < best
        best = np.where(better, squares, best)
        for parameter, value in zip(chosen, (slope, np.full(replicates, exponent), offset), strict=True):
            parameter[better] = value[better]
    return Null(scale=chosen[0], exponent=chosen[1], offset=chosen[2])


@dataclass(frozen=True, kw_only=True)
class Residual:
    """Target error of a snapshot minus that of the null.

    Attributes:
        estimate: Mean over seeds; its interval includes images and the uncertainty of the fit. None if the null is not
            identified.
        reason: Reason why it is not identified, in a few words; empty if it is.
    """

    estimate: Estimate | None
    reason: str = ""


def residual(
    source_errors: list[Floats],
    correct: list[Floats],
    observed_source: list[float],
    observed_correct: Floats,
    labels: Labels,
    metric: str,
    *key: str | int,
) -> Residual:
    """Return the observed minus the predicted target error, with the null fitted for each seed.

    The variance over images is that of B replicates: each resamples the images once for all seeds and fits every null again.

    Args:
        source_errors: Source errors of the snapshots without decay, for each seed. Shape `(N,)`.
        correct: Whether those snapshots predict each test image correctly, for each seed. Shape `(N, I)`.
        observed_source: Source error of the snapshot in question, for each seed.
        observed_correct: Whether that snapshot predicts each test image correctly. Shape `(S, I)`.
        labels: Labels of the test images. Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
        key: Words that key the random stream.
    """
    fewest = min(len(errors) for errors in source_errors)
    if fewest < MIN_SNAPSHOTS:
        return Residual(
            estimate=None,
            reason=f"not identified: {fewest} snapshot{'' if fewest == 1 else 's'} without decay per seed, {MIN_SNAPSHOTS} "
            "are needed",
        )
    for errors, error in zip(source_errors, observed_source, strict=True):
        if not errors.min() <= error <= errors.max():
            return Residual(
                estimate=None,
                reason=f"not identified: source error {100 * error:.1f} % is outside the fitted "
                f"{100 * errors.min():.1f} to {100 * errors.max():.1f} %",
            )
    # The first row of weights is the data itself, the others are replicates. Shape (1 + B, I).
    plain = np.zeros((1, len(labels)))
    for label in np.unique(labels):
        members = labels == label
        plain[0, members] = 1 / members.sum() / len(np.unique(labels)) if metric != "top1" else 1 / len(labels)
    drawn = image_weights(labels, metric, generator(0, "saturation null", *key), replicates=_REPLICATES)
    weights = np.concatenate([plain, drawn])
    residuals = np.array(
        [
            (1 - weights @ seen) - fit_null(errors, 1 - hits @ weights.T).predict(error)
            for errors, hits, error, seen in zip(source_errors, correct, observed_source, observed_correct, strict=True)
        ]
    )
    # If all networks predict the same, another sample of images could still differ.
    variance = max(float(np.var(residuals[:, 1:].mean(axis=0))), min_image_variance(len(labels)))
    return Residual(estimate=estimate(residuals[:, 0], variance))
