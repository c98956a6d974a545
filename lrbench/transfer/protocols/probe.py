"""The linear probe: multinomial logistic regression on frozen features.

The objective is the summed cross-entropy plus λ/2·‖W‖² over standardised features, the bias unpenalised; scikit-learn's
`LogisticRegression` has the same with C = 1/λ. It is convex, so where the solver stops is told by its gradient alone. The work
is in single precision; every solution is checked in double precision, and gone on with there where it does not hold.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import product, rows_at_once
from lrbench.transfer.metrics import headline
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.protocols.lbfgs import MEMORY, minimise
from lrbench.transfer.selection import Choice, LabelledFeatures, heed, on_edge

# A solution is no further above the infimum of the mean objective than about this, by the solver's own model of it.
_DECREMENT = 1e-8
# Logits, and inputs in double precision, in memory at a time; the share of a GPU's free memory that histories may take.
_LOGIT_BYTES = 256 << 20
_INPUT_BYTES = 32 << 20
_HISTORY_SHARE = 0.4
# Images whose moments are taken at a time.
_BLOCK = 16384
# Single precision rounds a feature by a few units in its last place.
_ROUNDING = 16 * torch.finfo(torch.float32).eps
# For how long a fit reports nothing, in seconds.
_SILENT = 5.0


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
    """Zero mean and unit variance of each feature, learnt on training features; constant ones become zero."""

    def __init__(self, features: torch.Tensor) -> None:
        # In blocks: the whole in double precision would be twice the size of the features.
        blocks = torch.split(features, _BLOCK)
        self._mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(features)
        squares = torch.stack([block.double().sub_(self._mean).square_().sum(0) for block in blocks]).sum(0)
        deviation = (squares / len(features)).sqrt()
        # The deviation of a constant feature is rounding, and dividing by it would turn rounding into a feature.
        constant = deviation <= (_ROUNDING * self._mean.abs()).clamp(min=1e-14)
        self._scale = torch.where(constant, torch.inf, deviation)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features with a column of ones. Shape `(N, D + 1)`, float32."""
        inputs = torch.ones(len(features), features.shape[1] + 1, device=features.device)
        rows = rows_at_once(features.shape[1])
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
    """Solve the problem at each strength; several together where that is faster, else each started from the one before.

    Args:
        inputs: Standardised, with a column of ones. Shape `(N, D + 1)`, float32.
        labels: Shape `(N,)`.
        strengths: λ of each problem, strongest first.
        classes: Number of classes C.
        settings: Tolerance (on the mean objective's gradient) and most iterations.
        control: Told how many are solved, or of a single one the iterations; may stop it.

    Returns:
        One fit a strength, in the order given.

    Raises:
        InterruptedWork: Asked to stop.
    """
    count, width = inputs.shape
    decays = torch.tensor([strength / count for strength in strengths], dtype=torch.float64, device=inputs.device)
    # Where the penalty bends the objective by λ/N, a gradient g is within g/(λ/N) of the optimum: a strong penalty makes a
    # small absolute gradient both needless and, in any precision, out of reach.
    limits = settings.tolerance * decays.clamp(min=1.0)
    problems = _Problems(inputs, labels, decays, classes, settings.iterations, control)
    at_once = problems.at_once()
    start = torch.zeros(1, width * classes, dtype=torch.float64, device=inputs.device)
    scales = torch.zeros(1, dtype=torch.float64, device=inputs.device)
    fits: list[Fit] = []
    for first in range(0, len(strengths), at_once):
        chosen = torch.arange(first, min(first + at_once, len(strengths)), device=inputs.device)
        begun = start.expand(len(chosen), -1), scales.expand(len(chosen))
        found, met = _solve(problems, chosen, *begun, limits[chosen], settings.iterations)
        fits.extend(found)
        problems.solved = len(fits)
        if control is not None and len(strengths) > 1:
            control.progress(len(fits), len(strengths), "strengths")
        # The strengths are evenly spaced in the logarithm, in which solutions move smoothly: the next lies about as far ahead
        # of the last as that of the one before it.
        ahead = 2 * fits[-1].weights - fits[-2].weights if at_once == 1 and len(fits) > 1 else fits[-1].weights
        start, scales = ahead.to(inputs.device).reshape(1, -1), met[-1:]
    return fits


