"""Variances of a headline metric over samples of test images.

Shapes: S pretraining seeds, I test images, C classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrbench.stats.intervals import Floats, wilson_interval

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageValues:
    """What test images contribute to a value of each seed.

    Attributes:
        values: Contributions, whose headline metric is that of the seed. Shape `(S, I)`.
        labels: Shape `(I,)`.
        metric: `top1` (mean over images) or `mean_per_class` (mean over classes of the mean over their images).
        unit: Change of an image's value when its prediction changes from wrong to right.
    """

    values: Floats
    labels: Labels
    metric: str
    unit: float = 1.0

    @property
    def headlines(self) -> Floats:
        """Headline metric of each seed. Shape `(S,)`."""
        return compute_headlines(self.values, self.labels, self.metric)

    def variances(self) -> tuple[float, float]:
        """Return the variances of the mean over seeds from seed × image noise, V_R, and from shared images, V_B.

        V_I, the variance of the seeds' mean from resampling images, contains both, so V_B = max(0, V_I − V_R):

            V_I = C⁻² Σ_c var_i(mean_s D_si) / I_c
            V_R = C⁻² Σ_c Σ_{s, i in c} (D_si − mean_i − mean_s + mean)² / ((S − 1)(I_c − 1)) / (S · I_c)

        For `top1`, all images are of one class. Classes of one image get the pooled variance of the other classes. V_I is at
        least `unit² · min_image_variance(I)`: if all images are right, another sample of images could still differ.
        """
        seeds, count = self.values.shape
        mean = self.values.mean(axis=0)
        total = image_variance(mean, self.labels, self.metric, self.unit)
        if seeds < 2:
            return 0.0, total
        residuals = self.values - mean
        if _is_one_class(self.labels, self.metric):
            groups = np.zeros(count, dtype=np.int64)
            residuals -= residuals.mean(axis=1, keepdims=True)
        else:
            groups = self.labels
            sizes = np.maximum(np.bincount(groups), 1)
            for residual in residuals:
                residual -= (np.bincount(groups, weights=residual) / sizes)[groups]
        squares = np.bincount(groups, weights=np.einsum("si,si->i", residuals, residuals)) / (seeds - 1)
        shared = _mean_over_classes(squares, np.bincount(groups)) / seeds
        return shared, max(0.0, total - shared)


def compute_headlines(values: Floats, labels: Labels, metric: str) -> Floats:
    """Return the headline metric of each row of values per image.

    Args:
        values: Shape `(S, I)`.
        labels: Shape `(I,)`.
        metric: `top1` (mean over images) or `mean_per_class` (mean over the C classes of the mean over their images).

    Returns:
        Shape `(S,)`.
    """
    headlines: Floats
    if metric == "top1":
        headlines = values.mean(axis=1)
    else:
        # An image of a class with I_c images has weight 1 / (I_c · C).
        counts = np.bincount(labels)
        headlines = values @ (1.0 / (counts[labels] * np.count_nonzero(counts)))
    return headlines


def shrink_shares(shares: Floats, count: int) -> Floats:
    """Return shares of `count` images moved half an image away from 0 and 1, where log-odds are infinite."""
    inside: Floats = (shares * count + 0.5) / (count + 1)
    return inside


def log_odds(shares: Floats) -> Floats:
    """Return log(p / (1 − p)) of shares p."""
    odds: Floats = np.log(shares / (1 - shares))
    return odds


def min_image_variance(count: int) -> float:
    """Return the smallest variance assumed for a share of I = `count` images: p (1 − p) / I with p = 0.5 / (I + 1)."""
    share = float(shrink_shares(np.zeros(1), count)[0])
    return share * (1 - share) / count


def image_variance(values: Floats, labels: Labels, metric: str, unit: float = 1.0) -> float:
    """Return the variance of a headline metric over samples of test images.

    For `top1` it is s² / I. For `mean_per_class`, images are sampled within their classes: (1 / C²) Σ_c s_c² / I_c, with s_c²
    the unbiased variance within class c. Classes of one image, whose variance is unknown, get the pooled variance of the
    other classes. A bootstrap over images gives the same up to its bias in small classes.

    The variance is at least `min_image_variance`: if all images are right, or two networks differ on none, another sample
    of images could still differ.

    Args:
        values: Values per image, or their means over runs. Shape `(I,)`.
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
        unit: Change of an image's value when its prediction changes from wrong to right.
    """
    return max(_sample_variance(values, labels, metric), unit**2 * min_image_variance(len(values)))


def interval_over_images(values: Floats, labels: Labels, metric: str) -> tuple[float, float]:
    """Return the 95 % interval of a headline metric over test images, within [0, 1] (Wilson 1927).

    A mean per class, or a mean over transfer seeds, has the interval of a plain share p with the same variance V, which is a
    share of p (1 − p) / V images.

    Args:
        values: Share of transfer seeds that predict each image correctly. Shape `(I,)`.
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
    """
    share = float(compute_headlines(values[None], labels, metric)[0])
    images = float(len(values))
    if 0 < share < 1 and not (metric == "top1" and np.isin(values, (0, 1)).all()):
        images = share * (1 - share) / image_variance(values, labels, metric)
    elif metric == "mean_per_class":
        # All images are right or all are wrong: the effective number of images under unequal weights (Kish 1965).
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        images = len(counts) ** 2 / float(np.sum(1 / counts))
    return wilson_interval(share, images)


def _is_one_class(labels: Labels, metric: str) -> bool:
    # With one image in each class, all images have equal weights.
    return metric == "top1" or not (np.bincount(labels) > 1).any()


def _sample_variance(values: Floats, labels: Labels, metric: str) -> float:
    count = len(values)
    if _is_one_class(labels, metric):
        return float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    counts = np.bincount(labels)
    means = np.bincount(labels, weights=values) / np.maximum(counts, 1)
    squares = np.bincount(labels, weights=(values - means[labels]) ** 2, minlength=len(counts))
    return _mean_over_classes(squares, counts)


def _mean_over_classes(squares: npt.NDArray[Any], counts: npt.NDArray[Any]) -> float:
    """Return C⁻² Σ_c s_c² / I_c from sums of squares by class; classes of one image get the pooled s²."""
    several = counts > 1
    if not several.any():
        return 0.0
    within = squares[several] / (counts[several] - 1)
    pooled = squares[several].sum() / (counts[several] - 1).sum()
    singles = int((counts == 1).sum())
    return float(np.sum(within / counts[several]) + singles * pooled) / int((counts > 0).sum()) ** 2
