"""Variance components by their definitions, class by class, which the tests of the statistics compare with."""

import numpy as np
from scipy import stats


def blocks(values, labels, metric):
    """Return the columns of each class, or all columns for `top1`."""
    return [values] if metric == "top1" else [values[:, labels == label] for label in np.unique(labels)]


def headlines(values, labels, metric):
    """Return the headline metric of each seed."""
    return np.mean([block.mean(axis=1) for block in blocks(values, labels, metric)], axis=0)


def components(values, labels, metric):
    """Return V_S, V_R and V_I of values of shape `(S, I)`; classes of one image get the pooled variances of the others."""
    seeds, parts = len(values), blocks(values, labels, metric)
    several = [block for block in parts if block.shape[1] > 1]
    degrees = [block.shape[1] - 1 for block in several]
    residuals = [block - block.mean(axis=0) - block.mean(axis=1, keepdims=True) + block.mean() for block in several]
    noises = [(residual**2).sum() / (seeds - 1) for residual in residuals]
    spreads = [((block.mean(axis=0) - block.mean()) ** 2).sum() for block in several]

    def over_classes(squares):
        terms = [square / degree / (degree + 1) for square, degree in zip(squares, degrees, strict=True)]
        terms += [sum(squares) / sum(degrees)] * (len(parts) - len(several))
        return sum(terms) / len(parts) ** 2

    of_seeds = headlines(values, labels, metric).var(ddof=1) / seeds
    return of_seeds, over_classes(noises) / seeds, over_classes(spreads)


def half_width(alpha, seeds, of_seeds, residual=0.0, images=0.0):
    """Return the half-width at level 1 − α from V_S, V_R and V_B."""
    t, z = stats.t.isf(alpha / 2, seeds - 1), stats.norm.isf(alpha / 2)
    return np.sqrt(max(t**2 * of_seeds, z**2 * residual) + z**2 * images)


def crossed(draw, seeds, images, *, mean=0.02, of_seed=0.02, of_image=0.15, noise=0.4):
    """Return values of shape `(S, I)` with given deviations of seeds, of shared images, and of seed × image noise."""
    rates = mean + draw.normal(0, of_seed, seeds)[:, None] + draw.normal(0, of_image, images)
    return rates + draw.normal(0, noise, (seeds, images))
