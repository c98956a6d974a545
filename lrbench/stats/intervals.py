"""Intervals of what the leaderboard prints.

The pretraining seed is the unit of replication; test images are crossed with seeds (every seed is tested on the same
ones). The variance of a mean over seeds is therefore the seeds' own variance plus that of images resampled once for all
seeds: `D ± t(n-1) · sqrt(s²/n + V_image)`.
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
# Of repetitions, the share in which the smallest effect said to be detectable would have been seen.
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over pretraining seeds.

    Attributes:
        mean: The mean.
        half_width: Half the width of its 95 % interval; None with fewer than two seeds.
        seeds: Number of seeds in it.
        variance: Variance of the mean, images included; None with fewer than two seeds.
    """

    mean: float
    half_width: float | None
    seeds: int
    variance: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width

    def within(self, least: float, most: float) -> tuple[float, float] | None:
        """The interval cut to the possible values, which costs no coverage; None where it excludes none of them.

        Args:
            least: The smallest possible value.
            most: The largest.
        """
        if self.low is None or self.high is None or (self.low <= least and self.high >= most):
            return None
        return max(self.low, least), min(self.high, most)

    @property
    def p(self) -> float | None:
        """Two-sided p of no effect: the test whose interval this is; None with fewer than two seeds."""
        if self.variance is None:
            return None
        if self.variance == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / np.sqrt(self.variance), self.seeds - 1))

    def detectable(self, tests: int = 1) -> float | None:
        """The smallest effect that as many seeds, as noisy as these, would show in four of five repetitions.

        Args:
            tests: Number of tests that are adjusted together: the smallest of their p must be below 5 % divided by it.
        """
        return None if self.variance is None else _detectable_errors(self.seeds, tests) * float(np.sqrt(self.variance))


def estimate(values: Floats, image_variance: float = 0.0) -> Estimate:
    """A mean over seeds with its interval.

    Args:
        values: One value a seed. Shape `(n,)`.
        image_variance: Variance of the mean from resampling the images once for all seeds.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return estimate_of(mean, None, count)
    return estimate_of(mean, float(np.var(values, ddof=1)) / count + image_variance, count)


def estimate_of(mean: float, variance: float | None, seeds: int) -> Estimate:
    """An estimate from the mean over seeds and the mean's variance, where that is known."""
    half_width = None if variance is None else quantile(seeds) * float(np.sqrt(variance))
    return Estimate(mean=mean, half_width=half_width, seeds=seeds, variance=variance)


def half_width_over_images(variance: float) -> float:
    """Half the 95 % interval of a mean over many images, whose variance is given: by the normal distribution."""
    return float(stats.norm.ppf(0.5 + LEVEL / 2) * np.sqrt(variance))


