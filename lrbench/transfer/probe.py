"""The linear probe: multinomial logistic regression on frozen features.

The objective is the summed cross-entropy plus λ/2·‖W‖² over standardised features, the bias unpenalised; scikit-learn's
`LogisticRegression` has the same with C = 1/λ. It is convex, so where the solver stops is told by its gradient alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from lrbench.registry.suite import Probe
from lrbench.transfer.metrics import headline
from lrbench.transfer.selection import Choice, LabelledFeatures

# Pairs of past steps that L-BFGS keeps; more means fewer iterations, each a little dearer.
_MEMORY = 20

Flat = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One solved problem.

    Attributes:
        weights: Shape `(D + 1, C)`, float64; the last row is the bias.
        iterations: Of L-BFGS.
        gradient: Largest entry of the gradient of the mean objective where it stopped.
        objective: The mean objective there.
        converged: Whether the gradient reached the tolerance.
    """

    weights: torch.Tensor
    iterations: int
    gradient: float
    objective: float
    converged: bool

    @property
    def diagnostics(self) -> dict[str, Any]:
        """What a result states of the fit."""
        return {
            "iterations": self.iterations,
            "final_gradient_norm": self.gradient,
            "objective": self.objective,
            "converged": self.converged,
        }


class Standardiser:
    """Zero mean and unit variance of each feature, learnt on training features; constant ones are only shifted."""

    def __init__(self, features: torch.Tensor) -> None:
        wide = features.double()
        self._mean = wide.mean(0)
        deviation = wide.std(0, unbiased=False)
        # A constant feature has rounding for a deviation; dividing by it would blow noise up.
        tiny = deviation <= 1e-7 * self._mean.abs().clamp(min=1e-7)
        self._scale = torch.where(tiny, torch.ones_like(deviation), deviation)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features with a column of ones. Shape `(N, D + 1)`, float64."""
        scaled = (features.double() - self._mean) / self._scale
        return torch.cat([scaled, torch.ones_like(scaled[:, :1])], dim=1)


def solve(
    inputs: torch.Tensor, labels: torch.Tensor, strengths: Sequence[float], *, classes: int, settings: Probe
) -> list[Fit]:
    """Solve the problem at each strength, each started from the solution before it.

    Args:
        inputs: Standardised, with a column of ones. Shape `(N, D + 1)`, float64.
        labels: Shape `(N,)`.
        strengths: λ of each problem, strongest first.
        classes: Number of classes C.
        settings: Tolerance (on the mean objective's gradient) and most iterations.

    Returns:
        One fit a strength, in the order given.
    """
    count, width = inputs.shape
    rows = torch.arange(count, device=inputs.device)
    start: Flat = np.zeros(width * classes)
    fits = []
    for strength in strengths:
        # Where the penalty bends the objective by λ/N, a gradient g is within g/(λ/N) of the optimum: a strong penalty
        # makes a small absolute gradient both needless and, in double precision, out of reach.
        limit = settings.tolerance * max(1.0, strength / count)

        def objective(flat: Flat, decay: float = strength / count) -> tuple[float, Flat]:
            weights = torch.from_numpy(flat).to(inputs.device).reshape(width, classes)
            logits = inputs @ weights
            logs = torch.log_softmax(logits, dim=1)
            penalised = weights.clone()
            penalised[-1] = 0
            value = -logs[rows, labels].mean() + 0.5 * decay * penalised.square().sum()
            residual = logs.exp_()
            residual[rows, labels] -= 1
            gradient = inputs.T @ residual / count + decay * penalised
            return float(value), gradient.flatten().cpu().numpy()

        # scipy's own vectors are short; on several threads its BLAS and torch's threads would wait for each other.
        with threadpool_limits(1, user_api="blas"):
            solution = minimize(
                objective,
                start,
                jac=True,
                method="L-BFGS-B",
                # The gradient alone decides when it is done: `ftol` would stop short of the optimum on flat stretches.
                options={
                    "maxiter": settings.iterations,
                    "maxfun": 2 * settings.iterations,
                    "gtol": limit,
                    "ftol": 0.0,
                    "maxcor": _MEMORY,
                    "maxls": 40,
                },
            )
        start = solution.x
        gradient = float(np.abs(solution.jac).max())
        fits.append(
            Fit(
                weights=torch.from_numpy(solution.x.copy()).reshape(width, classes),
                iterations=int(solution.nit),
                gradient=gradient,
                objective=float(solution.fun),
                converged=gradient <= limit,
            )
        )
    return fits


def select(
    train: LabelledFeatures, validation: LabelledFeatures, *, classes: int, metric: str, settings: Probe
) -> Choice:
    """Choose the strength on validation; of equal scores the strongest wins.

    Args:
        train: What is fitted.
        validation: What is scored.
        classes: Number of classes.
        metric: `top1` or `mean_per_class`.
        settings: The grid, tolerance and most iterations.
    """
    grid = settings.grid()
    standardise = Standardiser(train.features)
    inputs = standardise(validation.features)
    candidates: list[dict[str, Any]] = []
    for strength, fit in zip(
        grid, solve(standardise(train.features), train.labels, grid, classes=classes, settings=settings), strict=True
    ):
        score = headline(inputs @ fit.weights.to(inputs.device), validation.labels, metric)
        candidates.append(
            {"strength": strength, "score": score, "iterations": fit.iterations, "converged": fit.converged}
        )
    # `max` takes the first of equals, and the grid falls from the strongest.
    best = max(candidates, key=lambda candidate: candidate["score"])
    edge = len(grid) > 1 and best["strength"] in (grid[0], grid[-1])
    return Choice(chosen={"strength": best["strength"]}, candidates=tuple(candidates), edge=edge, metric=metric)


class FittedProbe:
    """A probe with the chosen strength, fitted on everything that may be looked at.

    Attributes:
        diagnostics: Iterations, final gradient norm, objective and whether it converged.
    """

    def __init__(self, standardise: Standardiser, fit: Fit) -> None:
        self._standardise = standardise
        self._weights = fit.weights
        self.diagnostics: dict[str, Any] = fit.diagnostics

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Logits. Shape `(N, C)`, float64."""
        inputs = self._standardise(features)
        return inputs @ self._weights.to(inputs.device)


def fit(data: LabelledFeatures, choice: Choice, *, classes: int, settings: Probe) -> FittedProbe:
    """Fit once with the chosen strength."""
    standardise = Standardiser(data.features)
    (solved,) = solve(
        standardise(data.features), data.labels, [float(choice.chosen["strength"])], classes=classes, settings=settings
    )
    return FittedProbe(standardise, solved)
