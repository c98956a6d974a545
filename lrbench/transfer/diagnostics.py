"""What features look like, beside how well they classify."""

import torch

from lrbench.transfer.blocks import add_by_class, rows_at_once


def describe_features(features: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    """Class separation, effective rank and norm of features.

    Args:
        features: Shape `(N, D)`.
        labels: Shape `(N,)`.
        classes: Number of classes.

    Returns:
        `class_separation`: R² = 1 - d_within / d_total, cosine distances within classes over those between any two images, each
        class weighing the same (Kornblith et al. 2021, "Why Do Better Loss Functions Lead to Less Transferable Features?").
        `effective_rank`: exponential of the entropy of the centred features' singular values, scaled to sum to one (Roy and
        Vetterli 2007). `feature_norm`: mean Euclidean length.
    """
    labels = labels.to(features.device)
    mean = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    norms = torch.empty(len(features), dtype=torch.float64, device=features.device)
    # Sums by class may also take a row of `classes` for each image.
    rows = rows_at_once(max(features.shape[1], classes))
    for block, own, lengths in zip(*(torch.split(each, rows) for each in (features, labels, norms)), strict=True):
        wide = block.double()
        mean += wide.sum(0)
        lengths[:] = wide.norm(dim=1)
        add_by_class(sums, wide.div_(lengths.clamp(min=1e-12)[:, None]), own)
    mean /= len(features)
    counts = torch.bincount(labels, minlength=classes)
    centres = sums[counts > 0] / counts[counts > 0, None]
    # The mean cosine between two sets of unit vectors is the product of their means.
    within = float(1 - centres.square().sum(1).mean())
    total = float(1 - centres.mean(0).square().sum())
    return {
        "class_separation": 1 - within / total if total > 1e-12 else 0.0,
        "effective_rank": _effective_rank(features, mean),
        "feature_norm": float(norms.mean()),
    }


def _effective_rank(features: torch.Tensor, mean: torch.Tensor) -> float:
    # Of the two Gram matrices the smaller has all singular values. In single precision those that should be zero, of features
    # that have collapsed, would add a third of a dimension and more.
    count, width = features.shape
    gram = torch.zeros(min(count, width), min(count, width), dtype=torch.float64, device=features.device)
    if count >= width:
        for block in torch.split(features, rows_at_once(width)):
            centred = block.double().sub_(mean)
            gram.addmm_(centred.T, centred)
    else:
        rows = rows_at_once(count)
        for block, own in zip(torch.split(features, rows, dim=1), torch.split(mean, rows), strict=True):
            centred = block.double().sub_(own)
            gram.addmm_(centred, centred.T)
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if float(values.sum()) == 0:
        return 1.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