@lru_cache(maxsize=64)
def quantile(seeds: int) -> float:
    """The two-sided 95 % quantile of Student's t with `seeds - 1` degrees of freedom."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, seeds - 1))


def log_odds(shares: Floats) -> Floats:
    """`log(p / (1 - p))`."""
    odds: Floats = np.log(shares / (1 - shares))
    return odds


def kept_inside(shares: Floats, count: int) -> Floats:
    """Shares of `count` images moved half an image away from 0 and 1, where log-odds are infinite."""
    inside: Floats = (shares * count + 0.5) / (count + 1)
    return inside


@lru_cache(maxsize=64)
def _detectable_errors(seeds: int, tests: int) -> float:
    """The detectable effect in standard errors of the mean: the noncentrality at which Student's test has the power wanted.

    The power is a mean over what the seeds' spread may turn out as (a chi distribution). statsmodels' `solve_power` is no help:
    where scipy's noncentral t is NaN on its way, it ends at another value and says nothing.
    """
    bound = float(stats.t.isf((1 - LEVEL) / tests / 2, seeds - 1))
    spreads = stats.chi.ppf((np.arange(10_000) + 0.5) / 10_000, seeds - 1) / np.sqrt(seeds - 1)

    def power(errors: float) -> float:
        return float(np.mean(stats.norm.sf(bound * spreads - errors) + stats.norm.cdf(-bound * spreads - errors)))

    return float(brentq(lambda errors: power(errors) - POWER, 0.0, bound * spreads[-1] + 10.0))


def holm(values: list[float]) -> list[float]:
    """p-values adjusted for being looked at together (Holm 1979)."""
    # As statsmodels' `multipletests`, which a test compares it with; that collects all garbage of the process at each call,
    # a tenth of a second here, and there are dozens of families.
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(values, dtype=np.float64)[order]))
    return [float(value) for value in adjusted]


def headlines_of(values: Floats, labels: npt.NDArray[np.int64], metric: str) -> Floats:
    """A headline metric for each row of values per image.

    Args:
        values: Shape `(n, N)`.
        labels: Shape `(N,)`.
        metric: `top1` or `mean_per_class`.

    Returns:
        Shape `(n,)`.
    """
    found: Floats
    if metric == "top1":
        found = values.mean(axis=1)
    else:
        counts = np.bincount(labels)
        found = values @ (1.0 / (counts[labels] * np.count_nonzero(counts)))
    return found


def least_image_variance(count: int) -> float:
    """The variance that a share of `count` test images has at least: as if half an image were otherwise than the rest."""
    share = float(kept_inside(np.zeros(1), count)[0])
    return share * (1 - share) / count


def image_variance(values: Floats, labels: npt.NDArray[np.int64], metric: str, unit: float = 1.0) -> float:
    """Variance of a headline metric over test images that might have been others (of the same classes for the mean per class).

    Closed form of what a bootstrap over images gives, without its bias in classes of few: each class's variance is divided by
    the number of its images less one, and a class of one image, in which no spread is to be seen, has that of the others.
    It is at least that of half an image which is otherwise than the rest: where all images are right, or two networks differ
    on none, another sample of images would not be just the same.

    Args:
        values: Per image; of several runs, their mean. Shape `(N,)`.
        labels: Shape `(N,)`.
        metric: `top1` or `mean_per_class`.
        unit: What an image predicted right instead of wrong changes in its value.
    """
    return max(_spread(values, labels, metric), unit**2 * least_image_variance(len(values)))


def interval_over_images(values: Floats, labels: npt.NDArray[np.int64], metric: str) -> tuple[float, float]:
    """The 95 % interval of a headline metric over test images, within [0, 1] (Wilson 1927).

    A mean per class, or a mean over transfer seeds, has the interval of a plain share with the same variance: of
    `share * (1 - share) / variance` images.

    Args:
        values: How often each image was predicted right. Shape `(N,)`.
        labels: Shape `(N,)`.
        metric: `top1` or `mean_per_class`.
    """
    from statsmodels.stats.proportion import proportion_confint

    share = float(headlines_of(values[None], labels, metric)[0])
    images = float(len(values))
    if 0 < share < 1 and not (metric == "top1" and np.isin(values, (0, 1)).all()):
        images = share * (1 - share) / image_variance(values, labels, metric)
    elif metric == "mean_per_class":
        # All right or all wrong: the number of images that an unequal weighting leaves (Kish 1965).
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        images = len(counts) ** 2 / float(np.sum(1 / counts))
    low, high = proportion_confint(share * images, images, alpha=1 - LEVEL, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def _spread(values: Floats, labels: npt.NDArray[np.int64], metric: str) -> float:
    count = len(values)
    counts = np.bincount(labels)
    several = counts > 1
    if metric == "top1" or not several.any():
        # Classes of one image each count alike, as images do.
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
        low, high: Fieller's 95 % interval; None where it is not a finite stretch.
        reason: Why there is no interval, in a few words; empty where there is one.
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
    """By how much the ratio of two means, `second numerator / second denominator`, differs from the first such ratio.

    Its interval is by the delta method. Whether it differs is tested without dividing, on `θ = t₂s₁ − t₁s₂`, which is zero
    where the ratios `t/s` are equal.

    Args:
        numerators: t₁ and t₂, one a seed. Shape `(2, n)`.
        denominators: s₁ and s₂, one a seed; their means are not zero. Shape `(2, n)`.
        image_variances: Variance of `a · mean(t₁) + b · mean(t₂)` from resampling images, given a and b.

    Returns:
        The difference, and the two-sided p of no difference; None with fewer than two seeds.
    """
    count = numerators.shape[1]
    (t1, t2), (s1, s2) = numerators, denominators
    mt1, mt2, ms1, ms2 = (float(values.mean()) for values in (t1, t2, s1, s2))
    first, second = mt1 / ms1, mt2 / ms2
    if count < 2:
        return estimate_of(second - first, None, count), None
    # What each seed adds to a function of four means, to first order.
    to_difference = (t2 - second * s2) / ms2 - (t1 - first * s1) / ms1
    to_product = (t2 - mt2) * ms1 + mt2 * (s1 - ms1) - (t1 - mt1) * ms2 - mt1 * (s2 - ms2)
    difference = float(np.var(to_difference, ddof=1)) / count + image_variances(-1 / ms1, 1 / ms2)
    product = float(np.var(to_product, ddof=1)) / count + image_variances(-ms2, ms1)
    return estimate_of(second - first, difference, count), estimate_of(mt2 * ms1 - mt1 * ms2, product, count).p


def fieller(numerators: Floats, denominators: Floats, numerator_image_variance: float = 0.0) -> Ratio:
    """The ratio of two paired means and its interval (Fieller 1954).

    Args:
        numerators: One a seed. Shape `(n,)`.
        denominators: One a seed. Shape `(n,)`.
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
