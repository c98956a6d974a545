"""Double precision for a part of the features at a time: the whole would be twice their size."""

import torch

_BYTES = 16 << 20


def rows_at_once(width: int) -> int:
    """How many rows of so many numbers are in double precision at a time."""
    return max(1, _BYTES // (8 * width))


def product(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`values @ weights` in double precision. Shape `(N, C)`.

    Args:
        values: Shape `(N, D)`.
        weights: On any device. Shape `(D, C)`, float64.
    """
    weights = weights.to(values.device)
    return torch.cat([block.double() @ weights for block in torch.split(values, rows_at_once(values.shape[1]))])
