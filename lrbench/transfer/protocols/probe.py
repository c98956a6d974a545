"""The linear probe: multinomial logistic regression on frozen features.

Standardised features with a column of ones, X of shape (N, D + 1); labels y of shape (N,); weights W of shape (D + 1, C), whose
last row is the bias. With P = softmax(X W), shape (N, C), and Y the one-hot labels, shape (N, C), the mean objective is

    f(W) = -(1/N) Σ_n log P[n, y_n] + (λ / 2N) |W[:-1]|²        gradient  Xᵀ (P - Y) / N + (λ / N) W (0 for the bias)

that is scikit-learn's `LogisticRegression` with C = 1/λ. It is convex: a small gradient proves a solution. Problems are solved
in float32; each solution is checked in float64, and refined in float64 if its gradient is too large.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import float64_product, rows_per_block
from lrbench.transfer.metrics import headline
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.protocols.lbfgs import MEMORY, minimise
from lrbench.transfer.selection import Choice, LabelledFeatures, on_edge, raise_if_stopped

# Largest decrease of the mean objective that the solver predicts at a solution.
_DECREMENT = 1e-8
# Memory of logits and of float64 inputs at a time, and the fraction of a GPU's free memory for histories.
_LOGIT_BYTES = 256 << 20
_INPUT_BYTES = 32 << 20
_HISTORY_FRACTION = 0.4
# Images per block when moments are computed.
_BLOCK = 16384
# Relative rounding of a feature in float32: a few units in the last place.
_ROUNDING = 16 * torch.finfo(torch.float32).eps
# Seconds between two reports of progress.
_REPORT_SECONDS = 5.0


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


class Standardiser:
    """Scaling of each feature to zero mean and unit variance on training features; constant features become zero."""

    def __init__(self, features: torch.Tensor) -> None:
        # In blocks, since a float64 copy of all features would double their size.
        blocks = torch.split(features, _BLOCK)
        self._mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(features)
        squares = torch.stack([block.double().sub_(self._mean).square_().sum(0) for block in blocks]).sum(0)
        deviation = (squares / len(features)).sqrt()
        # The deviation of a constant feature is rounding; dividing by it would amplify rounding to a feature.
        constant = deviation <= (_ROUNDING * self._mean.abs()).clamp(min=1e-14)
        self._scale = torch.where(constant, torch.inf, deviation)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return standardised features with a column of ones. Shape `(N, D + 1)`, float32."""
        inputs = torch.ones(len(features), features.shape[1] + 1, device=features.device)
        rows = rows_per_block(features.shape[1])
        for part, block in zip(torch.split(inputs, rows), torch.split(features, rows), strict=True):
            part[:, :-1] = block.double().sub_(self._mean).div_(self._scale)
        return inputs


def solve(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    strengths: Sequence[float],
    *,
    classes: int,
    settings: Probe,
    control: Control | None = None,
) -> list[Fit]:
    """Solve the problem at each strength: several together on a GPU, one after the other with warm starts on a CPU.

    Args:
        inputs: Standardised features with a column of ones. Shape `(N, D + 1)`, float32.
        labels: Shape `(N,)`.
        strengths: λ of each problem, falling.
        classes: Number of classes C.
        settings: Tolerance of the gradient, and iteration limit.
        control: Receives progress and may request a stop.

    Returns:
        One fit per strength, in the given order.

    Raises:
        InterruptedWork: A stop was requested.
    """
    count, width = inputs.shape
    decays = torch.tensor([strength / count for strength in strengths], dtype=torch.float64, device=inputs.device)
    # The penalty has curvature λ/N, so that a gradient g is within g / (λ/N) of the optimum: a strong penalty needs no small
    # absolute gradient, and no precision reaches one.
    limits = settings.tolerance * decays.clamp(min=1.0)
    problems = _Problems(inputs, labels, decays, classes, settings.iterations, control)
    at_once = problems.at_once()
    start = torch.zeros(1, width * classes, dtype=torch.float64, device=inputs.device)
    scales = torch.zeros(1, dtype=torch.float64, device=inputs.device)
    fits: list[Fit] = []
    for first in range(0, len(strengths), at_once):
        chosen = torch.arange(first, min(first + at_once, len(strengths)), device=inputs.device)
        solved, new_scales = _solve(
            problems,
            chosen,
            start.expand(len(chosen), -1),
            scales.expand(len(chosen)),
            limits[chosen],
            settings.iterations,
        )
        fits.extend(solved)
        problems.solved = len(fits)
        if control is not None and len(strengths) > 1:
            control.progress(len(fits), len(strengths), "strengths")
        # Solutions are smooth in log λ, and strengths are evenly spaced in it: extrapolate linearly.
        is_path = at_once == 1 and len(fits) > 1
        weights = 2 * fits[-1].weights - fits[-2].weights if is_path else fits[-1].weights
        start, scales = weights.to(inputs.device).reshape(1, -1), new_scales[-1:]
    return fits


