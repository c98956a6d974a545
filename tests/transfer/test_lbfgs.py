import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.utils._python_dispatch import TorchDispatchMode

from lrbench.transfer.protocols.lbfgs import minimise


def quadratics(count=4, width=8, condition=100.0):
    """Return an evaluation of convex quadratics with different condition numbers."""
    draw = np.random.default_rng(0)
    matrices, centres = [], torch.from_numpy(draw.normal(size=(count, width)))
    for number in range(count):
        rotation, _ = np.linalg.qr(draw.normal(size=(width, width)))
        spectrum = np.geomspace(1, condition ** (number + 1), width)
        matrices.append(rotation @ np.diag(spectrum) @ rotation.T / spectrum[-1])
    stacked = torch.from_numpy(np.stack(matrices))

    def evaluate(points, which):
        away = (points - centres[which]).double()
        pulled = torch.einsum("pij,pj->pi", stacked[which], away)
        return 0.5 * (away * pulled).sum(1), pulled.to(points.dtype)

    return evaluate, centres


def until(count, *, limit, decrement, iterations):
    """Return the same stopping rule for each of `count` problems."""
    return {
        "limits": np.full(count, limit),
        "decrement": decrement,
        "iterations": np.full(count, iterations),
    }


def test_every_problem_is_solved_and_stops():
    evaluate, centres = quadratics(count=3, condition=10.0)
    asked = []

    def counting(points, which):
        asked.extend(which.tolist())
        return evaluate(points, which)

    solution = minimise(
        counting, torch.zeros(3, 8, dtype=torch.float64), **until(3, limit=1e-9, decrement=1e-16, iterations=500)
    )
    assert bool(solution.converged.all())
    assert torch.allclose(solution.points, centres, atol=1e-5)
    # The easy problem is not evaluated after it has converged.
    assert asked.count(0) < asked.count(2) and solution.iterations[0] < solution.iterations[2]


def test_problems_are_independent():
    evaluate, _ = quadratics()
    settings = until(1, limit=1e-8, decrement=1e-14, iterations=500)
    together = minimise(
        evaluate, torch.zeros(4, 8, dtype=torch.float64), **until(4, limit=1e-8, decrement=1e-14, iterations=500)
    )
    for number in range(4):
        alone = minimise(
            lambda points, which, number=number: evaluate(points, which + number),
            torch.zeros(1, 8, dtype=torch.float64),
            **settings,
        )
        assert torch.allclose(alone.points[0], together.points[number], atol=1e-6)


def test_rosenbrock_is_minimised():
    def evaluate(points, which):
        x, y = points.double().unbind(1)
        values = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        gradients = torch.stack([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)], dim=1)
        return values, gradients.to(points.dtype)

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0]], dtype=torch.float64)
    solution = minimise(evaluate, start, **until(3, limit=1e-8, decrement=1e-16, iterations=300))
    assert bool(solution.converged.all()) and torch.allclose(
        solution.points, torch.ones(3, 2, dtype=torch.float64), atol=1e-6
    )
    theirs = minimize(
        lambda p: float(evaluate(torch.tensor(p)[None], None)[0]), start[0].numpy(), method="L-BFGS-B", tol=1e-12
    )
    assert int(solution.iterations[0]) < 2 * theirs.nit


@pytest.mark.parametrize("most", [0, 3])
def test_iteration_limit_is_reported_as_unconverged(most):
    evaluate, _ = quadratics(condition=1e4)
    solution = minimise(
        evaluate, torch.zeros(4, 8, dtype=torch.float64), **until(4, limit=1e-12, decrement=1e-20, iterations=most)
    )
    assert solution.iterations.tolist() == [most] * 4 and not bool(solution.converged.any())


def test_objective_without_descent_ends_unconverged():
    def lying(points, which):
        # With this gradient, every direction is uphill.
        return points.double().square().sum(1), -2 * points

    solution = minimise(
        lying, torch.ones(2, 3, dtype=torch.float64), **until(2, limit=1e-6, decrement=1e-12, iterations=100)
    )
    assert not bool(solution.converged.any()) and bool(torch.isfinite(solution.points).all())


def test_scale_of_a_similar_problem_saves_evaluations():
    calls = []

    def flat(points, which):
        calls.append(len(which))
        return 1e-6 * 0.5 * (points.double() - 1).square().sum(1), 1e-6 * (points - 1)

    settings = until(1, limit=1e-12, decrement=1e-20, iterations=50)
    first = minimise(flat, torch.zeros(1, 4, dtype=torch.float64), **settings)
    without, calls[:] = len(calls), []
    again = minimise(flat, torch.zeros(1, 4, dtype=torch.float64), scales=first.scales, **settings)
    assert bool(first.converged) and bool(again.converged) and len(calls) < without
    assert math.isclose(first.scales[0], 1e6, rel_tol=1e-6)


def test_steps_meet_the_curvature_condition():
    def shallow(points, which):
        return 1e-6 * 0.5 * (points.double() - 1).square().sum(1), 1e-6 * (points - 1)

    solution = minimise(
        shallow, torch.zeros(1, 4, dtype=torch.float64), **until(1, limit=1e-12, decrement=1e-20, iterations=1)
    )
    # One step along the gradient; along it the slope has fallen to nine tenths or less.
    assert float((1 - solution.points).abs().max()) <= 0.9


def test_iteration_waits_for_the_device_a_few_times(monkeypatch):
    """Copying to the CPU, indexing by a mask, and reading a number wait for a GPU."""
    looks = []
    to_cpu = torch.Tensor.cpu

    def counting(tensor):
        looks.append("cpu")
        return to_cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counting)

    class Looks(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            masks = arguments[1] if str(operation).startswith(("aten.index.", "aten.index_put")) else ()
            masked = any(isinstance(mask, torch.Tensor) and mask.dtype == torch.bool for mask in masks)
            if masked or any(name in str(operation) for name in ("nonzero", "_local_scalar", "masked_select")):
                looks.append(str(operation))
            return operation(*arguments, **(options or {}))

    evaluate, _ = quadratics(count=6)
    with Looks():
        solution = minimise(
            evaluate, torch.zeros(6, 8, dtype=torch.float64), **until(6, limit=1e-7, decrement=1e-12, iterations=200)
        )
    assert bool(solution.converged.all()) and len(looks) < 4 * int(solution.iterations.max())
