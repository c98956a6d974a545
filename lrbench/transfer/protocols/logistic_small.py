"""Logistic regression in float64 by SciPy's L-BFGS-B on one CPU core.

An evaluation of a small problem takes less time than the operations around it, of which SciPy needs few.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.transfer.protocols.fits import DECREMENT, Fit, extrapolate, gradient_limits
from lrbench.transfer.selection import raise_if_stopped

Floats = npt.NDArray[np.float64]

_PAIRS = 10
# Evaluations in one iteration at most, on average.
_EVALUATIONS = 10


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
    objective = _Objective(inputs, labels, classes, control)
    start = torch.zeros(inputs.shape[1], classes, dtype=torch.float64)
    fits: list[Fit] = []
    # One thread: the last digits do not depend on their number, and several would wait for one another.
    with threadpool_limits(1, user_api="blas"):
        for strength, limit in zip(strengths, limits, strict=True):
            fits.append(objective.minimise(start, strength / len(inputs), limit, settings.iterations))
            start = extrapolate(fits)
            if len(strengths) > 1:
                control.progress(len(fits), len(strengths), "strengths")
    return fits


class _Objective:
    """The mean objective on fixed inputs.

    Args:
        inputs: Shape `(N, D + 1)`.
        labels: Shape `(N,)`.
        classes: Number of classes C.
        control: May request a stop.
    """

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor, classes: int, control: Control) -> None:
        self._inputs: Floats = inputs.cpu().numpy().astype(np.float64)
        self._transposed = np.ascontiguousarray(self._inputs.T)
        self._labels = labels.cpu().numpy()
        self._images = np.arange(len(self._labels))
        self._classes, self._control = classes, control

    def evaluate(self, point: Floats, decay: float) -> tuple[float, Floats]:
        """Return the value and the gradient at flattened weights, for a decay λ/N.

        Raises:
            InterruptedWork: A stop was requested.
        """
        raise_if_stopped(self._control)
        weights = point.reshape(-1, self._classes)
        logits = self._inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        of_labels = logits[self._images, self._labels].sum()
        odds = np.exp(logits, out=logits)
        totals = odds.sum(axis=1, keepdims=True)
        residual = np.divide(odds, totals, out=odds)
        residual[self._images, self._labels] -= 1.0
        gradient = self._transposed @ residual
        gradient /= len(residual)
        penalised = weights[:-1]
        gradient[:-1] += decay * penalised
        loss = (np.log(totals).sum() - of_labels) / len(residual)
        return float(loss + 0.5 * decay * np.vdot(penalised, penalised)), gradient.ravel()

    def minimise(self, start: torch.Tensor, decay: float, limit: float, iterations: int) -> Fit:
        """Minimise the objective.

        It has converged when no entry of the gradient exceeds `limit` and the latest step decreased the objective, and its
        linear model by half of it, by at most `DECREMENT`.
        """
        stop = _StopRule(limit)

        def evaluate(point: Floats) -> tuple[float, Floats]:
            stop.value, stop.gradient = self.evaluate(point, decay)
            return stop.value, stop.gradient

        options = {
            "maxcor": _PAIRS,
            "maxiter": iterations,
            "maxfun": _EVALUATIONS * iterations,
            # The rule stops it.
            "ftol": 0.0,
            "gtol": 0.0,
        }
        point = start.numpy().ravel()
        if iterations:
            result = minimize(evaluate, point, jac=True, method="L-BFGS-B", callback=stop, options=options)
            point, iterations = result.x, result.nit
        value, gradient = self.evaluate(point, decay)
        size = float(np.abs(gradient).max())
        return Fit(
            weights=torch.from_numpy(point.reshape(-1, self._classes).copy()),
            iterations=int(iterations),
            gradient=size,
            objective=value,
            converged=bool(size <= limit and (stop.is_met or size == 0)),
        )


class _StopRule:
    """Stops SciPy's iterations.

    Attributes:
        value, gradient: Of the latest evaluation.
        is_met: Whether it has stopped the iterations.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._before: tuple[Floats, float, Floats] | None = None
        self.value, self.gradient, self.is_met = np.inf, np.zeros(0), False

    def __call__(self, intermediate_result: OptimizeResult) -> None:
        """Compare an iteration with the one before.

        Raises:
            StopIteration: The problem has converged.
        """
        point = intermediate_result.x
        if self._before is not None:
            before, value, gradient = self._before
            predicted = -float(np.dot(gradient, point - before)) / 2
            self.is_met = max(predicted, value - self.value) <= DECREMENT and np.abs(self.gradient).max() <= self._limit
            if self.is_met:
                raise StopIteration
        self._before = point.copy(), self.value, self.gradient
