"""The saturation null: how target error follows source error where the learning rate never falls.

`e_target = k · e_source^a + c` with k, a > 0 and c ≥ 0 (the form of Abnar et al. 2022), fitted to snapshots of the arms
without decay. If later stages transferred as well as their source accuracy lets expect, they would lie on this curve; the
residual says by how much they do not.
"""

from dataclasses import dataclass

import numpy as np

from lrbench.core.seeds import generator
from lrbench.stats.intervals import Estimate, Floats, estimate, least_image_variance
from lrbench.stats.resampling import Labels, image_weights

LEAST_SNAPSHOTS = 8
"""Snapshots without decay that a seed must have for the null to be fitted."""

_REPLICATES = 300
# The exponent is searched on this grid; for each, the other two parameters have a closed form.
_EXPONENTS = np.geomspace(0.05, 20.0, 241)


@dataclass(frozen=True, kw_only=True)
class Null:
    """Fitted curves, one for each column of target errors that was fitted.

    Attributes:
        scale: k. Shape `(B,)`.
        exponent: a. Shape `(B,)`.
        offset: c. Shape `(B,)`.
    """

    scale: Floats
    exponent: Floats
    offset: Floats

    def predict(self, source_error: float) -> Floats:
        """Target error at a source error. Shape `(B,)`."""
        predicted: Floats = self.scale * source_error**self.exponent + self.offset
        return predicted


def fit_null(source_error: Floats, target_error: Floats) -> Null:
    """Fit the curve by least squares to each column of target errors.

    Args:
        source_error: In [0, 1]. Shape `(S,)`.
        target_error: One column a replicate. Shape `(S, B)`.

    Returns:
        The curves; of equal squares the smaller exponent.
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
        # At the edge of what is allowed the other parameter has its own least squares.
        squared = float(x @ x)
        through_zero = x @ target_error / squared if squared > 0 else np.zeros(replicates)
        slope, offset = np.where(offset < 0, through_zero, slope), np.where(offset < 0, 0.0, offset)
        slope, offset = np.where(slope < 0, 0.0, slope), np.where(slope < 0, mean_y, offset)
        squares = ((target_error - x[:, None] * slope - offset) ** 2).sum(axis=0)
        better = squares < best
        best = np.where(better, squares, best)
        for place, value in zip(chosen, (slope, np.full(replicates, exponent), offset), strict=True):
            place[better] = value[better]
    return Null(scale=chosen[0], exponent=chosen[1], offset=chosen[2])


@dataclass(frozen=True, kw_only=True)
class Residual:
    """By how much a snapshot's target error lies above the null.

    Attributes:
        estimate: Over seeds, images and the fit's uncertainty included; None where the null is not identified.
        reason: Why it is not, in a few words; empty where it is.
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
    """Target error observed less predicted, fitted for each seed, and refitted in every replicate over images.

    Args:
        source_errors: For each seed, of its snapshots without decay. Each of shape `(S,)`.
        correct: For each seed, the same snapshots' right predictions. Each of shape `(S, N)`.
        observed_source: For each seed, the source error of the snapshot in question.
        observed_correct: For each seed, its right predictions. Shape `(n, N)`.
        labels: Of the test images. Shape `(N,)`.
        metric: `top1` or `mean_per_class`.
        key: Words that key the randomness.
    """
    fewest = min(len(errors) for errors in source_errors)
    if fewest < LEAST_SNAPSHOTS:
        return Residual(
            estimate=None,
            reason=f"not identified: {fewest} snapshot{'' if fewest == 1 else 's'} without decay a seed, {LEAST_SNAPSHOTS} are "
            "needed",
        )
    for errors, error in zip(source_errors, observed_source, strict=True):
        if not errors.min() <= error <= errors.max():
            return Residual(
                estimate=None,
                reason=f"not identified: source error {100 * error:.1f} % lies outside the fitted "
                f"{100 * errors.min():.1f} to {100 * errors.max():.1f} %",
            )
    # The first column is the data as it is; the others are replicates, their images drawn once for all seeds.
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
    # Where all networks predict alike, another sample of images would still not be just the same.
    variance = max(float(np.var(residuals[:, 1:].mean(axis=0))), least_image_variance(len(labels)))
    return Residual(estimate=estimate(residuals[:, 0], variance))
