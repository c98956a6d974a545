"""Intervals of means over pretraining seeds and test images.

Shapes: S pretraining seeds, I test images, C classes.

The pretraining seed is the unit of replication, and test images are crossed with seeds: every seed is tested on the same
images. The variance of a mean over seeds is therefore the variance between seeds, s² / S, plus the variance from
resampling the images once for all seeds, V. The interval is `mean ± t(S − 1) · sqrt(s² / S + V)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
# Share of repetitions in which an effect of the smallest detectable size is significant.
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over pretraining seeds.

    Attributes:
        mean: The mean.
        half_width: Half the width of its 95 % interval; None with fewer than two seeds.
        seeds: Number of seeds S.
        variance: Variance of the mean over seeds and images; None with fewer than two seeds.
    """

    mean: float
    half_width: float | None
    seeds: int
    variance: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width

    def clip(self, minimum: float, maximum: float) -> tuple[float, float] | None:
        """Return the interval cut to the possible values; None if it includes all of them.

        Cutting does not change the coverage.

        Args:
            minimum: Smallest possible value.
            maximum: Largest possible value.
        """
        if self.low is None or self.high is None or (self.low <= minimum and self.high >= maximum):
            return None
        return max(self.low, minimum), min(self.high, maximum)

    @property
    def p(self) -> float | None:
        """Two-sided p of no effect, by the t test that matches the interval; None with fewer than two seeds."""
        if self.variance is None:
            return None
        if self.variance == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / np.sqrt(self.variance), self.seeds - 1))

    def detectable(self, tests: int = 1) -> float | None:
        """Return the smallest effect that the same number of equally noisy seeds detects in four of five repetitions.

        Args:
            tests: Number of tests adjusted together by Holm's method: the smallest p must be below 5 % / tests.
        """
        return None if self.variance is None else _detectable_errors(self.seeds, tests) * float(np.sqrt(self.variance))


def estimate(values: Floats, image_variance: float = 0.0) -> Estimate:
    """Return the mean over seeds with its interval.

    Args:
        values: One value for each seed. Shape `(S,)`.
        image_variance: Variance V of the mean from resampling the images once for all seeds.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return estimate_of(mean, None, count)
    return estimate_of(mean, float(np.var(values, ddof=1)) / count + image_variance, count)


def estimate_of(mean: float, variance: float | None, seeds: int) -> Estimate:
    """Return an estimate from a mean over seeds and its variance; None for an unknown variance."""
    half_width = None if variance is None else quantile(seeds) * float(np.sqrt(variance))
    return Estimate(mean=mean, half_width=half_width, seeds=seeds, variance=variance)


def half_width_over_images(variance: float) -> float:
    """Return half the 95 % interval of a mean over many images from its variance, by the normal distribution."""
    return float(stats.norm.ppf(0.5 + LEVEL / 2) * np.sqrt(variance))


@lru_cache(maxsize=64)
def quantile(seeds: int) -> float:
    """Return the two-sided 95 % quantile of Student's t with S − 1 degrees of freedom."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, seeds - 1))


def log_odds(shares: Floats) -> Floats:
    """Return log(p / (1 − p)) of shares p."""
    odds: Floats = np.log(shares / (1 - shares))
    return odds


def shrink_shares(shares: Floats, count: int) -> Floats:
    """Return shares of `count` images moved half an image away from 0 and 1, where log-odds are infinite."""
    inside: Floats = (shares * count + 0.5) / (count + 1)
    return inside


@lru_cache(maxsize=64)
def _detectable_errors(seeds: int, tests: int) -> float:
    """Return the smallest detectable effect in standard errors of the mean, δ.

    In units of the true standard error, the estimate is N(δ, 1) and its estimated standard error is u = χ(S − 1) / sqrt(S − 1).
    The test is significant if |estimate| > c·u, with c the critical value of Student's t. Given u, the power is
    Φ(δ − c·u) + Φ(−δ − c·u); its mean over u (10,000 quantiles of the chi distribution) must be `POWER`. statsmodels'
    `solve_power` silently returns wrong values where scipy's noncentral t is NaN.
    """
    bound = float(stats.t.isf((1 - LEVEL) / tests / 2, seeds - 1))
    spreads = stats.chi.ppf((np.arange(10_000) + 0.5) / 10_000, seeds - 1) / np.sqrt(seeds - 1)

    def power(errors: float) -> float:
        return float(np.mean(stats.norm.sf(bound * spreads - errors) + stats.norm.cdf(-bound * spreads - errors)))

    return float(brentq(lambda errors: power(errors) - POWER, 0.0, bound * spreads[-1] + 10.0))


def holm(values: list[float]) -> list[float]:
    """Return p-values adjusted for multiple testing (Holm 1979).

    The k-th smallest of m p-values is multiplied by m − k + 1, then raised to the largest adjusted value before it.
    """
    # statsmodels' `multipletests` gives the same values, but collects the garbage of the whole process at each call.
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(values, dtype=np.float64)[order]))
    return [float(value) for value in adjusted]


def compute_headlines(values: Floats, labels: npt.NDArray[np.int64], metric: str) -> Floats:
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


def min_image_variance(count: int) -> float:
    """Return the smallest variance assumed for a share of I = `count` images: p (1 − p) / I with p = 0.5 / (I + 1)."""
    share = float(shrink_shares(np.zeros(1), count)[0])
    return share * (1 - share) / count


def image_variance(values: Floats, labels: npt.NDArray[np.int64], metric: str, unit: float = 1.0) -> float:
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


