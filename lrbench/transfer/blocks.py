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
    scores = torch.empty(len(values), weights.shape[1], dtype=torch.float64, device=values.device)
    rows = rows_at_once(values.shape[1])
    for part, block in zip(torch.split(scores, rows), torch.split(values, rows), strict=True):
        part[:] = block.double() @ weights
    return scores


def add_by_class(sums: torch.Tensor, values: torch.Tensor, labels: torch.Tensor) -> None:
    """Add the sum of each class's rows to `sums`, in place.

    Args:
        sums: Shape `(C, D)`.
        values: Shape `(N, D)`, of the same dtype.
        labels: Shape `(N,)`, on the same device.
    """
    if values.device.type == "cpu":
        sums.index_add_(0, labels, values)
        return
    # Where many threads add at once, the order of the additions varies, and so do the last bits.
    own = labels == torch.arange(len(sums), device=labels.device)[:, None]
    sums += own.to(values.dtype) @ values
