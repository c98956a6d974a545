"""The linear probe: multinomial logistic regression on frozen features (`lrbench.transfer.protocols.logistic`)."""

from typing import Any

import torch

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import float64_product
from lrbench.transfer.metrics import headline
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.protocols.fits import Fit
from lrbench.transfer.protocols.logistic import Standardiser, solve
from lrbench.transfer.selection import Choice, LabelledFeatures, on_edge


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> Probe:
    """Return the settings of the probe."""
    return settings.probe


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: Probe,
    control: Control | None = None,
) -> Choice:
    """Select the strength on validation; of equal scores the strongest wins.

    Args:
        train: Images to fit.
        validation: Images to score.
        classes: Number of classes.
        metric: `top1` or `mean_per_class`.
        settings: Grid, tolerance and iteration limit.
        control: Receives progress and may request a stop.

    Raises:
        InterruptedWork: A stop was requested.
    """
    grid = settings.grid()
    standardise = Standardiser(train.features)
    candidates: list[dict[str, Any]] = []
    fits = solve(standardise(train.features), train.labels, grid, classes=classes, settings=settings, control=control)
    inputs = standardise(validation.features)
    for strength, fit in zip(grid, fits, strict=True):
        score = headline(float64_product(inputs, fit.weights), validation.labels, metric)
        candidates.append(
            {
                "strength": strength,
                "score": score,
                "iterations": fit.iterations,
                "final_gradient_norm": fit.gradient,
                "converged": fit.converged,
            }
        )
    # The strongest of equals: the grid is falling, and `max` returns the first.
    best = max(candidates, key=lambda candidate: candidate["score"])
    edge = on_edge(candidates, "strength", (grid[0], grid[-1]))
    return Choice(chosen={"strength": best["strength"]}, candidates=tuple(candidates), edge=edge, metric=metric)


class FittedProbe(Fitted):
    """A probe with the selected strength, fitted on training and validation images."""

    def __init__(self, standardise: Standardiser, fit: Fit) -> None:
        self._standardise = standardise
        self._weights = fit.weights
        self.diagnostics: dict[str, Any] = fit.diagnostics

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits. Shape `(N, C)`, float64."""
        return float64_product(self._standardise(features), self._weights)


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: Probe, control: Control | None = None
) -> FittedProbe:
    """Fit once with the selected strength.

    Raises:
        InterruptedWork: A stop was requested.
    """
    standardise = Standardiser(data.features)
    strength = [float(choice.chosen["strength"])]
    inputs = standardise(data.features)
    (solved,) = solve(inputs, data.labels, strength, classes=classes, settings=settings, control=control)
    return FittedProbe(standardise, solved)
