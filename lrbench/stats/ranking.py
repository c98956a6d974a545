"""Agreement of a rule that ranks snapshots with the accuracy that it predicts.

Shapes: N snapshots, S pretraining seeds, T targets.
"""

from dataclasses import dataclass

import numpy as np

from lrbench.stats.intervals import LEVEL, Floats
from lrbench.stats.resampling import DIGITS, REPLICATES

MIN_RANKED = 5
"""Smallest number of snapshots of which rank correlations are computed: four have 24 orders, which chance often gets right."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of one ranking with accuracies.

    Attributes:
        tau: Kendall's tau-b, from −1 to 1; 0 is expected of a random order.
        weighted: Weighted tau (Vigna 2015), in which exchanges near the top count more; ranks weigh 1 / (1 + rank), and it is
            averaged over both orders.
    """

    tau: float
    weighted: float


def rank_agreement(rule: Floats, accuracy: Floats) -> Agreement | None:
    """Return the agreement of a rule with accuracies; values that differ by rounding only are ties.

    Args:
        rule: The rule's value of each snapshot; larger predicts a better one. Shape `(N,)`.
        accuracy: Shape `(N,)`.

    Returns:
        None with fewer than `MIN_RANKED` snapshots, or if one of the two is constant.
    """
    from scipy import stats

    rule, accuracy = np.round(rule, DIGITS), np.round(accuracy, DIGITS)
    if len(rule) < MIN_RANKED or not np.ptp(rule) or not np.ptp(accuracy):
        return None
    return Agreement(
        tau=float(stats.kendalltau(rule, accuracy).statistic),
        weighted=float(stats.weightedtau(rule, accuracy).statistic),
    )


def regret(rule: Floats, accuracy: Floats) -> float:
    """Return by how much the best accuracy exceeds that of the rule's first choice; the mean of several that tie.

    Args:
        rule: Shape `(N,)`.
        accuracy: Shape `(N,)`.
    """
    rule = np.round(rule, DIGITS)
    return float(accuracy.max() - accuracy[rule == rule.max()].mean())


def crossed_interval(values: Floats, stream: np.random.Generator) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean from resampling seeds and targets independently (crossed factors, Owen 2007).

    It is too narrow with few seeds or targets.

    Args:
        values: Shape `(S, T)`.
        stream: Source of randomness.

    Returns:
        None with one seed and one target.
    """
    if values.size < 2:
        return None
    seeds, targets = (
        stream.multinomial(count, np.full(count, 1 / count), size=REPLICATES) / count for count in values.shape
    )
    means = np.einsum("bs,st,bt->b", seeds, values, targets)
    low, high = np.quantile(means, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
