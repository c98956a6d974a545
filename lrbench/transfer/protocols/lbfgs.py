"""L-BFGS on many smooth problems of one shape at once: each has its own history, step and stopping, all share the products.

Nocedal and Wright 2006, algorithm 7.4 (two loops), with the step length found by bisection on the weak Wolfe conditions (Lewis
and Overton 2013) or, where the objective's rounding hides a decrease, on their approximation in slopes (Hager and Zhang 2005,
eq. 4.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Takes points, shape `(p, K)`, and the numbers of their problems, shape `(p,)`; gives values, float64 of shape `(p,)`, and
gradients, shape `(p, K)`."""

# Pairs of past steps that are kept. More took no fewer iterations on features like a network's.
MEMORY = 10
_DECREASE, _CURVATURE = 1e-4, 0.9
_EXPANSION, _STEPS, _ROUNDING = 4.0, 30, 16
# After so many steps that better nothing, a problem is at the end of what its precision can tell.
_PATIENCE = 30


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Where each problem stopped.

    Attributes:
        points: Shape `(P, K)`.
        iterations: Of each problem. Shape `(P,)`.
        converged: Whether each met both of its limits. Shape `(P,)`.
        scales: The inverse of a curvature met on the way, which a problem near it may start with; 0 where none was met.
            Shape `(P,)`.
    """

    points: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    scales: torch.Tensor


@dataclass
class _State:
    """The problems that are still going, compacted: entry i of each tensor is problem `which[i]`'s."""

    which: torch.Tensor
    points: torch.Tensor
    values: torch.Tensor
    gradients: torch.Tensor
    # Of the last accepted pair, s·y / y·y: the size of the first guess at the inverse Hessian. 0 where there was none.
    scales: torch.Tensor
    # Problems without a pair of their own.
    fresh: torch.Tensor
    pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    # The lowest value and the smallest gradient so far, and for how many steps neither was bettered.
    lowest: torch.Tensor
    smallest: torch.Tensor
    waited: torch.Tensor

    def keep(self, rows: torch.Tensor) -> None:
        self.which, self.points, self.values = self.which[rows], self.points[rows], self.values[rows]
        self.gradients, self.scales, self.fresh = self.gradients[rows], self.scales[rows], self.fresh[rows]
        self.pairs = [(s[rows], y[rows], r[rows]) for s, y, r in self.pairs]
        self.lowest, self.smallest, self.waited = self.lowest[rows], self.smallest[rows], self.waited[rows]

    def watch(self) -> None:
        """Note whether the last step bettered a problem by more than its rounding."""
        size = self.gradients.abs().amax(1)
        better = (self.values < self.lowest - _rounding(self)) | (size < self.smallest)
        self.waited = torch.where(better, 0, self.waited + 1)
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
    """Minimise P smooth problems from given points.

    A problem is done when no entry of its gradient is larger than its limit and the decrease that the quadratic model still
    promises, half of g·H·g, is below `decrement`; it gives up when no step leads down, when steps bettered nothing for long,
    or when its iterations are used up.

    Args:
        evaluate: Values and gradients of the problems asked for.
        start: Shape `(P, K)`; its dtype is that of the work.
        limits: Largest entry of the gradient at which each is done. Shape `(P,)`.
        decrement: Largest decrease still promised.
        iterations: Most iterations of each. Shape `(P,)`.
        scales: What `Minimum.scales` was of problems near these. Shape `(P,)`.
    """
    count = len(start)
    every = torch.arange(count, device=start.device)
    points, used = start.clone(), torch.zeros(count, dtype=torch.int64, device=start.device)
    converged = torch.zeros(count, dtype=torch.bool, device=start.device)
    met = torch.zeros_like(start[:, 0])
    values, gradients = evaluate(points, every)
    state = _State(
        which=every,
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
        # Before the first step nothing is known of the curvature, and the promise means nothing.
        done = small & ((-slopes / 2 <= decrement) & ~state.fresh | (state.gradients == 0).all(1))
        going = ~done & (used[state.which] < iterations[state.which]) & (state.waited < _PATIENCE)
        # A GPU is waited for wherever a mask selects: most iterations end no problem, and one question says so.
        if not bool(going.all()):
            over, on = torch.nonzero(~going).flatten(), torch.nonzero(going).flatten()
            converged[state.which] |= done
            points[state.which[over]], met[state.which[over]] = state.points[over], state.scales[over]
            directions, slopes = directions[on], slopes[on]
            state.keep(on)
            if not len(on):
                break
        moved = _step(evaluate, state, directions, slopes)
        used[state.which] += moved
        state.watch()
        stuck = ~moved
        if bool(stuck.any()):
            # A first step along the gradient that fails ends it; a later one may have been misled by its history.
            ended = stuck & state.fresh & (state.scales == 0)
            over = torch.nonzero(ended).flatten()
            points[state.which[over]] = state.points[over]
            _forget(state, stuck)
            state.keep(torch.nonzero(~ended).flatten())
    return Minimum(points=points, iterations=used, converged=converged, scales=met)


def _directions(state: _State) -> torch.Tensor:
    """-H·g by the two loops; pairs of problems that lack them weigh nothing."""
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
    """Move each problem along its direction; gives which of them moved. Shape `(p,)`."""
    count = len(state.which)
    device = state.points.device
    lengths = torch.ones(count, dtype=torch.float64, device=device)
    # Where no curvature was met, a direction has the gradient's size, which says nothing of the distance.
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
        heading = _rows(directions, pending)
        tried = torch.addcmul(_rows(state.points, pending), length[:, None].to(directions.dtype), heading)
        value, gradient = evaluate(tried, state.which[pending])
        ahead = (gradient * heading).sum(1).double()
        lower = value <= before + _DECREASE * length * slope
        level = (value <= before + rounding[pending]) & (ahead <= (2 * _DECREASE - 1) * slope)
        lower = lower | level
        flatter = ahead >= _CURVATURE * slope
        found = lower & flatter & torch.isfinite(value)
        hits = int(found.sum())
        if hits == count:
            # The common case: every first try will do, and nothing needs to be copied.
            points, values, gradients, moved = tried, value, gradient, found
            break
        low[pending] = torch.where(lower & ~flatter, length, low[pending])
        high[pending] = torch.where(lower, high[pending], length)
        halves = (low[pending] + high[pending]) / 2
        lengths[pending] = torch.where(torch.isinf(high[pending]), _EXPANSION * length, halves)
        if hits:
            rows = torch.nonzero(found).flatten()
            accepted = pending[rows]
            points, gradients = (
                into.index_copy(0, accepted, _rows(new, rows)) for into, new in ((points, tried), (gradients, gradient))
            )
            values[accepted] = value[rows]
            moved[accepted] = True
            pending = pending[~found]
    _remember(state, points, gradients, moved)
    state.points, state.values, state.gradients = points, values, gradients
    return moved


def _rounding(state: _State) -> torch.Tensor:
    # Values are differences of numbers of the size of one (or larger), whose rounding they carry however small they are.
    return _ROUNDING * torch.finfo(state.points.dtype).eps * state.values.abs().clamp(min=1.0)


def _rows(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return tensor if len(rows) == len(tensor) else tensor[rows]


def _remember(state: _State, points: torch.Tensor, gradients: torch.Tensor, moved: torch.Tensor) -> None:
    steps, changes = points - state.points, gradients - state.gradients
    along = (steps * changes).sum(1)
    curved = moved & (along > 0)
    nothing = torch.zeros_like(along)
    inverse = torch.where(curved, 1 / torch.where(curved, along, 1.0), nothing)
    sizes = changes.square().sum(1)
    state.scales = torch.where(curved, along / torch.where(curved, sizes, 1.0), state.scales)
    state.fresh = state.fresh & ~curved
    if bool(curved.any()):
        state.pairs = [*state.pairs[-(MEMORY - 1) :], (steps, changes, inverse)]


def _forget(state: _State, stuck: torch.Tensor) -> None:
    """Drop the history of problems that no step led down."""
    state.pairs = [(s, y, torch.where(stuck, torch.zeros_like(r), r)) for s, y, r in state.pairs]
    state.scales = torch.where(stuck, torch.zeros_like(state.scales), state.scales)
    state.fresh = state.fresh | stuck
