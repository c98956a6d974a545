"""Solutions of `lrbench.transfer.protocols.logistic`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import Probe

DECREMENT = 1e-8
"""Largest decrease of the mean objective that a solver predicts at a solution."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One solved problem.

    Attributes:
        weights: Shape `(D + 1, C)`, float64; the last row is the bias.
        iterations: Number of L-BFGS iterations.
        gradient: Largest entry of the gradient of the mean objective at the solution.
        objective: Mean objective at the solution.
        converged: Whether the gradient reached the tolerance.
    """

    weights: torch.Tensor
    iterations: int
    gradient: float
    objective: float
    converged: bool

    @property
    def diagnostics(self) -> dict[str, Any]:
        """Entries for the result's `diagnostics`."""
        return {
            "iterations": self.iterations,
            "final_gradient_norm": self.gradient,
            "objective": self.objective,
            "converged": self.converged,
        }


def gradient_limits(strengths: npt.NDArray[np.float64], images: int, settings: Probe) -> npt.NDArray[np.float64]:
    """Return the largest entry of the gradient of the mean objective at a solution, for each strength.

    The penalty has curvature λ/N, so that a gradient g is within g / (λ/N) of the optimum: a strong penalty needs no small
    absolute gradient, and no precision reaches one.
    """
    return settings.tolerance * np.maximum(strengths / images, 1.0)


def extrapolate(fits: list[Fit]) -> torch.Tensor:
    """Return weights with which to start the next strength: solutions are smooth in log λ, in which strengths are even."""
    return 2 * fits[-1].weights - fits[-2].weights if len(fits) > 1 else fits[-1].weights
