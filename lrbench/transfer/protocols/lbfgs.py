"""L-BFGS on many smooth problems of one shape at once, which share matrix products.

SciPy and torch solve one problem at a time; a grid of strengths is P problems on the same features, on one device.

P problems with K parameters: points x and gradients g of shape (P, K), values f of shape (P,). Each problem has its own history
of M pairs (s, y), the changes of x and g in a step. The direction is -H g by the two-loop recursion of Nocedal and Wright 2006,
algorithm 7.4, with H₀ = (s·y / y·y) I of the latest pair. The step length t is found by bisection on the weak Wolfe conditions
(Lewis and Overton 2013), with the slope d = g·direction < 0 before the step and d(t) after it:

    f(t) <= f + 1e-4 t d   and   d(t) >= 0.9 d.

Where rounding of f hides a decrease, the first is replaced by its approximation in slopes, d(t) <= (2e-4 - 1) d (Hager and
Zhang 2005, eq. 4.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Function of points, shape `(p, K)`, and the indices of their problems, shape `(p,)`, that returns values, shape `(p,)` in
float64, and gradients, shape `(p, K)`."""

MEMORY = 10
"""Number M of pairs in a history."""
_DECREASE, _CURVATURE = 1e-4, 0.9
_EXPANSION, _STEPS, _ROUNDING = 4.0, 30, 16
# Steps without improvement after which a problem has reached the limit of its precision.
_PATIENCE = 30


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Final state of each problem.

    Attributes:
        points: Shape `(P, K)`.
        iterations: Number of iterations. Shape `(P,)`.
        converged: Whether both limits were reached. Shape `(P,)`.
        scales: Latest s·y / y·y, an inverse curvature with which a similar problem may start; 0 without a pair. Shape `(P,)`.
    """

    points: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    scales: torch.Tensor


@dataclass
class _State:
    """Active problems: entry i of each tensor belongs to problem `which[i]`."""

    which: torch.Tensor
    points: torch.Tensor
    values: torch.Tensor
    gradients: torch.Tensor
    # s·y / y·y of the latest pair; 0 without one.
    scales: torch.Tensor
    # Problems that have no pair yet.
    fresh: torch.Tensor
    # s, y and 1 / s·y, oldest first; 1 / s·y is 0 for problems without the pair.
    pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    # Lowest value and smallest gradient, and the number of steps since one of them improved.
    lowest: torch.Tensor
    smallest: torch.Tensor
    waited: torch.Tensor

    def restrict(self, rows: torch.Tensor) -> None:
        """Drop all problems but those at `rows`."""
        self.which, self.points, self.values = self.which[rows], self.points[rows], self.values[rows]
        self.gradients, self.scales, self.fresh = self.gradients[rows], self.scales[rows], self.fresh[rows]
        self.pairs = [(s[rows], y[rows], r[rows]) for s, y, r in self.pairs]
        self.lowest, self.smallest, self.waited = self.lowest[rows], self.smallest[rows], self.waited[rows]

    def count_waiting(self) -> None:
        """Count the steps since a problem improved by more than rounding."""
        size = self.gradients.abs().amax(1)
        improved = (self.values < self.lowest - _rounding(self)) | (size < self.smallest)
        self.waited = torch.where(improved, 0, self.waited + 1)
        self.lowest, self.smallest = torch.minimum(self.lowest, self.values), torch.minimum(self.smallest, size)


def minimise(
    evaluate: Evaluate,
    start: torch.Tensor,
    *,
    limits: torch.Tensor,
    decrement: float,
    iterations: torch.Tensor,
    scales: torch.Tensor | None = None,
) -> Minimum:
    """Minimise P smooth problems.

    A problem converges when no entry of its gradient exceeds its limit and the decrease that the quadratic model predicts,
    g·H·g / 2, is at most `decrement`. It stops without convergence when no step decreases it, when it does not improve for
    many steps, or at its iteration limit.

    Args:
        evaluate: Function that returns values and gradients.
        start: Starting points, in the dtype of the computation. Shape `(P, K)`.
        limits: Largest entry of the gradient at convergence. Shape `(P,)`.
        decrement: Largest predicted decrease at convergence.
        iterations: Iteration limits. Shape `(P,)`.
        scales: `Minimum.scales` of similar problems. Shape `(P,)`.
    """
    count = len(start)
    problems = torch.arange(count, device=start.device)
    points, used = start.clone(), torch.zeros(count, dtype=torch.int64, device=start.device)
    converged = torch.zeros(count, dtype=torch.bool, device=start.device)
    final_scales = torch.zeros_like(start[:, 0])
    values, gradients = evaluate(points, problems)
    state = _State(
        which=problems,
        points=points.clone(),
        values=values,
        gradients=gradients,
        scales=torch.zeros_like(start[:, 0]) if scales is None else scales.to(start),
        fresh=torch.ones(count, dtype=torch.bool, device=start.device),
        pairs=[],
        lowest=values,
        smallest=gradients.abs().amax(1),
        waited=torch.zeros_like(used),
    )
    while len(state.which):
        directions = _directions(state)
        slopes = (state.gradients * directions).sum(1).double()
        small = state.gradients.abs().amax(1) <= limits[state.which]
        # Without a pair the curvature is unknown, and so is the predicted decrease.
        done = small & ((-slopes / 2 <= decrement) & ~state.fresh | (state.gradients == 0).all(1))
        active = ~done & (used[state.which] < iterations[state.which]) & (state.waited < _PATIENCE)
        # Indexing by a mask waits for the GPU, so one check skips it in iterations that end no problem.
        if not bool(active.all()):
            ended, rows = torch.nonzero(~active).flatten(), torch.nonzero(active).flatten()
            converged[state.which] |= done
            points[state.which[ended]], final_scales[state.which[ended]] = state.points[ended], state.scales[ended]
            directions, slopes = directions[rows], slopes[rows]
            state.restrict(rows)
            if not len(rows):
                break
        moved = _step(evaluate, state, directions, slopes)
        used[state.which] += moved
        state.count_waiting()
        stuck = ~moved
        if bool(stuck.any()):
            # A failed step along the gradient ends the problem; any other is tried again without history.
            is_over = stuck & state.fresh & (state.scales == 0)
            ended = torch.nonzero(is_over).flatten()
            points[state.which[ended]] = state.points[ended]
            _clear_history(state, stuck)
            state.restrict(torch.nonzero(~is_over).flatten())
    return Minimum(points=points, iterations=used, converged=converged, scales=final_scales)


def _directions(state: _State) -> torch.Tensor:
    """Return -H g by the two-loop recursion. Shape `(p, K)`."""
    work = state.gradients.clone()
    weights = []
    for steps, changes, inverse in reversed(state.pairs):
        weight = inverse * (steps * work).sum(1)
        weights.append(weight)
        work.addcmul_(weight[:, None], changes, value=-1)
    work *= torch.where(state.scales > 0, state.scales, 1.0)[:, None]
    for (steps, changes, inverse), weight in zip(state.pairs, reversed(weights), strict=True):
        work.addcmul_((weight - inverse * (changes * work).sum(1))[:, None], steps)
    return work.neg_()


def _step(evaluate: Evaluate, state: _State, directions: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Move each problem along its direction; return which of them moved. Shape `(p,)`."""
    count = len(state.which)
    device = state.points.device
    lengths = torch.ones(count, dtype=torch.float64, device=device)
    # Without a curvature, the first step has at most length 1.
    norms = state.gradients.double().norm(dim=1)
    lengths = torch.where(state.scales == 0, (1 / norms.clamp(min=1e-300)).clamp(max=1.0), lengths)
    low, high = torch.zeros_like(lengths), torch.full_like(lengths, math.inf)
    moved = torch.zeros(count, dtype=torch.bool, device=device)
    pending = torch.nonzero(slopes < 0).flatten()
    points, values, gradients = state.points, state.values.clone(), state.gradients
    rounding = _rounding(state)
    for _ in range(_STEPS):
        if not len(pending):
            break
        length, before, slope = lengths[pending], state.values[pending], slopes[pending]
        direction = _rows(directions, pending)
        trial = torch.addcmul(_rows(state.points, pending), length[:, None].to(directions.dtype), direction)
        value, gradient = evaluate(trial, state.which[pending])
        new_slope = (gradient * direction).sum(1).double()
        lower = value <= before + _DECREASE * length * slope
        level = (value <= before + rounding[pending]) & (new_slope <= (2 * _DECREASE - 1) * slope)
        lower = lower | level
        flatter = new_slope >= _CURVATURE * slope
        is_accepted = lower & flatter & torch.isfinite(value)
        hits = int(is_accepted.sum())
        if hits == count:
            # Usually all problems accept the first trial, and nothing is copied.
            points, values, gradients, moved = trial, value, gradient, is_accepted
            break
        low[pending] = torch.where(lower & ~flatter, length, low[pending])
        high[pending] = torch.where(lower, high[pending], length)
        halves = (low[pending] + high[pending]) / 2
        lengths[pending] = torch.where(torch.isinf(high[pending]), _EXPANSION * length, halves)
        if hits:
            rows = torch.nonzero(is_accepted).flatten()
            accepted = pending[rows]
            points, gradients = (
                into.index_copy(0, accepted, _rows(new, rows)) for into, new in ((points, trial), (gradients, gradient))
            )
            values[accepted] = value[rows]
            moved[accepted] = True
            pending = pending[~is_accepted]
    _add_pair(state, points, gradients, moved)
    state.points, state.values, state.gradients = points, values, gradients
    return moved


