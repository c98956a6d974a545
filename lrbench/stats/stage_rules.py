"""Published rules that end a stage of training, applied to its log after the fact; none of them steers training.

All of them ask whether training at the rate has become stationary. With weights w, rate η, momentum β and the direction d of an
update, w₊ = w − η d:

- Plateau (`torch.optim.lr_scheduler.ReduceLROnPlateau`): the loss has not improved for ten epochs.
- SASA+ (Zhang, Lang, Liu and Xiao 2020, arXiv 2002.10597): the mean of ⟨w₊, d⟩ + (η / 2) |d|² is zero where |w|² is stationary.
- Yaida (2018, arXiv 1810.00004): with the gradient g of a batch, the means of ⟨w, g⟩ and of (1 + β) (η / 2) |d|² are equal.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtrit

from lrbench.stats.stage_end import LEAST_EPOCHS

_PATIENCE = 10
_IMPROVEMENT = 1e-4
_SIGNIFICANCE = 0.05
_IMBALANCE = 0.01


def plateau_end(losses: Sequence[float]) -> int | None:
    """Return the number of epochs after which the loss has not improved by 0.01 % for more than ten; None if never.

    Args:
        losses: Mean training loss of each epoch.
    """
    best, latest = math.inf, 0
    for count, loss in enumerate(losses, start=1):
        if loss < best * (1 - _IMPROVEMENT):
            best, latest = loss, count
        elif count - latest > _PATIENCE:
            return count
    return None


def sasa_end(drifts: Sequence[float], *, first: bool) -> int | None:
    """Return the number of epochs after which SASA+ finds the weights stationary; None if never.

    The 95 % interval of the mean over the latest quarter of the epochs contains zero, and the means of its two halves have the
    same sign. In the first stage, intervals of the same width around the halves' means contain zero, too. Epochs are the
    batches of the interval, because updates within an epoch see disjoint images and are not independent.

    Args:
        drifts: Mean of ⟨w₊, d⟩ + (η / 2) |d|² over the updates of each epoch.
        first: Whether this is the first stage.
    """

    def is_stationary(count: int) -> bool:
        window = np.asarray(drifts[count - max(LEAST_EPOCHS, math.ceil(count / 4)) : count], dtype=np.float64)
        half = len(window) // 2
        earlier, later = window[:half].mean(), window[half:].mean()
        error = window.std(ddof=1) / math.sqrt(len(window))
        width = float(stdtrit(len(window) - 1, 1 - _SIGNIFICANCE / 2)) * error
        means = (window.mean(), earlier, later) if first else (window.mean(),)
        return bool(earlier * later > 0 and all(abs(mean) < width for mean in means))

    return _first(is_stationary, len(drifts))


def yaida_end(left: Sequence[float], right: Sequence[float]) -> int | None:
    """Return the number of epochs after which two means differ by less than 1 % over the latest half; None if never.

    Args:
        left: Mean of ⟨w, g⟩ over the updates of each epoch; g includes weight decay.
        right: Mean of (1 + β) (η / 2) |d|².
    """

    def is_balanced(count: int) -> bool:
        window = slice(count // 2, count)
        total = math.fsum(right[window])
        # Not a quotient: gradients of a dead network are zero.
        return abs(math.fsum(left[window]) - total) < _IMBALANCE * total

    return _first(is_balanced, len(right))


def _first(is_end: Callable[[int], bool], epochs: int) -> int | None:
    """Return the first number of epochs, from the fewest that a rule looks at, that ends the stage."""
    return next((count for count in range(LEAST_EPOCHS, epochs + 1) if is_end(count)), None)
