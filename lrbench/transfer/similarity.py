"""Similarity of two networks' features of the same images."""

import torch

from lrbench.transfer.blocks import rows_per_block


def linear_cka(features: torch.Tensor, others: torch.Tensor) -> float | None:
    """Return the linear centred kernel alignment of two sets of features (Kornblith et al. 2019, eq. 3 and section 3).

    With centred features X, shape (N, D), and Y, shape (N, E), it is ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), in Frobenius norms. It is 1 for
    features that differ by a rotation, a shift and a scale, and 0 for uncorrelated ones. Memory does not grow with N.

    Args:
        features: Shape `(N, D)`.
        others: Features of the same images, on the same device. Shape `(N, E)`.

    Returns:
        A number in [0, 1]; None if all images have the same features under one of the networks.
    """
    rows = rows_per_block(max(features.shape[1], others.shape[1]))
    means = [_mean(part, rows) for part in (features, others)]
    width, other_width = features.shape[1], others.shape[1]
    own = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    other = torch.zeros(other_width, other_width, dtype=torch.float64, device=features.device)
    cross = torch.zeros(other_width, width, dtype=torch.float64, device=features.device)
    for blocks in zip(torch.split(features, rows), torch.split(others, rows), strict=True):
        x, y = (block.double().sub_(mean) for block, mean in zip(blocks, means, strict=True))
        own.addmm_(x.T, x)
        other.addmm_(y.T, y)
        cross.addmm_(y.T, x)
    scale = float(own.norm() * other.norm())
    # Rounding must not give a value above 1.
    return min(1.0, float(cross.square().sum()) / scale) if scale > 0 else None


def _mean(features: torch.Tensor, rows: int) -> torch.Tensor:
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for block in torch.split(features, rows):
        total += block.double().sum(0)
    return total / len(features)
