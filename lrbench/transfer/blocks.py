"""float64 arithmetic on blocks of float32 features: a float64 copy of all of them would double their size."""

import torch

_BYTES = 16 << 20


def rows_per_block(width: int) -> int:
    """Return the number of rows of `width` float64 numbers in a block."""
    return max(1, _BYTES // (8 * width))


def float64_product(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return `values @ weights` in float64. Shape `(N, C)`.

    Args:
        values: Shape `(N, D)`.
        weights: On any device. Shape `(D, C)`, float64.
    """
    weights = weights.to(values.device)
    scores = torch.empty(len(values), weights.shape[1], dtype=torch.float64, device=values.device)
    rows = rows_per_block(values.shape[1])
    for part, block in zip(torch.split(scores, rows), torch.split(values, rows), strict=True):
        part[:] = block.double() @ weights
    return scores


def add_by_class(sums: torch.Tensor, values: torch.Tensor, labels: torch.Tensor) -> None:
    """Add the sum of each class's rows to `sums`, in place.

    Args:
        sums: Shape `(C, D)`.
        values: Of the same dtype. Shape `(N, D)`.
        labels: On the same device. Shape `(N,)`.
    """
    if values.device.type == "cpu":
        sums.index_add_(0, labels, values)
        return
    # `index_add_` on a GPU adds in varying order, which changes the last bits.
    is_member = labels == torch.arange(len(sums), device=labels.device)[:, None]
    sums += is_member.to(values.dtype) @ values


def class_means(features: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean feature of each class, in float64, and the number of its images.

    Args:
        features: Shape `(N, D)`.
        labels: On the same device. Shape `(N,)`.
        classes: Number of classes C.

    Returns:
        Means, 0 for a class without images, and numbers. Shapes `(C, D)` and `(C,)`.
    """
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    # On a GPU, sums by class need a row of `classes` for each image.
    rows = rows_per_block(max(features.shape[1], classes))
    for block, block_labels in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
        add_by_class(sums, block.double(), block_labels)
    counts = torch.bincount(labels, minlength=classes)
    return sums / counts.clamp(min=1)[:, None], counts
