"""Logistic regression by L-BFGS on the device of the features.

Problems are solved in float32; each solution is checked in float64, and refined in float64 if its gradient is too large.
"""

import time

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.transfer.protocols.fits import DECREMENT, Fit, extrapolate, gradient_limits
from lrbench.transfer.protocols.lbfgs import MEMORY, minimise
from lrbench.transfer.selection import raise_if_stopped

# Memory of logits and of float64 inputs at a time, and the fraction of a GPU's free memory for histories.
_LOGIT_BYTES = 256 << 20
_INPUT_BYTES = 32 << 20
_HISTORY_FRACTION = 0.4
# Seconds between two reports of progress.
_REPORT_SECONDS = 5.0


def solve_large(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    strengths: npt.NDArray[np.float64],
    *,
    classes: int,
    settings: Probe,
    control: Control,
) -> list[Fit]:
    """Solve the problem at each strength (see `logistic.solve`).

    A GPU solves several together, a CPU one after the other with warm starts.
    """
    count, width = inputs.shape
    limits = gradient_limits(strengths, count, settings)
    problems = _Problems(inputs, labels, torch.from_numpy(strengths / count), classes, settings.iterations, control)
    at_once = problems.at_once()
    start = torch.zeros(1, width * classes, dtype=torch.float64, device=inputs.device)
    scales = np.zeros(1)
    fits: list[Fit] = []
    for first in range(0, len(strengths), at_once):
        chosen = np.arange(first, min(first + at_once, len(strengths)))
        solved, new_scales = _solve(
            problems,
            chosen,
            start.expand(len(chosen), -1),
            np.repeat(scales, len(chosen)),
            limits[chosen],
            settings.iterations,
        )
        fits.extend(solved)
        problems.solved = len(fits)
        if len(strengths) > 1:
            control.progress(len(fits), len(strengths), "strengths")
        weights = extrapolate(fits) if at_once == 1 else fits[-1].weights
        start, scales = weights.to(inputs.device).reshape(1, -1), new_scales[-1:]
    return fits


