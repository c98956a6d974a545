"""Rule that ends a stage of training from its log: the losses of its epochs have stopped falling.

An equivalence test: a stage ends when the loss is unlikely to fall noticeably over the next tenth of the schedule. Noise
therefore delays the end, whereas it would hasten a test that finds no significant decrease.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEAST_EPOCHS = 5
"""Epochs of a stage before its first decision, and the fewest that a decision looks at."""

_DELTA = 0.02
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision of the rule at the end of an epoch.

    Attributes:
        epochs: Epochs of the stage so far.
        slope: Slope of the losses of the latest epochs per epoch, by least squares.
        error: Standard error of the slope.
        decrease: Upper 95 % bound of the decrease of the loss over the next tenth of the schedule, as a share of the loss.
    """

    epochs: int
    slope: float
    error: float
    decrease: float

    @property
    def ends_stage(self) -> bool:
        """Whether the stage ends here: the bound is at most 2 %."""
        return self.decrease <= _DELTA


def decide(losses: Sequence[float], schedule_epochs: int) -> Decision | None:
    """Return the decision at the end of an epoch; None before the fifth.

    With the last m = max(5, ⌈n / 3⌉) of n losses, their mean L, slope s and its standard error e, and a horizon of
    h = max(1, epochs / 10) epochs, the bound of the decrease is h (−s + t₀.₉₅ e) / L, with m − 2 degrees of freedom.

    Args:
        losses: Mean training loss of each of the stage's n epochs so far. Every epoch sees each image once, so differences
            between epochs contain no sampling noise.
        schedule_epochs: Epochs of the whole schedule.
    """
    count = len(losses)
    if count < LEAST_EPOCHS:
        return None
    window = np.asarray(losses[-max(LEAST_EPOCHS, math.ceil(count / 3)) :], dtype=np.float64)
    # scipy's regression has no standard error for equal losses.
    times = np.arange(len(window)) - (len(window) - 1) / 2
    mean, slope = window.mean(), times @ window / (times @ times)
    residuals = window - mean - slope * times
    error = math.sqrt(residuals @ residuals / (len(window) - 2) / (times @ times))
    change = max(1.0, schedule_epochs / 10) * (-slope + float(stdtrit(len(window) - 2, _CONFIDENCE)) * error)
    decrease = change / mean if mean > 0 else 0.0
    return Decision(epochs=count, slope=float(slope), error=error, decrease=float(decrease))


def first_end(losses: Sequence[float], schedule_epochs: int) -> Decision | None:
    """Return the first decision that ends a stage with these losses, or None if there is none."""
    for count in range(LEAST_EPOCHS, len(losses) + 1):
        decision = decide(losses[:count], schedule_epochs)
        if decision is not None and decision.ends_stage:
            return decision
    return None
