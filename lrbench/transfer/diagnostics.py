"""Statistics of features: neural collapse, class separation, effective rank and norm."""

import torch

from lrbench.transfer.blocks import add_by_class, rows_per_block
from lrbench.transfer.collapse import measure_collapse


def describe_features(features: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    """Return neural collapse, class separation, effective rank and norm of features.

    Args:
        features: Shape `(N, D)`.
        labels: Shape `(N,)`.
        classes: Number of classes.

    Returns:
        `class_separation`: R² = 1 - d_within / d_total, the mean cosine distance within classes over that between any two
        images, with equal weight for each class (Kornblith et al. 2021, "Why Do Better Loss Functions Lead to Less
        Transferable Features?"). `effective_rank`: exponential of the entropy of the normalised singular values of the centred
        features (Roy and Vetterli 2007). `feature_norm`: mean Euclidean norm. `nc1` and `nc2`: `measure_collapse`; missing
        where they are undefined.
    """
    labels = labels.to(features.device)
    mean = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    norms = torch.empty(len(features), dtype=torch.float64, device=features.device)
    # On a GPU, sums by class need a row of `classes` for each image.
    rows = rows_per_block(max(features.shape[1], classes))
    blocks = (torch.split(tensor, rows) for tensor in (features, labels, norms))
    for block, block_labels, block_norms in zip(*blocks, strict=True):
        wide = block.double()
        mean += wide.sum(0)
        block_norms[:] = wide.norm(dim=1)
        add_by_class(sums, wide.div_(block_norms.clamp(min=1e-12)[:, None]), block_labels)
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
        **measure_collapse(features, labels, classes),
    }


def _effective_rank(features: torch.Tensor, mean: torch.Tensor) -> float:
    # The smaller Gram matrix has all singular values. float64, because in float32 the zero singular values of collapsed
    # features add a third of a dimension and more.
    count, width = features.shape
    gram = torch.zeros(min(count, width), min(count, width), dtype=torch.float64, device=features.device)
    if count >= width:
        for block in torch.split(features, rows_per_block(width)):
            centred = block.double().sub_(mean)
            gram.addmm_(centred.T, centred)
    else:
        rows = rows_per_block(count)
        for block, block_mean in zip(torch.split(features, rows, dim=1), torch.split(mean, rows), strict=True):
            centred = block.double().sub_(block_mean)
            gram.addmm_(centred, centred.T)
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if float(values.sum()) == 0:
        return 1.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