def _solve(
    problems: "_Problems",
    chosen: npt.NDArray[np.int64],
    start: torch.Tensor,
    scales: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    iterations: int,
) -> tuple[list[Fit], npt.NDArray[np.float64]]:
    """Solve some of the problems together in float32, and in float64 those whose gradient is still too large."""
    iteration_limits = np.full(len(chosen), iterations)
    numbers = torch.from_numpy(chosen).to(start.device)

    def evaluate(points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return problems.evaluate(points, numbers[which])

    # Half of each limit leaves room for the rounding of the gradient.
    single = minimise(
        evaluate, start.float(), limits=limits / 2, decrement=DECREMENT, iterations=iteration_limits, scales=scales
    )
    points, used, scales = single.points.double(), single.iterations, single.scales
    values, gradients = evaluate(points, torch.arange(len(chosen), device=start.device))
    sizes = gradients.abs().amax(1).cpu().numpy()
    converged = single.converged & (sizes <= limits)
    rest = np.flatnonzero(~converged)
    if len(rest):
        rows = torch.from_numpy(rest).to(start.device)
        double = minimise(
            lambda points, which: evaluate(points, rows[which]),
            points[rows],
            limits=limits[rest],
            decrement=DECREMENT,
            iterations=iteration_limits[rest] - used[rest],
            scales=scales[rest],
        )
        points[rows] = double.points
        converged[rest], scales[rest] = double.converged, double.scales
        used[rest] += double.iterations
        values[rows], gradients = evaluate(double.points, rows)
        sizes[rest] = gradients.abs().amax(1).cpu().numpy()
    fits = [
        Fit(
            weights=point.reshape(-1, problems.classes).cpu(),
            iterations=int(steps),
            gradient=float(size),
            objective=float(value),
            converged=bool(done),
        )
        for point, steps, size, value, done in zip(points, used, sizes, values, converged, strict=True)
    ]
    return fits, scales


class _Problems:
    """Mean objectives at P strengths, on the same inputs.

    Args:
        inputs: Shape `(N, D + 1)`, float32.
        labels: Shape `(N,)`.
        decays: λ/N of each problem. Shape `(P,)`, float64.
        classes: Number of classes C.
        iterations: Iteration limit of each problem.
        control: Receives progress and may request a stop.

    Attributes:
        solved: Number of solved problems.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        decays: torch.Tensor,
        classes: int,
        iterations: int,
        control: Control,
    ) -> None:
        self._inputs, self._decays, self.classes = inputs, decays.to(inputs.device), classes
        self._labels = labels.to(inputs.device)[:, None, None]
        self._minus_one = inputs.new_full((1, 1, 1), -1.0)
        self._iterations, self._control = iterations, control
        self._evaluations, self._reported = 0, time.monotonic()
        self.solved = 0

    def _report(self) -> None:
        raise_if_stopped(self._control)
        if time.monotonic() - self._reported < _REPORT_SECONDS:
            return
        self._reported = time.monotonic()
        if len(self._decays) > 1:
            self._control.progress(self.solved, len(self._decays), "strengths")
        else:
            done = min(self._evaluations, self._iterations)
            self._control.progress(done, self._iterations, "iterations at most")

    def at_once(self) -> int:
        """Return how many problems are solved together: as many as fit on a GPU, and one on a CPU.

        On a CPU a warm start saves more. It also decides among the nearly equal solutions of the weakest strengths.
        """
        if self._inputs.device.type != "cuda" or len(self._decays) == 1:
            return 1
        # Memory that torch has cached counts as free.
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._inputs.device)
        # Two vectors per pair, twice while finished problems are removed, and 12 for points, gradients and directions; twice
        # in float64 for the problems refined in the second pass.
        problem_bytes = 2 * (2 * 2 * MEMORY + 12) * self._inputs.shape[1] * self.classes * 4
        return int(min(len(self._decays), max(1, _HISTORY_FRACTION * free // problem_bytes)))

    def evaluate(self, points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values, shape `(p,)` in float64, and gradients, shape `(p, (D + 1) · C)`, of some of the problems.

        Args:
            points: Flattened weights, whose dtype is that of the computation. Shape `(p, (D + 1) · C)`.
            which: Indices of their problems. Shape `(p,)`.

        Raises:
            InterruptedWork: A stop was requested.
        """
        self._evaluations += 1
        count, width = self._inputs.shape
        weights = points.view(len(points), width, self.classes)
        side_by_side = weights[0] if len(points) == 1 else weights.permute(1, 0, 2).reshape(width, -1)
        values = torch.zeros(len(points), dtype=torch.float64, device=points.device)
        gradients = torch.zeros_like(side_by_side)
        rows = max(1, _LOGIT_BYTES // (points.element_size() * side_by_side.shape[1]))
        if points.dtype != self._inputs.dtype:
            # With few classes, the copy of the inputs is larger than the logits.
            rows = min(rows, max(1, _INPUT_BYTES // (points.element_size() * width)))
        for start in range(0, count, rows):
            self._report()
            inputs, labels = self._inputs, self._labels
            if rows < count:
                inputs, labels = inputs[start : start + rows], labels[start : start + rows]
            inputs, labels = inputs.to(points.dtype), labels.expand(-1, len(points), 1)
            logits = (inputs @ side_by_side).view(len(inputs), len(points), self.classes)
            logs = torch.log_softmax(logits, dim=2)
            values -= logs.gather(2, labels).sum((0, 2), dtype=torch.float64)
            # P - Y, the derivative of the loss by the logits.
            residual = logs.exp_().scatter_add_(2, labels, self._minus_one.to(points.dtype).expand(labels.shape))
            gradients.addmm_(inputs.T, residual.view(len(inputs), -1))
        slopes = gradients.div_(count).view(width, len(points), self.classes).permute(1, 0, 2)
        slopes = slopes.reshape(len(points), width, self.classes)
        decays, penalised = self._decays[which], weights[:, :-1]
        slopes[:, :-1].addcmul_(penalised, decays.to(points.dtype)[:, None, None])
        squares = torch.linalg.vector_norm(penalised, dim=(1, 2), dtype=torch.float64).square_()
        return values.div_(count).addcmul_(decays, squares, value=0.5), slopes.flatten(1)
