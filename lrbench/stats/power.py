"""Power of the test of a mean over seeds, and the sizes that an effect needs.

S pretraining seeds, I test images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from lrbench.stats.intervals import LEVEL, t_quantile

POWER = 0.8
"""Share of repetitions in which an effect of the smallest detectable size is significant."""

# Quantiles of the chi-squared distribution over which power is averaged.
_QUANTILES = (np.arange(2_000) + 0.5) / 2_000


def power(effect: float, *, seed_variance: float, image_variance: float, seeds: int, tests: int = 1) -> float:
    """Return the probability that an effect is significant.

    The estimate is N(effect, V_S + V_B). It is significant if it exceeds sqrt(t² V_S u + z² V_B), where u, the estimated share
    of V_S, is chi-squared with S − 1 degrees of freedom, divided by them. V_B, of many images, counts as known.

    Args:
        effect: True mean.
        seed_variance: V_S, variance of the mean from seeds.
        image_variance: V_B, variance of the mean from the images that all seeds share.
        seeds: Number of seeds S, at least two.
        tests: Number of tests adjusted together by Holm's method: the smallest p must be below 5 % / tests.
    """
    error = math.sqrt(seed_variance + image_variance)
    if error == 0:
        return float(effect != 0)
    tail = (1 - LEVEL) / tests / 2
    seed_bound, image_bound = (
        t_quantile(tail, seeds - 1) ** 2 * seed_variance,
        special.ndtri(tail) ** 2 * image_variance,
    )
    bounds = np.sqrt(seed_bound * _spreads(seeds) + image_bound)
    return float(np.mean(special.ndtr((effect - bounds) / error) + special.ndtr((-effect - bounds) / error)))


def detectable(*, seed_variance: float, image_variance: float, seeds: int, tests: int = 1) -> float:
    """Return the smallest effect that is significant in four of five repetitions; see `power`."""
    error = math.sqrt(seed_variance + image_variance)
    if error == 0:
        return 0.0
    tail = (1 - LEVEL) / tests / 2
    from scipy.optimize import brentq

    # At this many errors the power is one within rounding.
    most = t_quantile(tail, seeds - 1) * math.sqrt(float(_spreads(seeds)[-1])) + abs(float(special.ndtri(tail))) + 10
    sizes = {"seed_variance": seed_variance / error**2, "image_variance": image_variance / error**2}
    return error * float(brentq(lambda errors: power(errors, **sizes, seeds=seeds, tests=tests) - POWER, 0.0, most))


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variance components of a paired difference.

    Attributes:
        seed: Variance of a seed's true difference.
        residual: Variance of an image's difference that is specific to a seed.
        image: Variance of an image's difference that all seeds share.
    """

    seed: float
    residual: float
    image: float

    def variances(self, seeds: int, images: float) -> dict[str, float]:
        """Return V_S and V_B of the mean over S seeds and I images, as `power` takes them."""
        return {
            "seed_variance": (self.seed + self.residual / images) / seeds,
            "image_variance": self.image / images,
        }


def seeds_needed(
    effect: float, components: Components, images: float, *, tests: int = 1, most: int = 1000
) -> int | None:
    """Return the smallest number of seeds with which an effect has power 80 %; None if `most` are not enough."""
    return smallest(
        lambda seeds: power(effect, **components.variances(seeds, images), seeds=seeds, tests=tests) >= POWER, 2, most
    )


def images_needed(
    effect: float, components: Components, seeds: int, *, tests: int = 1, most: int = 10_000_000
) -> int | None:
    """Return the smallest number of test images with which an effect has power 80 %; None if `most` are not enough."""
    return smallest(
        lambda images: power(effect, **components.variances(seeds, images), seeds=seeds, tests=tests) >= POWER, 2, most
    )


def smallest(suffices: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the smallest number from `least` to `most` that suffices, by bisection; None if there is none.

    Args:
        suffices: Whether a number suffices; true for all numbers above the smallest that does.
        least: Smallest number.
        most: Largest number.
    """
    if least > most or not suffices(most):
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def _spreads(seeds: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    spreads: np.ndarray[tuple[int], np.dtype[np.float64]] = (
        special.gammaincinv((seeds - 1) / 2, _QUANTILES) * 2 / (seeds - 1)
    )
    return spreads
