"""Logistic regression in float64 by SciPy's L-BFGS-B on one CPU core.

An evaluation of a small problem takes less time than the operations around it, of which SciPy needs few.

The features X = U S Vᵀ, shape (N, D), of rank r ≤ min(N, D), are replaced by their coordinates U S on the principal axes V.
Solutions have no part outside of these axes, since the penalty would only grow. Coordinate j is divided by

    scale_j = √(κ S_j² / N + λ / N)

so that the curvature of the objective is about as large in all directions: the mean of p (1 - p) over images and classes is κ.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import ThreadpoolController

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.transfer.protocols.fits import DECREMENT, Fit, extrapolate, gradient_limits
from lrbench.transfer.selection import raise_if_stopped

Floats = npt.NDArray[np.float64]

_PAIRS = 10
# Evaluations in one iteration at most, on average.
_EVALUATIONS = 10
# κ of a fit at a strength that is often selected. Smaller and larger ones take more iterations.
_CURVATURE = 0.005


def solve_small(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    strengths: Floats,
    *,
    classes: int,
    settings: Probe,
    control: Control,
) -> list[Fit]:
    """Solve the problem at each strength, one after the other with warm starts (see `logistic.solve`)."""
    limits = gradient_limits(strengths, len(inputs), settings)
    start = torch.zeros(inputs.shape[1], classes, dtype=torch.float64)
    fits: list[Fit] = []
    # One thread: the last digits do not depend on their number, and several would wait for one another.
    with _libraries().limit(limits=1, user_api="blas"):
        problem = _Problem(inputs, labels, classes, control)
        for strength, limit in zip(strengths, limits, strict=True):
            fits.append(problem.solve(start, strength, limit, settings.iterations))
            start = extrapolate(fits)
            if len(strengths) > 1:
                control.progress(len(fits), len(strengths), "strengths")
    return fits


@cache
def _libraries() -> ThreadpoolController:
    # Finding the loaded libraries takes as long as one of the fits.
    return ThreadpoolController()


class _Problem:
    """Inputs and labels, on the principal axes of the features.

    Args:
        inputs: Shape `(N, D + 1)`.
        labels: Shape `(N,)`.
        classes: Number of classes C.
        control: May request a stop.
    """

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor, classes: int, control: Control) -> None:
        features: Floats = inputs[:, :-1].cpu().numpy().astype(np.float64)
        left, self._singular, axes = scipy.linalg.svd(features, full_matrices=False, overwrite_a=True)
        self._coordinates = np.column_stack([left * self._singular, np.ones(len(left))])
        # Each row is an axis; the last one is the bias.
        self._axes: Floats = scipy.linalg.block_diag(axes, 1.0)
        self._labels = labels.cpu().numpy()
        self._classes, self._control = classes, control

    def solve(self, start: torch.Tensor, strength: float, limit: float, iterations: int) -> Fit:
        """Solve the problem at one strength.

        It has converged when no entry of the gradient exceeds `limit` and the latest step decreased the objective, and its
        linear model by half of it, by at most `DECREMENT`.

        Args:
            start: Weights to start from. Shape `(D + 1, C)`.
            strength: λ.
            limit: Largest entry of the gradient at a solution.
            iterations: Largest number of iterations.
        """
        images = len(self._coordinates)
        curvatures = np.append(_CURVATURE * self._singular**2 / images + strength / images, _CURVATURE)
        scales = np.sqrt(curvatures)
        decays = np.append(np.full(len(scales) - 1, strength / images), 0.0) / curvatures
        objective = _Objective(self._coordinates / scales, self._labels, decays, self._classes, self._control)

        def largest(gradient: Floats) -> float:
            """Return the largest entry of the gradient by the weights, given that by the scaled coordinates."""
            return float(np.abs((gradient.reshape(self._classes, -1) * scales) @ self._axes).max())

        stop = _StopRule(objective, lambda gradient: largest(gradient) <= limit)
        options = {
            "maxcor": _PAIRS,
            "maxiter": iterations,
            "maxfun": _EVALUATIONS * iterations,
            # The rule stops it.
            "ftol": 0.0,
            "gtol": 0.0,
        }
        point = ((start.numpy().T @ self._axes.T) * scales).ravel()
        if iterations:
            result = minimize(objective, point, jac=True, method="L-BFGS-B", callback=stop, options=options)
            point, iterations = result.x, result.nit
        value, gradient = objective(point)
        size = largest(gradient)
        weights = (point.reshape(self._classes, -1) / scales) @ self._axes
        return Fit(
            weights=torch.from_numpy(np.ascontiguousarray(weights.T)),
            iterations=int(iterations),
            gradient=size,
            objective=value,
            converged=bool(size <= limit and (stop.is_met or size == 0)),
        )


class _Objective:
    """The mean objective and its gradient, as a function of flattened weights of shape `(C, K)`.

    Args:
        inputs: Shape `(N, K)`.
        labels: Shape `(N,)`.
        decays: Factor of half the squared weights of each input. Shape `(K,)`.
        classes: Number of classes C.
        control: May request a stop.

    Attributes:
        value, gradient: Of the latest evaluation.
    """

    def __init__(
        self, inputs: Floats, labels: npt.NDArray[np.int64], decays: Floats, classes: int, control: Control
    ) -> None:
        self._inputs, self._decays, self._control = inputs, decays, control
        # Class-major, so that sums over classes add long rows.
        self._transposed = np.ascontiguousarray(inputs.T)
        self._targets = (np.arange(classes)[:, None] == labels).astype(np.float64)
        self._of_labels = labels * len(labels) + np.arange(len(labels))
        self.value, self.gradient = np.inf, np.zeros(0)

    def __call__(self, point: Floats) -> tuple[float, Floats]:
        """Return the value and the gradient.

        Raises:
            InterruptedWork: A stop was requested.
        """
        raise_if_stopped(self._control)
        images = len(self._inputs)
        weights = point.reshape(len(self._targets), -1)
        logits = weights @ self._transposed
        logits -= logits.max(axis=0)
        of_labels = logits.take(self._of_labels).sum()
        residual = np.exp(logits, out=logits)
        totals = residual.sum(axis=0)
        residual /= totals
        residual -= self._targets
        gradient = residual @ self._inputs
        gradient /= images
        penalty = self._decays * weights
        gradient += penalty
        self.value = float((np.log(totals).sum() - of_labels) / images + 0.5 * np.vdot(penalty, weights))
        self.gradient = gradient.ravel()
        return self.value, self.gradient


class _StopRule:
    """Stops SciPy's iterations.

    Args:
        objective: The objective, whose latest evaluation is that of the iteration.
        is_flat: Whether a gradient is small enough.

    Attributes:
        is_met: Whether it has stopped the iterations.
    """

    def __init__(self, objective: _Objective, is_flat: Callable[[Floats], bool]) -> None:
        self._objective, self._is_flat = objective, is_flat
        self._before: tuple[Floats, float, Floats] | None = None
        self.is_met = False

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        """Compare an iteration with the one before.

        Raises:
            StopIteration: The problem has converged.
        """
        point, now = intermediate_result.x, self._objective
        if self._before is not None:
            before, value, gradient = self._before
            predicted = -float(np.dot(gradient, point - before)) / 2
            self.is_met = max(predicted, value - now.value) <= DECREMENT and self._is_flat(now.gradient)
            if self.is_met:
                raise StopIteration
        self._before = point.copy(), now.value, now.gradient
