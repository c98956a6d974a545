"""Metrics of scores against labels, each a fraction in [0, 1]."""

import torch

from lrbench.transfer.blocks import rows_at_once

_BINS = 15


def metrics(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Top-1, top-5 and mean per-class accuracy.

    Args:
        scores: Larger means more likely. Shape `(N, C)`.
        labels: Shape `(N,)`.

    Returns:
        `top1`; `top5` (1 where there are at most five classes); `mean_per_class`, the mean over classes that have images
        of the share of their images predicted right.
    """
    labels = labels.cpu()
    predicted, above = torch.empty_like(labels), torch.empty_like(labels)
    rows = rows_at_once(scores.shape[1])
    for block, own_labels, best, better in zip(
        *(torch.split(each, rows) for each in (scores, labels, predicted, above)), strict=True
    ):
        block = block.cpu()
        best[:] = block.argmax(1)
        own = block.gather(1, own_labels[:, None])
        # Ties count as argmax breaks them: the class that comes first wins.
        earlier = torch.arange(block.shape[1])[None, :] < own_labels[:, None]
        better[:] = (block > own).sum(1) + ((block == own) & earlier).sum(1)
    found = accuracies(predicted, labels, scores.shape[1])
    return {
        "top1": found["top1"],
        "top5": float((above < 5).double().mean()),
        "mean_per_class": found["mean_per_class"],
    }


def accuracies(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    """Top-1 and mean per-class accuracy, for which no scores are needed.

    Args:
        predicted: Shape `(N,)`.
        labels: Shape `(N,)`.
        classes: Number of classes.

    Returns:
        `top1` and `mean_per_class`.
    """
    labels = labels.cpu()
    correct = (predicted.cpu() == labels).double()
    counts = torch.bincount(labels, minlength=classes).double()
    hits = torch.bincount(labels, weights=correct, minlength=classes)
    present = counts > 0
    return {"top1": float(correct.mean()), "mean_per_class": float((hits[present] / counts[present]).mean())}


def calibration(scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """How far probabilities can be believed.

    Args:
        scores: Logits. Shape `(N, C)`.
        labels: Shape `(N,)`.

    Returns:
        Expected calibration error (Guo et al. 2017, eq. 5; 15 bins of equal width of the largest probability), a fraction in
        [0, 1]; and the mean negative log-likelihood in nats.
    """
    labels = labels.cpu()
    predicted = torch.empty_like(labels)
    confidence = torch.empty(len(labels), dtype=torch.float64)
    own = torch.empty_like(confidence)
    rows = rows_at_once(scores.shape[1])
    for block, own_labels, *parts in zip(
        *(torch.split(each, rows) for each in (scores, labels, confidence, predicted, own)), strict=True
    ):
        logs = torch.log_softmax(block.double().cpu(), dim=1)
        parts[0][:], parts[1][:] = logs.exp().max(1)
        parts[2][:] = logs.gather(1, own_labels[:, None]).squeeze(1)
    correct = (predicted == labels).double()
    # Bins are open below and closed above.
    bins = (torch.ceil(confidence * _BINS) - 1).clamp(0, _BINS - 1).long()
    gaps = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, confidence - correct)
    return float(gaps.abs().sum() / len(labels)), float(-own.mean())


def headline(scores: torch.Tensor, labels: torch.Tensor, metric: str) -> float:
    """One metric by its name."""
    return metrics(scores, labels)[metric]
