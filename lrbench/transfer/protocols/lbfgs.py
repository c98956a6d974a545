"""L-BFGS on many smooth problems of one shape at once, which share matrix products.

SciPy and torch solve one problem at a time; a grid of strengths is P problems on the same features, on one device.

P problems with K parameters: points x and gradients g of shape (P, K), values f of shape (P,). Each problem has its own history
of M pairs (s, y), the changes of x and g in a step. The direction is -H g with the compact form of the inverse Hessian (Byrd,
Nocedal and Schnabel 1994, eq. 3.1), where S and Y hold the pairs as columns and γ = s·y / y·y of the latest pair:

    R[i, j] = s_i·y_j for i <= j, else 0      D = diag(s_i·y_i)      u = R⁻¹ Sᵀg
    H g = γ g + S R⁻ᵀ (D u + γ YᵀY u - γ Yᵀg) - γ Y u.

Vectors stay on the device; numbers of one problem, and the products of its pairs, are small and kept on the CPU in float64.
So an iteration takes few operations on the device, and waits for it three times.

The step length t is found by bisection on the weak Wolfe conditions (Lewis and Overton 2013), with the slope
d = g·direction < 0 before the step and d(t) after it:

    f(t) <= f + 1e-4 t d   and   d(t) >= 0.9 d.

Where rounding of f hides a decrease, the first is replaced by its approximation in slopes, d(t) <= (2e-4 - 1) d (Hager and
Zhang 2005, eq. 4.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Function of points, shape `(p, K)`, and the indices of their problems, shape `(p,)`, that returns values, shape `(p,)` in
float64, and gradients, shape `(p, K)`."""
Floats = npt.NDArray[np.float64]

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
        points: Shape `(P, K)`, on the device.
        iterations: Number of iterations. Shape `(P,)`.
        converged: Whether both limits were reached. Shape `(P,)`.
        scales: Latest s·y / y·y, an inverse curvature with which a similar problem may start; 0 without a pair. Shape `(P,)`.
    """

    points: torch.Tensor
    iterations: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    scales: Floats


class _History:
    """The latest pairs of p problems, and the products of their pairs.

    Args:
        like: A tensor of shape `(p, K)`.
    """

    def __init__(self, like: torch.Tensor) -> None:
        count, width = like.shape
        # Rows 2i and 2i + 1 are s and y of slot i; zero for a problem that has no such pair.
        self._vectors = like.new_zeros(count, 2 * MEMORY, width)
        # s_i·y_j and y_i·y_j by slot.
        self._products = np.zeros((count, MEMORY, MEMORY, 2))
        # Slots, oldest first.
        self._slots: list[int] = []

    @property
    def _used(self) -> torch.Tensor:
        return self._vectors[:, : 2 * len(self._slots)]

    def restrict(self, kept: npt.NDArray[np.int64], rows: torch.Tensor) -> None:
        """Drop all problems but those at `kept`, which `rows` holds on the device."""
        self._vectors, self._products = self._vectors[rows], self._products[kept]

    def clear(self, dropped: npt.NDArray[np.int64], rows: torch.Tensor) -> None:
        """Forget the pairs of the problems at `dropped`, which `rows` holds on the device."""
        self._vectors[rows] = 0.0
        self._products[dropped] = 0.0

    def add(self, steps: torch.Tensor, changes: torch.Tensor) -> tuple[Floats, Floats]:
        """Add a pair of each problem; a pair without positive curvature is stored as zeros.

        Returns:
            s·y and y·y. Shape `(p,)` each.
        """
        slot = len(self._slots) if len(self._slots) < MEMORY else self._slots.pop(0)
        self._slots.append(slot)
        self._vectors[:, 2 * slot], self._vectors[:, 2 * slot + 1] = steps, changes
        products = self.products_with(changes)
        along, squares = products[:, slot, 0].copy(), products[:, slot, 1].copy()
        flat = ~((along > 0) & np.isfinite(along) & np.isfinite(squares))
        if flat.any():
            self._vectors[_on_device(np.flatnonzero(flat), steps), 2 * slot : 2 * slot + 2] = 0.0
            products[flat] = 0.0
        used = products.shape[1]
        self._products[:, :used, slot] = products
        self._products[:, slot, :used, 1] = products[:, :, 1]
        return along, squares

    def products_with(self, vectors: torch.Tensor) -> Floats:
        """Return s_i·v and y_i·v by slot. Shape `(p, m, 2)`."""
        products = torch.bmm(self._used, vectors[:, :, None]).double().cpu().numpy()
        return products.reshape(len(products), -1, 2)

    def coefficients(self, products: Floats, scales: Floats) -> Floats:
        """Return the coefficients of s_i and y_i in H g - γ g.

        Args:
            products: `products_with(g)`.
            scales: γ. Shape `(p,)`.

        Returns:
            Shape `(p, 2m)`, in the order of the vectors.
        """
        order = self._slots
        pairs = self._products[:, order][:, :, order]
        upper, squares = np.triu(pairs[..., 0]), pairs[..., 1]
        diagonal = np.diagonal(upper, axis1=1, axis2=2).copy()
        # A missing pair has zeros in its row and column, and must not make the matrix singular.
        step = np.arange(len(order))
        upper[:, step, step] = np.where(diagonal > 0, diagonal, 1.0)
        along_steps, along_changes = products[:, order, 0, None], products[:, order, 1, None]
        gamma = scales[:, None, None]
        first = np.linalg.solve(upper, along_steps)
        second = np.linalg.solve(
            upper.transpose(0, 2, 1), diagonal[..., None] * first + gamma * (squares @ first - along_changes)
        )
        coefficients = np.empty((len(products), len(order), 2))
        coefficients[:, order] = np.concatenate([second, -gamma * first], axis=2)
        return coefficients.reshape(len(products), -1)

    def combine(self, coefficients: Floats, gradients: torch.Tensor, scales: Floats) -> torch.Tensor:
        """Return `scales` times `gradients` plus the vectors times `coefficients`. Shape `(p, K)`."""
        factors = torch.from_numpy(np.column_stack([scales, coefficients])).to(gradients)
        scaled = gradients[:, None] * factors[:, :1, None]
        return torch.baddbmm(scaled, factors[:, None, 1:], self._used).squeeze(1)

    def __len__(self) -> int:
        return len(self._slots)


@dataclass
class _State:
    """Active problems: entry i of each array belongs to problem `which[i]`."""

    which: npt.NDArray[np.int64]
    # The same, on the device.
    rows: torch.Tensor
    points: torch.Tensor
    gradients: torch.Tensor
    values: Floats
    # Largest entry, and sum of squares, of each gradient.
    sizes: Floats
    squares: Floats
    # s·y / y·y of the latest pair; 0 without one.
    scales: Floats
    # Problems that have no pair yet.
    fresh: npt.NDArray[np.bool_]
    history: _History
    # Lowest value and smallest gradient, and the number of steps since one of them improved.
    lowest: Floats
    smallest: Floats
    waited: npt.NDArray[np.int64]

    def restrict(self, kept: npt.NDArray[np.int64]) -> None:
        """Drop all problems but those at `kept`."""
        rows = _on_device(kept, self.points)
        self.points, self.gradients, self.rows = self.points[rows], self.gradients[rows], self.rows[rows]
        self.history.restrict(kept, rows)
        for name in ("which", "values", "sizes", "squares", "scales", "fresh", "lowest", "smallest", "waited"):
            setattr(self, name, getattr(self, name)[kept])

    def count_waiting(self) -> None:
        """Count the steps since a problem improved by more than rounding."""
        improved = (self.values < self.lowest - _rounding(self)) | (self.sizes < self.smallest)
        self.waited = np.where(improved, 0, self.waited + 1)
        self.lowest, self.smallest = np.minimum(self.lowest, self.values), np.minimum(self.smallest, self.sizes)


def minimise(
    evaluate: Evaluate,
    start: torch.Tensor,
    *,
    limits: Floats,
    decrement: float,
    iterations: npt.NDArray[np.int64],
    scales: Floats | None = None,
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
    problems = np.arange(count)
    rows = _on_device(problems, start)
    points, used = start.clone(), np.zeros(count, dtype=np.int64)
    converged, final_scales = np.zeros(count, dtype=bool), np.zeros(count)
    values, gradients = evaluate(start, rows)
    initial = _numbers(values, gradients)
    state = _State(
        which=problems,
        rows=rows,
        points=start,
        gradients=gradients,
        values=initial[0],
        sizes=initial[1],
        squares=initial[2],
        scales=np.zeros(count) if scales is None else scales.astype(np.float64),
        fresh=np.ones(count, dtype=bool),
        history=_History(start),
        lowest=initial[0],
        smallest=initial[1],
        waited=np.zeros(count, dtype=np.int64),
    )
    with np.errstate(all="ignore"):
        while True:
            factors, slopes = _direction_factors(state)
            small = state.sizes <= limits[state.which]
            # Without a pair the curvature is unknown, and so is the predicted decrease.
            done = small & ((-slopes / 2 <= decrement) & ~state.fresh | (state.sizes == 0))
            active = ~done & (used[state.which] < iterations[state.which]) & (state.waited < _PATIENCE)
            if not active.all():
                converged[state.which] |= done
                _store(state, np.flatnonzero(~active), points, final_scales)
                kept = np.flatnonzero(active)
                if not len(kept):
                    break
                factors, slopes = factors[kept], slopes[kept]
                state.restrict(kept)
            moved = _step(evaluate, state, _directions(state, factors), slopes)
            used[state.which] += moved
            state.count_waiting()
            if not moved.all():
                # A failed step along the gradient ends the problem; any other is tried again without history.
                is_over = ~moved & state.fresh & (state.scales == 0)
                _store(state, np.flatnonzero(is_over), points, final_scales)
                stuck = np.flatnonzero(~moved)
                state.history.clear(stuck, _on_device(stuck, start))
                state.scales[stuck], state.fresh[stuck] = 0.0, True
                if is_over.all():
                    break
                if is_over.any():
                    state.restrict(np.flatnonzero(~is_over))
    return Minimum(points=points, iterations=used, converged=converged, scales=final_scales)


def _store(state: _State, ended: npt.NDArray[np.int64], points: torch.Tensor, scales: Floats) -> None:
    """Write the points and scales of problems that have ended."""
    if len(ended):
        points[_on_device(state.which[ended], points)] = state.points[_on_device(ended, points)]
        scales[state.which[ended]] = state.scales[ended]


def _direction_factors(state: _State) -> tuple[Floats, Floats]:
    """Return the factors of the gradient and of the history's vectors in -H g, and the slopes -g·H g.

    Returns:
        Factors, shape `(p, 1 + 2m)`, and slopes, shape `(p,)`.
    """
    gamma = np.where(state.scales > 0, state.scales, 1.0)
    if not len(state.history):
        return -gamma[:, None], -gamma * state.squares
    products = state.history.products_with(state.gradients)
    coefficients = state.history.coefficients(products, gamma)
    slopes = -(gamma * state.squares + (coefficients * products.reshape(len(products), -1)).sum(1))
    return -np.column_stack([gamma, coefficients]), slopes


def _directions(state: _State, factors: Floats) -> torch.Tensor:
    """Return -H g. Shape `(p, K)`."""
    if factors.shape[1] == 1:
        return state.gradients * torch.from_numpy(factors).to(state.gradients)
    return state.history.combine(factors[:, 1:], state.gradients, factors[:, 0])


def _step(evaluate: Evaluate, state: _State, directions: torch.Tensor, slopes: Floats) -> npt.NDArray[np.bool_]:
    """Move each problem along its direction; return which of them moved. Shape `(p,)`."""
    count = len(state.which)
    # Without a curvature, the first step has at most length 1.
    shortened = np.minimum(1.0, 1 / np.maximum(np.sqrt(state.squares), 1e-300))
    lengths = np.where(state.scales == 0, shortened, 1.0)
    low, high = np.zeros(count), np.full(count, math.inf)
    moved = np.zeros(count, dtype=bool)
    pending = np.flatnonzero(slopes < 0)
    points, gradients = state.points, state.gradients
    values, sizes, squares = state.values.copy(), state.sizes.copy(), state.squares.copy()
    rounding = _rounding(state)
    for _ in range(_STEPS):
        if not len(pending):
            break
        length, slope = lengths[pending], slopes[pending]
        rows = None if len(pending) == count else _on_device(pending, directions)
        direction = _rows(directions, rows)
        if (length == 1.0).all():
            trial = _rows(state.points, rows) + direction
        else:
            factors = torch.from_numpy(length[:, None]).to(directions)
            trial = torch.addcmul(_rows(state.points, rows), factors, direction)
        new_values, gradient = evaluate(trial, _rows(state.rows, rows))
        value, size, square, new_slope = _numbers(new_values, gradient, direction)
        before = state.values[pending]
        lower = value <= before + _DECREASE * length * slope
        level = (value <= before + rounding[pending]) & (new_slope <= (2 * _DECREASE - 1) * slope)
        lower = lower | level
        flatter = new_slope >= _CURVATURE * slope
        accepts = lower & flatter & np.isfinite(value)
        low[pending] = np.where(lower & ~flatter, length, low[pending])
        high[pending] = np.where(lower, high[pending], length)
        halves = (low[pending] + high[pending]) / 2
        lengths[pending] = np.where(np.isinf(high[pending]), _EXPANSION * length, halves)
        if accepts.any():
            accepted, chosen = pending[accepts], np.flatnonzero(accepts)
            values[accepted], sizes[accepted], squares[accepted] = value[chosen], size[chosen], square[chosen]
            moved[accepted] = True
            if len(accepted) == count:
                # Usually all problems accept the first trial, and nothing is copied.
                points, gradients = trial, gradient
                break
            into, of = _on_device(accepted, points), _on_device(chosen, points)
            points, gradients = points.index_copy(0, into, trial[of]), gradients.index_copy(0, into, gradient[of])
            pending = pending[~accepts]
    if moved.any():
        along, changes = state.history.add(points - state.points, gradients - state.gradients)
        curved = moved & (along > 0)
        state.scales = np.where(curved, along / np.where(curved, changes, 1.0), state.scales)
        state.fresh = state.fresh & ~curved
    state.points, state.gradients, state.values, state.sizes, state.squares = points, gradients, values, sizes, squares
    return moved


def _numbers(values: torch.Tensor, gradients: torch.Tensor, *directions: torch.Tensor) -> Floats:
    """Return values, largest entries and sums of squares of gradients, and slopes along directions, in one transfer.

    Returns:
        Shape `(3 + number of directions, p)`.
    """
    numbers = [
        torch.linalg.vector_norm(gradients, math.inf, dim=1),
        torch.linalg.vecdot(gradients, gradients),
        *(torch.linalg.vecdot(gradients, direction) for direction in directions),
    ]
    everything = torch.cat([values, torch.cat(numbers).double()])
    return np.asarray(everything.cpu().numpy()).reshape(1 + len(numbers), -1)


def _rounding(state: _State) -> Floats:
    # Values are sums of terms of size 1 or larger, so that their rounding error does not shrink with them.
    return _ROUNDING * torch.finfo(state.points.dtype).eps * np.maximum(1.0, np.abs(state.values))


def _on_device(indices: npt.NDArray[np.int64], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(indices).to(like.device)


def _rows(tensor: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return tensor if rows is None else tensor[rows]