def _rounding(state: _State) -> torch.Tensor:
    # Values are sums of terms of size 1 or larger, so that their rounding error does not shrink with them.
    return _ROUNDING * torch.finfo(state.points.dtype).eps * state.values.abs().clamp(min=1.0)


def _rows(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return tensor if len(rows) == len(tensor) else tensor[rows]


def _add_pair(state: _State, points: torch.Tensor, gradients: torch.Tensor, moved: torch.Tensor) -> None:
    steps, changes = points - state.points, gradients - state.gradients
    along = (steps * changes).sum(1)
    curved = moved & (along > 0)
    inverse = torch.where(curved, 1 / torch.where(curved, along, 1.0), torch.zeros_like(along))
    sizes = changes.square().sum(1)
    state.scales = torch.where(curved, along / torch.where(curved, sizes, 1.0), state.scales)
    state.fresh = state.fresh & ~curved
    if bool(curved.any()):
        state.pairs = [*state.pairs[-(MEMORY - 1) :], (steps, changes, inverse)]


def _clear_history(state: _State, stuck: torch.Tensor) -> None:
    state.pairs = [(s, y, torch.where(stuck, torch.zeros_like(r), r)) for s, y, r in state.pairs]
    state.scales = torch.where(stuck, torch.zeros_like(state.scales), state.scales)
    state.fresh = state.fresh | stuck
