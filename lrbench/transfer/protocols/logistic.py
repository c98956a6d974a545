"""Multinomial logistic regression at several strengths of the penalty.

Standardised features with a column of ones, X of shape (N, D + 1); labels y of shape (N,); weights W of shape (D + 1, C), whose
last row is the bias. With P = softmax(X W), shape (N, C), and Y the one-hot labels, shape (N, C), the mean objective is

    f(W) = -(1/N) Σ_n log P[n, y_n] + (λ / 2N) |W[:-1]|²        gradient  Xᵀ (P - Y) / N + (λ / N) W (0 for the bias)

that is scikit-learn's `LogisticRegression` with C = 1/λ. It is convex: a small gradient proves a solution.

The size of a problem alone decides where it is solved, so that results do not depend on the machine or its load: small ones
by SciPy on one CPU core (`logistic_small`), all others on the device of the features (`logistic_large`).
"""

from collections.abc import Sequence

import numpy as np
import torch

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.transfer.blocks import rows_per_block
from lrbench.transfer.protocols.fits import Fit
from lrbench.transfer.protocols.logistic_large import solve_large
from lrbench.transfer.protocols.logistic_small import solve_small

# Largest N · (D + 1) · C of a problem that one CPU core solves. An evaluation then takes at most a millisecond there, about as
# long as a GPU needs to launch its kernels.
_SMALL = 5_000_000
# Images per block when moments are computed.
_BLOCK = 16384
# Relative rounding of a feature in float32: a few units in the last place.
_ROUNDING = 16 * torch.finfo(torch.float32).eps


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
    """Solve the problem at each strength.

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
    solve_one_size = solve_small if inputs.numel() * classes <= _SMALL else solve_large
    return solve_one_size(
        inputs, labels, np.array(strengths), classes=classes, settings=settings, control=control or Control()
    )