def _solve(
    problems: "_Problems",
    chosen: torch.Tensor,
    start: torch.Tensor,
    scales: torch.Tensor,
    limits: torch.Tensor,
    iterations: int,
) -> tuple[list[Fit], torch.Tensor]:
    """Solve some of the problems together in float32, and in float64 those whose gradient is still too large."""
    indices = torch.arange(len(chosen), device=start.device)
    iteration_limits = torch.full_like(indices, iterations)

    def evaluate(points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return problems.evaluate(points, chosen[which])

    # Half of each limit leaves room for the rounding of the gradient.
    single = minimise(
        evaluate, start.float(), limits=limits / 2, decrement=_DECREMENT, iterations=iteration_limits, scales=scales
    )
    points, used, scales = single.points.double(), single.iterations, single.scales.double()
    values, gradients = evaluate(points, indices)
    sizes = gradients.abs().amax(1)
    converged = single.converged & (sizes <= limits)
    rest = indices[~converged]
    if len(rest):
        double = minimise(
            lambda points, which: evaluate(points, rest[which]),
            points[rest],
            limits=limits[rest],
            decrement=_DECREMENT,
            iterations=iteration_limits[rest] - used[rest],
            scales=scales[rest],
        )
        points[rest], converged[rest], scales[rest] = double.points, double.converged, double.scales
        used[rest] += double.iterations
        values[rest], gradients = evaluate(double.points, rest)
        sizes[rest] = gradients.abs().amax(1)
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
        control: Control | None = None,
    ) -> None:
        self._inputs, self._labels, self._decays, self.classes = inputs, labels.to(inputs.device), decays, classes
        self._iterations, self._control = iterations, control
        self._evaluations, self._reported = 0, time.monotonic()
        self.solved = 0

    def _report(self) -> None:
        raise_if_stopped(self._control)
        if self._control is None or time.monotonic() - self._reported < _REPORT_SECONDS:
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
        side_by_side = weights.permute(1, 0, 2).reshape(width, -1)
        values = torch.zeros(len(points), dtype=torch.float64, device=points.device)
        gradients = torch.zeros_like(side_by_side)
        rows = max(1, _LOGIT_BYTES // (points.element_size() * side_by_side.shape[1]))
        if points.dtype != self._inputs.dtype:
            # With few classes, the copy of the inputs is larger than the logits.
            rows = min(rows, max(1, _INPUT_BYTES // (points.element_size() * width)))
        for start in range(0, count, rows):
            self._report()
            inputs = self._inputs[start : start + rows].to(points.dtype)
            labels = self._labels[start : start + rows, None, None].expand(-1, len(points), 1)
            logits = (inputs @ side_by_side).view(len(inputs), len(points), self.classes)
            logs = torch.log_softmax(logits, dim=2)
            values -= logs.gather(2, labels).squeeze(2).sum(0, dtype=torch.float64)
            # P - Y, the derivative of the loss by the logits.
            residual = logs.exp_()
            residual.scatter_add_(2, labels, residual.new_full(labels.shape, -1.0))
            gradients.addmm_(inputs.T, residual.view(len(inputs), -1))
        slopes = (gradients / count).view(width, len(points), self.classes).permute(1, 0, 2).contiguous()
        decays = self._decays[which]
        penalised = weights[:, :-1]
        slopes[:, :-1] += decays.to(points.dtype)[:, None, None] * penalised
        values = values / count + 0.5 * decays * penalised.double().square().sum((1, 2))
        return values, slopes.flatten(1)


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