def _solve(
    problems: "_Problems",
    chosen: torch.Tensor,
    start: torch.Tensor,
    scales: torch.Tensor,
    limits: torch.Tensor,
    iterations: int,
) -> tuple[list[Fit], torch.Tensor]:
    """Solve some of the problems together: in single precision, then what a check in double precision finds wanting."""
    every = torch.arange(len(chosen), device=start.device)
    most = torch.full_like(every, iterations)

    def evaluate(points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return problems.evaluate(points, chosen[which])

    # Half of each limit leaves room for the rounding of the gradient.
    rough = minimise(evaluate, start.float(), limits=limits / 2, decrement=_DECREMENT, iterations=most, scales=scales)
    points, used, scales = rough.points.double(), rough.iterations, rough.scales.double()
    values, gradients = evaluate(points, every)
    sizes = gradients.abs().amax(1)
    settled = rough.converged & (sizes <= limits)
    wanting = every[~settled]
    if len(wanting):
        fine = minimise(
            lambda points, which: evaluate(points, wanting[which]),
            points[wanting],
            limits=limits[wanting],
            decrement=_DECREMENT,
            iterations=most[wanting] - used[wanting],
            scales=scales[wanting],
        )
        points[wanting], settled[wanting], scales[wanting] = fine.points, fine.converged, fine.scales
        used[wanting] += fine.iterations
        values[wanting], gradients = evaluate(fine.points, wanting)
        sizes[wanting] = gradients.abs().amax(1)
    fits = [
        Fit(
            weights=point.reshape(-1, problems.classes).cpu(),
            iterations=int(steps),
            gradient=float(size),
            objective=float(value),
            converged=bool(done),
        )
        for point, steps, size, value, done in zip(points, used, sizes, values, settled, strict=True)
    ]
    return fits, scales


class _Problems:
    """The mean objective at several strengths, on the same inputs.

    Args:
        inputs: Shape `(N, D + 1)`, float32.
        labels: Shape `(N,)`.
        decays: λ/N of each problem, float64. Shape `(P,)`.
        classes: Number of classes.
        iterations: Most iterations of each.
        control: Told how far long work is; may stop it.

    Attributes:
        solved: How many problems are solved.
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
        heed(self._control)
        if self._control is None or time.monotonic() - self._reported < _SILENT:
            return
        self._reported = time.monotonic()
        if len(self._decays) > 1:
            self._control.progress(self.solved, len(self._decays), "strengths")
        else:
            done = min(self._evaluations, self._iterations)
            self._control.progress(done, self._iterations, "iterations at most")

    def at_once(self) -> int:
        """How many problems are solved together: as many as fit on a GPU, one on a CPU, where a good start is worth more.

        A start near the solution also settles the weakest strengths, at which the objective hardly tells solutions apart.
        """
        if self._inputs.device.type != "cuda" or len(self._decays) == 1:
            return 1
        # What torch holds and does not use counts as free.
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._inputs.device)
        # Pairs of vectors, twice while problems that are done are taken out, and a dozen more for points, gradients and
        # directions; in double precision for what is gone on with there.
        each = 2 * (2 * 2 * MEMORY + 12) * self._inputs.shape[1] * self.classes * 4
        return int(min(len(self._decays), max(1, _HISTORY_SHARE * free // each)))

    def evaluate(self, points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and gradients of some of the problems, in the points' precision; sums of values in float64.

        Args:
            points: Weights, flat. Shape `(p, (D + 1) · C)`.
            which: Their problems. Shape `(p,)`.

        Raises:
            InterruptedWork: Asked to stop.
        """
        self._evaluations += 1
        count, width = self._inputs.shape
        weights = points.view(len(points), width, self.classes)
        side_by_side = weights.permute(1, 0, 2).reshape(width, -1)
        values = torch.zeros(len(points), dtype=torch.float64, device=points.device)
        gradients = torch.zeros_like(side_by_side)
        rows = max(1, _LOGIT_BYTES // (points.element_size() * side_by_side.shape[1]))
        if points.dtype != self._inputs.dtype:
            # The inputs are copied then; with few classes that would be all of them at a time.
            rows = min(rows, max(1, _INPUT_BYTES // (points.element_size() * width)))
        for start in range(0, count, rows):
            self._report()
            inputs = self._inputs[start : start + rows].to(points.dtype)
            own = self._labels[start : start + rows, None, None].expand(-1, len(points), 1)
            logits = (inputs @ side_by_side).view(len(inputs), len(points), self.classes)
            logs = torch.log_softmax(logits, dim=2)
            values -= logs.gather(2, own).squeeze(2).sum(0, dtype=torch.float64)
            # Probabilities less the labels are the loss's slope in the logits.
            residual = logs.exp_()
            residual.scatter_add_(2, own, residual.new_full(own.shape, -1.0))
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
    """Choose the strength on validation; of equal scores the strongest wins.

    Args:
        train: What is fitted.
        validation: What is scored.
        classes: Number of classes.
        metric: `top1` or `mean_per_class`.
        settings: The grid, tolerance and most iterations.
        control: Told how far the work is; may stop it.

    Raises:
        InterruptedWork: Asked to stop.
    """
    grid = settings.grid()
    standardise = Standardiser(train.features)
    candidates: list[dict[str, Any]] = []
    fits = solve(standardise(train.features), train.labels, grid, classes=classes, settings=settings, control=control)
    inputs = standardise(validation.features)
    for strength, fit in zip(grid, fits, strict=True):
        score = headline(product(inputs, fit.weights), validation.labels, metric)
        candidates.append(
            {
                "strength": strength,
                "score": score,
                "iterations": fit.iterations,
                "final_gradient_norm": fit.gradient,
                "converged": fit.converged,
            }
        )
    # `max` takes the first of equals, and the grid falls from the strongest.
    best = max(candidates, key=lambda candidate: candidate["score"])
    edge = on_edge(candidates, "strength", (grid[0], grid[-1]))
    return Choice(chosen={"strength": best["strength"]}, candidates=tuple(candidates), edge=edge, metric=metric)


class FittedProbe(Fitted):
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
        return product(self._standardise(features), self._weights)


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: Probe, control: Control | None = None
) -> FittedProbe:
    """Fit once with the chosen strength.

    Raises:
        InterruptedWork: Asked to stop.
    """
    standardise = Standardiser(data.features)
    strength = [float(choice.chosen["strength"])]
    inputs = standardise(data.features)
    (solved,) = solve(inputs, data.labels, strength, classes=classes, settings=settings, control=control)
    return FittedProbe(standardise, solved)
