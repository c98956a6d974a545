"""Division of groups of images into two parts, with nearly equal shares of each class."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]

_MOST_PASSES = 50
# A class that is in one part only costs more than any imbalance of the others.
_MISSING = 1e6
_TOLERANCE = 1e-12


def hold_out_groups(labels: Whole, groups: Whole, share: float, order: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Choose groups so that about a share of each class's images is in them.

    Groups are added in turn, those of the most unequal classes first as in scikit-learn's `StratifiedGroupKFold`, if that
    reduces the sum over classes of the squared difference between a class's share and the wanted one. Then single groups change
    sides until none reduces it. A class in several groups has images on both sides if possible; a class's only group stays.

    Args:
        labels: Class of each image. Shape `(N,)`.
        groups: Group of each image, from 0 to G - 1. Shape `(N,)`.
        share: Wanted share of each class in the chosen groups, in (0, 1).
        order: The groups in the order in which equals are tried, which is where chance enters.

    Returns:
        Whether each group is chosen. Shape `(G,)`.
    """
    pairs, sizes = np.unique(np.stack([groups, labels], axis=1), axis=0, return_counts=True)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(order) + 1))
    members = [(pairs[start:end, 1], sizes[start:end]) for start, end in pairwise(starts)]
    totals = np.bincount(labels)
    spread = np.bincount(pairs[:, 1], minlength=len(totals))
    held = np.zeros(len(totals), dtype=np.int64)

    def cost(classes: Whole, counts: Whole) -> float:
        missing = (counts == totals[classes]) | ((counts == 0) & (spread[classes] > 1))
        return float((((counts / totals[classes]) - share) ** 2).sum() + _MISSING * missing.sum())

    chosen = np.zeros(len(order), dtype=np.bool_)

    def try_other_side(group: int) -> bool:
        classes, counts = members[group]
        after = held[classes] + (-counts if chosen[group] else counts)
        if cost(classes, after) >= cost(classes, held[classes]) - _TOLERANCE:
            return False
        held[classes] = after
        chosen[group] = not chosen[group]
        return True

    by_inequality = sorted(order, key=lambda group: -_inequality(members[group][1], len(totals)))
    for _ in range(_MOST_PASSES):
        if sum(map(try_other_side, by_inequality)) == 0:
            break
    return chosen


def _inequality(counts: Whole, classes: int) -> float:
    """Standard deviation of a group's numbers of images over all classes, times their number squared: a whole number's root."""
    return float(classes * (counts**2).sum() - counts.sum() ** 2)
