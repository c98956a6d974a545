"""Comparison of two runs at equal values of a quantity that both pass through, and trends over ordered doses."""

import numpy as np
from scipy import stats

from lrbench.stats.intervals import Floats

SHORTEST = 0.1
"""Smallest width of the common range in which two runs are compared."""


def matched_difference(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats], shortest: float = SHORTEST
) -> float | None:
    """Return the mean of first minus second over the range of x that both runs cover.

    Each run is interpolated linearly between its points; points of equal x are averaged. The difference is piecewise linear
    between the points of both, so that its mean is exact.

    Args:
        first, second: x and y of each run's points. Shape `(n,)` each.
        shortest: Smallest width of the common range.

    Returns:
        None if the common range is narrower than that.
    """
    (x, y), (other_x, other_y) = _sorted(*first), _sorted(*second)
    low, high = max(x[0], other_x[0]), min(x[-1], other_x[-1])
    if high - low < shortest:
        return None
    nodes = np.unique(np.concatenate([[low, high], *(part[(part > low) & (part < high)] for part in (x, other_x))]))
    difference = np.interp(nodes, x, y) - np.interp(nodes, other_x, other_y)
    return float(np.trapezoid(difference, nodes) / (high - low))


def trend(values: Floats) -> float:
    """Return the one-sided p of no trend against a rise over ordered doses (Page 1963).

    Args:
        values: A value for each seed and dose, doses in order. Shape `(S, K)`, with S at least 2 and K at least 3.
    """
    return float(stats.page_trend_test(values).pvalue)


def _sorted(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    unique, positions = np.unique(np.asarray(x, dtype=np.float64), return_inverse=True)
    counts = np.bincount(positions)
    return unique, np.bincount(positions, weights=np.asarray(y, dtype=np.float64)) / counts