def interval_over_images(values: Floats, labels: npt.NDArray[np.int64], metric: str) -> tuple[float, float]:
    """Return the 95 % interval of a headline metric over test images, within [0, 1] (Wilson 1927).

    A mean per class, or a mean over transfer seeds, has the interval of a plain share p with the same variance V, which is a
    share of p (1 − p) / V images.

    Args:
        values: Share of transfer seeds that predict each image correctly. Shape `(I,)`.
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
    """
    from statsmodels.stats.proportion import proportion_confint

    share = float(compute_headlines(values[None], labels, metric)[0])
    images = float(len(values))
    if 0 < share < 1 and not (metric == "top1" and np.isin(values, (0, 1)).all()):
        images = share * (1 - share) / image_variance(values, labels, metric)
    elif metric == "mean_per_class":
        # All images are right or all are wrong: the effective number of images under unequal weights (Kish 1965).
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        images = len(counts) ** 2 / float(np.sum(1 / counts))
    low, high = proportion_confint(share * images, images, alpha=1 - LEVEL, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def _sample_variance(values: Floats, labels: npt.NDArray[np.int64], metric: str) -> float:
    count = len(values)
    counts = np.bincount(labels)
    several = counts > 1
    if metric == "top1" or not several.any():
        # With one image in each class, all images have equal weights.
        return float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    means = np.bincount(labels, weights=values) / np.maximum(counts, 1)
    squares = np.bincount(labels, weights=(values - means[labels]) ** 2, minlength=len(counts))
    within = squares[several] / (counts[several] - 1)
    pooled = squares.sum() / (counts[several] - 1).sum()
    singles = int((counts == 1).sum())
    return float(np.sum(within / counts[several]) + singles * pooled) / int((counts > 0).sum()) ** 2


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of two means over the same seeds.

    Attributes:
        value: The ratio of the means.
        low, high: Fieller's 95 % interval; None if it is not bounded.
        reason: Reason why there is no interval, in a few words; empty if there is one.
    """

    value: float
    low: float | None
    high: float | None
    reason: str = ""


def change_of_ratio(
    numerators: Floats,
    denominators: Floats,
    image_variances: Callable[[float, float], float] = lambda first, second: 0.0,
) -> tuple[Estimate, float | None]:
    """Return the difference of two ratios of means, t₂/s₂ − t₁/s₁, and the p of no difference.

    The interval is by the delta method: to first order, seed k contributes (t₂ₖ − r₂ s₂ₖ) / s₂ − (t₁ₖ − r₁ s₁ₖ) / s₁ to the
    difference, with r = t/s the ratios of the means. The test needs no division: it tests θ = t₂s₁ − t₁s₂, which is zero if
    the ratios are equal.

    Args:
        numerators: t₁ and t₂ for each seed. Shape `(2, S)`.
        denominators: s₁ and s₂ for each seed, with means that are not zero. Shape `(2, S)`.
        image_variances: Function of a and b that returns the variance of a·mean(t₁) + b·mean(t₂) from resampling images.

    Returns:
        The difference, and the two-sided p; None with fewer than two seeds.
    """
    count = numerators.shape[1]
    (t1, t2), (s1, s2) = numerators, denominators
    mt1, mt2, ms1, ms2 = (float(values.mean()) for values in (t1, t2, s1, s2))
    first, second = mt1 / ms1, mt2 / ms2
    if count < 2:
        return estimate_of(second - first, None, count), None
    # First-order contribution of each seed to the difference and to θ. Both have shape (S,).
    to_difference = (t2 - second * s2) / ms2 - (t1 - first * s1) / ms1
    to_product = (t2 - mt2) * ms1 + mt2 * (s1 - ms1) - (t1 - mt1) * ms2 - mt1 * (s2 - ms2)
    difference = float(np.var(to_difference, ddof=1)) / count + image_variances(-1 / ms1, 1 / ms2)
    product = float(np.var(to_product, ddof=1)) / count + image_variances(-ms2, ms1)
    return estimate_of(second - first, difference, count), estimate_of(mt2 * ms1 - mt1 * ms2, product, count).p


def fieller(numerators: Floats, denominators: Floats, numerator_image_variance: float = 0.0) -> Ratio:
    """Return the ratio of two paired means with its interval (Fieller 1954).

    The interval holds every ratio r at which t − r·s is within t(S − 1) standard errors of zero, a quadratic inequality in r.
    It is bounded if the denominator's mean is significantly different from zero (g < 1).

    Args:
        numerators: One for each seed. Shape `(S,)`.
        denominators: One for each seed. Shape `(S,)`.
        numerator_image_variance: Variance of the numerators' mean from resampling images.
    """
    count = len(numerators)
    top, bottom = float(np.mean(numerators)), float(np.mean(denominators))
    value = top / bottom if bottom else float("nan")
    if count < 2:
        return Ratio(value=value, low=None, high=None, reason="one seed")
    covariance = np.cov(numerators, denominators, ddof=1) / count
    v_top, v_bottom = float(covariance[0, 0]) + numerator_image_variance, float(covariance[1, 1])
    shared = float(covariance[0, 1])
    t = quantile(count)
    g = t * t * v_bottom / (bottom * bottom) if bottom else float("inf")
    if g >= 1:
        return Ratio(value=value, low=None, high=None, reason="undefined")
    inner = v_top - 2 * value * shared + value * value * v_bottom
    if v_bottom > 0:
        inner -= g * (v_top - shared * shared / v_bottom)
        centre = (value - g * shared / v_bottom) / (1 - g)
    else:
        centre = value
    spread = t / (abs(bottom) * (1 - g)) * float(np.sqrt(max(inner, 0.0)))
    return Ratio(value=value, low=centre - spread, high=centre + spread)
