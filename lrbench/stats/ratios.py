"""Ratios of two means over the same seeds, such as transferability T.

Shapes: S pretraining seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from lrbench.stats.effects import Effect
from lrbench.stats.images import ImageValues
from lrbench.stats.intervals import LEVEL, Floats, t_quantile


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


def fieller(numerator: Effect, denominator: Effect) -> Ratio:
    """Return the ratio of two paired means with its interval (Fieller 1954).

    The interval holds every ratio r at which zero is inside the interval of t − r·s. That interval has the components of
    `lrbench.stats.intervals`, each of which gives a quadratic inequality in r; the interval of the ratio is the hull of both.
    It is bounded if the denominator's mean is significantly different from zero.

    Args:
        numerator: t, over the same seeds as the denominator, and of other images.
        denominator: s.
    """
    count = len(numerator.values)
    top, bottom = float(numerator.values.mean()), float(denominator.values.mean())
    value = top / bottom if bottom else float("nan")
    if count < 2:
        return Ratio(value=value, low=None, high=None, reason="one seed")
    above, below = numerator.estimate(), denominator.estimate()
    (var_top, shared), (_, var_bottom) = np.cov(numerator.values, denominator.values, ddof=1) / count
    tail = (1 - LEVEL) / 2
    t2, z2 = t_quantile(tail, count - 1) ** 2, float(special.ndtri(tail)) ** 2
    images = z2 * above.image_variance, z2 * below.image_variance
    noise = [
        (t2 * float(var_top), t2 * float(shared), t2 * float(var_bottom)),
        (z2 * above.residual_variance, 0.0, z2 * below.residual_variance),
    ]
    first, second = (_roots(top, bottom, a + images[0], b, c + images[1]) for a, b, c in noise)
    if first is None or second is None:
        return Ratio(value=value, low=None, high=None, reason="undefined")
    return Ratio(value=value, low=min(first[0], second[0]), high=max(first[1], second[1]))


def _roots(top: float, bottom: float, a: float, b: float, c: float) -> tuple[float, float] | None:
    """Return the ends of (t − r s)² ≤ a − 2 b r + c r²; None if it is not a bounded interval."""
    square = bottom * bottom - c
    if square <= 0:
        return None
    middle = top * bottom - b
    root = math.sqrt(max(middle * middle - square * (top * top - a), 0.0))
    return (middle - root) / square, (middle + root) / square


def change_of_ratio(numerators: tuple[Effect, Effect], denominators: tuple[Effect, Effect]) -> tuple[Effect, Effect]:
    """Return the difference of two ratios of means, t₂/s₂ − t₁/s₁, as an effect for its interval and one for its test.

    For the interval, by the delta method: to first order, seed k contributes (t₂ₖ − r₂ s₂ₖ) / s₂ − (t₁ₖ − r₁ s₁ₖ) / s₁, with
    r = t/s the ratios of the means. The test is that of θ = t₂s₁ − t₁s₂, which is zero if the ratios are equal and needs no
    division. It is divided by the means s₁s₂, which changes no p, so that it has the same mean and can be averaged.

    Args:
        numerators: t₁ and t₂, of the same images.
        denominators: s₁ and s₂, of the same images, over the same seeds as t, with means that are not zero.

    Returns:
        The effects for the interval and for the test, with the same mean.
    """
    t1, t2, s1, s2 = (float(effect.values.mean()) for effect in (*numerators, *denominators))
    parts = (*numerators, *denominators)
    difference = _linear(t2 / s2 - t1 / s1, parts, (-1 / s1, 1 / s2, t1 / s1**2, -t2 / s2**2))
    product = s1 * s2
    return difference, _linear(t2 / s2 - t1 / s1, parts, (-1 / s1, 1 / s2, t2 / product, -t1 / product))


def _linear(mean: float, effects: tuple[Effect, ...], factors: tuple[float, ...]) -> Effect:
    """Return an effect with a given mean that follows others to first order."""
    terms: Floats = np.array([factor * effect.values for factor, effect in zip(factors, effects, strict=True)])
    values = terms.sum(axis=0)
    images: dict[str, ImageValues] = {}
    for factor, effect in zip(factors, effects, strict=True):
        for name, part in effect.images.items():
            before = images.get(name)
            images[name] = ImageValues(
                values=factor * part.values + (0 if before is None else before.values),
                labels=part.labels,
                metric=part.metric,
                unit=math.hypot(factor * part.unit, 0.0 if before is None else before.unit),
            )
    return Effect(seeds=effects[0].seeds, values=values - values.mean() + mean, images=images)
