"""Intervals, tests, power and the saturation null on arrays, written from the formulas in docs/reference/results.md.

Shapes: S pretraining seeds, I test images of a set, B replicates, A exponents, N snapshots without decay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas
from scipy.optimize import brentq
from scipy.stats import chi2, norm
from scipy.stats import t as student

from lrbench.core.seeds import generator

Array = np.ndarray[Any, Any]

REPLICATES = 200
EXPONENTS = np.geomspace(0.05, 20.0, 121)


class Estimate(NamedTuple):
    """A mean over n seeds and the variances V_S, V_R and V_B of it."""

    mean: float
    n: int
    v_s: float
    v_r: float
    v_b: float

    def half_width(self, alpha: float = 0.05) -> float:
        t, z = student.isf(alpha / 2, self.n - 1), norm.isf(alpha / 2)
        return float(np.sqrt(max(t**2 * self.v_s, z**2 * self.v_r) + z**2 * self.v_b))

    def p(self) -> float:
        """The level at which the half-width equals the mean."""
        size = abs(self.mean)
        if size == 0 or self.half_width(1e-25) < size:
            return float(size == 0)
        return float(np.exp(brentq(lambda log: self.half_width(np.exp(log)) - size, np.log(1e-25), 0, xtol=1e-10)))


@dataclass(frozen=True)
class Images:
    """Contributions D_si of a set of images; `unit` is what one prediction can change."""

    values: Array
    labels: Array
    metric: str
    unit: float = 1.0

    def classes(self) -> list[Array]:
        sizes = np.unique_counts(self.labels).counts
        if self.metric == "top1" or (sizes == 1).all():
            return [np.arange(len(self.labels))]
        return [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]

    def headlines(self) -> Array:
        return np.asarray(np.mean([self.values[:, members].mean(axis=1) for members in self.classes()], axis=0))

    def variances(self) -> tuple[float, float]:
        """V_R and V_B."""
        classes, (n, count), mean = self.classes(), self.values.shape, self.values.mean(axis=0)
        shared, single = [], []
        for members in classes:
            residuals = self.values[:, members] - mean[members]
            residuals = residuals - residuals.mean(axis=1, keepdims=True)
            shared.append(((mean[members] - mean[members].mean()) ** 2).sum())
            single.append((residuals**2).sum() / (n - 1))
        share = 0.5 / (count + 1)
        v_i = max(_over_classes(shared, classes), self.unit**2 * share * (1 - share) / count)
        v_r = _over_classes(single, classes) / n
        return v_r, max(0.0, v_i - v_r)


def _over_classes(squares: Sequence[float], classes: Sequence[Array]) -> float:
    """C⁻² Σ_c s_c² / I_c; a class of one image takes the s² of all others together."""
    degrees = [len(members) - 1 for members in classes]
    pooled = sum(squares) / sum(degrees)
    parts = [(total / free if free else pooled) / (free + 1) for total, free in zip(squares, degrees, strict=True)]
    return float(sum(parts)) / len(classes) ** 2


@dataclass(frozen=True)
class Effect:
    """A value of each seed, with contributions of images or replicates over resampled images."""

    seeds: tuple[int, ...]
    values: Array
    images: dict[str, Images] = field(default_factory=dict)
    replicates: Array | None = None
    floor: float = 0.0

    def estimate(self) -> Estimate:
        n = len(self.values)
        if n == 1:
            return Estimate(float(self.values[0]), 1, np.nan, np.nan, np.nan)
        v_r, v_b = map(sum, zip((0.0, 0.0), *(images.variances() for images in self.images.values()), strict=True))
        if self.replicates is not None:
            mean = self.replicates.mean(axis=0)
            rest = self.replicates - mean
            rest = rest - rest.mean(axis=1, keepdims=True)
            v_r = (rest**2).sum() / ((n - 1) * (len(mean) - 1)) / n
            v_b = max(0.0, max(mean.var(ddof=1), self.floor) - v_r)
        return Estimate(float(self.values.mean()), n, float(self.values.var(ddof=1)) / n, float(v_r), float(v_b))

    def over(self, seeds: Sequence[int]) -> "Effect":
        rows = [self.seeds.index(seed) for seed in seeds]
        images = {name: replace(part, values=part.values[rows]) for name, part in self.images.items()}
        replicates = None if self.replicates is None else self.replicates[rows]
        return replace(self, seeds=tuple(seeds), values=self.values[rows], images=images, replicates=replicates)


def combine(factors: Sequence[float], effects: Sequence[Effect], *, norm_of_units: int) -> Effect:
    """Σ factor · effect over the seeds that all have; images of one set contribute once."""
    seeds = [seed for seed in effects[0].seeds if all(seed in effect.seeds for effect in effects)]
    terms = [(factor, effect.over(seeds)) for factor, effect in zip(factors, effects, strict=True)]
    images = {}
    for name in dict.fromkeys(name for effect in effects for name in effect.images):
        parts = [(factor, effect.images[name]) for factor, effect in terms if name in effect.images]
        unit = np.linalg.norm([factor * part.unit for factor, part in parts], norm_of_units)
        values = np.sum([factor * part.values for factor, part in parts], axis=0)
        images[name] = replace(parts[0][1], values=values, unit=float(unit))
    values = np.sum([factor * effect.values for factor, effect in terms], axis=0)
    replicates = [factor * effect.replicates for factor, effect in terms if effect.replicates is not None]
    floor = float(np.sum([factor**2 * effect.floor for factor, effect in terms]))
    return Effect(tuple(seeds), values, images, np.sum(replicates, axis=0) if replicates else None, floor)


def average(effects: Sequence[Effect]) -> Effect:
    return combine([1 / len(effects)] * len(effects), effects, norm_of_units=1)


def detectable(estimate: Estimate, tests: int) -> float:
    """The effect with power 80 %, over the chi-squared distribution of the estimated V_S, which is at least V_R."""
    estimate = estimate._replace(v_s=max(estimate.v_s, estimate.v_r))
    alpha, degrees, error = 0.05 / tests, estimate.n - 1, np.sqrt(estimate.v_s + estimate.v_b)
    spread = chi2.ppf((np.arange(2000) + 0.5) / 2000, degrees) / degrees
    t, z = student.isf(alpha / 2, degrees), norm.isf(alpha / 2)
    bounds = np.sqrt(t**2 * estimate.v_s * spread + z**2 * estimate.v_b)

    def power(effect: float) -> float:
        return float(np.mean(norm.sf((bounds - effect) / error) + norm.cdf((-bounds - effect) / error)))

    return float(brentq(lambda effect: power(effect) - 0.8, 0, bounds[-1] + 10 * error, xtol=1e-12)) if error else 0.0


def holm(values: Sequence[float]) -> list[float]:
    ranked = pandas.Series(values, dtype=float).sort_values(kind="stable")
    return list((ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1).sort_index())


def resampled_errors(correct: Array, labels: Array, metric: str, *key: str) -> Array:
    """Errors of snapshots (R, S, I) on the images themselves, then on B samples of them: (R, S, 1 + B)."""
    stream, count = generator(0, *key), len(labels)
    if metric == "top1":
        weights = stream.multinomial(count, [1 / count] * count, size=REPLICATES) / count
        plain = np.full(count, 1 / count)
    else:
        sizes = np.bincount(labels)
        plain = 1 / (sizes[labels] * (sizes > 0).sum())
        # Classes of one image are resampled together.
        groups = [np.flatnonzero(labels == label) for label in np.flatnonzero(sizes > 1)]
        groups += [np.flatnonzero(sizes[labels] == 1)] if (sizes == 1).any() else []
        weights = np.zeros((REPLICATES, count))
        for members in groups:
            size = len(members)
            drawn = stream.multinomial(size, [1 / size] * size, size=REPLICATES)
            weights[:, members] = (1 + (drawn - 1) * np.sqrt(size / max(1, size - 1))) * plain[members]
    return 1 - correct @ np.vstack([plain, weights]).T


def predict_by_null(source: Array, target: Array, at: Array) -> Array:
    """Fit target error = k · source error^a + c with k, c ≥ 0 to columns of (N, B), and predict at `at` (B,)."""
    x = source[None] ** EXPONENTS[:, None, None]
    mean_x, mean_y = x.mean(axis=1, keepdims=True), target.mean(axis=0)
    spread = ((x - mean_x) ** 2).sum(axis=1)
    slope = np.divide(((x - mean_x) * target).sum(axis=1), spread, out=np.zeros_like(spread), where=spread > 0)
    # The optimum is a feasible solution with both parameters, or one of those with k = 0 or c = 0.
    solutions = [
        (slope, mean_y - slope * mean_x[:, 0]),
        (np.maximum((x * target).sum(axis=1) / (x**2).sum(axis=1), 0), np.zeros_like(slope)),
        (np.zeros_like(slope), np.broadcast_to(mean_y, slope.shape)),
    ]
    k, c = (np.stack(parameter) for parameter in zip(*solutions, strict=True))
    squares = ((target - k[:, :, None] * x - c[:, :, None]) ** 2).sum(axis=2)
    squares[(k < 0) | (c < 0)] = np.inf
    best = squares.min(axis=0).argmin(axis=0), np.arange(target.shape[1])
    form = squares[:, best[0], best[1]].argmin(axis=0)
    return np.asarray(k[form, *best] * at ** EXPONENTS[best[0]] + c[form, *best])
