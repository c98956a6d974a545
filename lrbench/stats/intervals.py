"""Means over pretraining seeds with intervals, tests and adjustment for multiple testing.

Shapes: S pretraining seeds, I test images.

The pretraining seed is the unit of replication, and test images are crossed with seeds: every seed is tested on the same
images. The variance of a mean over seeds has two parts. V_S, from seeds and from what differs by seed and image, is estimated
with S − 1 degrees of freedom. V_B, from the images that all seeds share, is estimated from many images. Each part has its own
quantile (MOVER, Zou and Donner 2008):

    half-width² = max(t(S − 1)² · V_S, z² · V_R) + z² · V_B

V_R, the share of seed × image noise in V_S, bounds the first term from below, because with two or three degrees of freedom V_S
is sometimes near zero by chance. The p of no effect is the α at which the half-width equals the absolute mean.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

LEVEL = 0.95

_SMALLEST_P = 1e-30


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over pretraining seeds.

    Attributes:
        mean: The mean.
        seeds: Number of seeds S.
        seed_variance: V_S, variance of the mean from seeds, which includes what differs by seed and image; None with fewer than
            two seeds.
        residual_variance: V_R, share of `seed_variance` that comes from seed × image noise.
        image_variance: V_B, variance of the mean from the images that all seeds share.
    """

    mean: float
    seeds: int
    seed_variance: float | None
    residual_variance: float = 0.0
    image_variance: float = 0.0

    def half_width_at(self, level: float) -> float | None:
        """Return half the width of the interval of a level such as 0.95; None with fewer than two seeds."""
        return None if self.seed_variance is None else self._half_width((1 - level) / 2)

    @cached_property
    def half_width(self) -> float | None:
        """Half the width of the 95 % interval; None with fewer than two seeds."""
        return self.half_width_at(LEVEL)

    @property
    def excludes_zero(self) -> bool:
        """Whether the 95 % interval excludes zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval."""
        return None if self.half_width is None else self.mean + self.half_width

    def clip(self, minimum: float, maximum: float) -> tuple[float, float] | None:
        """Return the 95 % interval cut to the possible values; None if it includes all of them.

        Cutting does not change the coverage.

        Args:
            minimum: Smallest possible value.
            maximum: Largest possible value.
        """
        if self.low is None or self.high is None or (self.low <= minimum and self.high >= maximum):
            return None
        return max(self.low, minimum), min(self.high, maximum)

    @cached_property
    def p(self) -> float | None:
        """Two-sided p of no effect, of the test that matches the interval; None with fewer than two seeds."""
        if self.seed_variance is None:
            return None
        size = abs(self.mean)
        if size == 0:
            return 1.0
        if self._half_width(_SMALLEST_P / 2) < size:
            return 0.0
        from scipy.optimize import brentq

        # The half-width falls from infinity to zero as α rises to one.
        log_p = brentq(
            lambda log_p: self._half_width(math.exp(log_p) / 2) - size, math.log(_SMALLEST_P), 0.0, xtol=1e-9
        )
        return math.exp(log_p)

    def is_within(self, margin: float) -> bool:
        """Return whether the effect is equivalent to zero: the 90 % interval is inside ±margin.

        This is the test of two one-sided hypotheses at 5 % (TOST, Schuirmann 1987).
        """
        half_width = self.half_width_at(0.90)
        return half_width is not None and abs(self.mean) + half_width < margin

    def _half_width(self, tail: float) -> float:
        """Return the half-width with a share `tail` of the distribution on each side."""
        assert self.seed_variance is not None
        t, z = t_quantile(tail, self.seeds - 1), float(-special.ndtri(tail))
        return math.sqrt(max(t * t * self.seed_variance, z * z * self.residual_variance) + z * z * self.image_variance)


def estimate_over_seeds(values: Iterable[float]) -> Estimate:
    """Return the mean of one value for each seed, with Student's interval."""
    array = np.array(list(values), dtype=np.float64)
    return Estimate(mean=float(array.mean()), seeds=len(array), seed_variance=variance_of_mean(array))


def variance_of_mean(values: Floats) -> float | None:
    """Return the variance of the mean of independent values, s² / S; None with fewer than two."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else None


def t_quantile(tail: float, degrees: int) -> float:
    """Return the quantile of Student's t with a share `tail` of the distribution above it."""
    # scipy's distribution objects take 50 times as long, and a leaderboard needs tens of thousands of quantiles.
    return float(-special.stdtrit(degrees, tail))


def half_width_over_images(variance: float) -> float:
    """Return half the 95 % interval of a mean over many images from its variance, by the normal distribution."""
    return float(special.ndtri(0.5 + LEVEL / 2) * np.sqrt(variance))


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` observations, which need not be whole (Wilson 1927).

    (p + z²/2n ± z √(p (1 − p) / n + z²/4n²)) / (1 + z²/n)
    """
    z2 = float(special.ndtri(0.5 + LEVEL / 2)) ** 2
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2)))
    centre, scale = share + z2 / (2 * count), 1 + z2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


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
