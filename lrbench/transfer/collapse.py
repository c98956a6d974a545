"""Neural collapse of features (Papyan, Han and Donoho 2020, "Prevalence of Neural Collapse"; abbreviated NC).

Features h, shape (N, D), of C classes with the means μ_c and the mean of class means μ. All classes have equal weight:

    M     = rows (μ_c - μ), shape (C, D)
    Σ_B   = Mᵀ M / C,                                between classes
    Σ_W   = mean_c mean_{i in c} (h_i - μ_c)(h_i - μ_c)ᵀ,    within classes
    NC1   = tr(Σ_W Σ_B⁺) / C                                 (their figure 6)
    NC2   = mean_{c ≠ c'} |cos(μ_c - μ, μ_c' - μ) + 1 / (C - 1)|  (their figure 4)

With the singular value decomposition M / √C = U S Vᵀ, tr(Σ_W Σ_B⁺) = mean_c mean_{i in c} |S⁻¹ Vᵀ (h_i - μ_c)|², so that no
(D, D) matrix is inverted. Features are float32: directions whose singular value is below the rounding of float32, relative to
the largest, are left out of the pseudoinverse.
"""

import torch

from lrbench.transfer.blocks import class_means, rows_per_block


def measure_collapse(features: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    """Return NC1 and NC2 of features; both are 0 where features have collapsed.

    Args:
        features: Shape `(N, D)`.
        labels: On the same device. Shape `(N,)`.
        classes: Number of classes. Those without images do not count.

    Returns:
        `nc1` and `nc2`; empty where they are undefined, with fewer than two classes or if all class means are equal.
    """
    means, counts = class_means(features, labels, classes)
    present = counts > 0
    number = int(present.sum())
    centred = means[present] - means[present].mean(0)
    if number < 2 or not float(centred.abs().max()):
        return {}
    _, values, directions = torch.linalg.svd(centred / number**0.5, full_matrices=False)
    spanned = values > torch.finfo(torch.float32).eps * values[0]
    # Shape (D, R), for R directions.
    whitening = (directions[spanned] / values[spanned, None]).T.contiguous()
    rows = rows_per_block(max(features.shape[1], classes))
    within = torch.zeros((), dtype=torch.float64, device=features.device)
    for block, block_labels in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
        squares = ((block.double() - means[block_labels]) @ whitening).square().sum(1)
        within += (squares / counts[block_labels]).sum()
    return {"nc1": float(within) / number / number, "nc2": _equiangularity(centred)}


def _equiangularity(centred: torch.Tensor) -> float:
    """Return NC2 of centred class means. Shape `(C, D)`, float64."""
    number = len(centred)
    # The mean of a class that coincides with the mean of all has no direction: its cosines count as 0.
    unit = centred / centred.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    total = torch.zeros((), dtype=torch.float64, device=centred.device)
    for block in torch.split(unit, rows_per_block(number)):
        total += (block @ unit.T + 1 / (number - 1)).abs().sum()
    # The diagonal does not count.
    diagonal = (unit.square().sum(1) + 1 / (number - 1)).sum()
    return max(0.0, float(total - diagonal)) / (number * (number - 1))
