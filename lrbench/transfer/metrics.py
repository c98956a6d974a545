"""Metrics of scores against labels: accuracies as fractions in [0, 1], calibration error and likelihood."""

import numpy as np
import numpy.typing as npt
import torch

from lrbench.transfer.blocks import rows_per_block

_BINS = 15


def metrics(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return top-1, top-5 and mean per-class accuracy.

    Args:
        scores: Larger means more likely. Shape `(N, C)`.
        labels: Shape `(N,)`.

    Returns:
        `top1`; `top5` (1 for at most five classes); `mean_per_class`, the mean recall over classes that have images.
    """
    labels = labels.cpu()
    # `ranks` holds the number of classes that score above the label.
    predicted, ranks = torch.empty_like(labels), torch.empty_like(labels)
    rows = rows_per_block(scores.shape[1])
    blocks = (torch.split(tensor, rows) for tensor in (scores, labels, predicted, ranks))
    for block, block_labels, block_predicted, block_ranks in zip(*blocks, strict=True):
        block = block.cpu()
        block_predicted[:] = block.argmax(1)
        label_scores = block.gather(1, block_labels[:, None])
        # Ties are broken as by argmax: the lower class wins.
        is_lower = torch.arange(block.shape[1])[None, :] < block_labels[:, None]
        block_ranks[:] = (block > label_scores).sum(1) + ((block == label_scores) & is_lower).sum(1)
    accuracy = accuracies(predicted, labels, scores.shape[1])
    return {
        "top1": accuracy["top1"],
        "top5": float((ranks < 5).double().mean()),
        "mean_per_class": accuracy["mean_per_class"],
    }


def accuracies(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    """Return top-1 and mean per-class accuracy of predictions.

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
    # scikit-learn's balanced_accuracy_score rounds the last bit differently, and results are compared to the bit.
    return {"top1": float(correct.mean()), "mean_per_class": float((hits[present] / counts[present]).mean())}


def binary_scores(scores: torch.Tensor) -> npt.NDArray[np.float32] | None:
    """Return the score of class 1 minus that of class 0, from which an ROC curve is drawn.

    None unless there are two classes with finite scores: `head` excludes the second of two accepted classes.

    Args:
        scores: Shape `(N, C)`.

    Returns:
        Shape `(N,)`.
    """
    if scores.shape[1] != 2:
        return None
    scores = scores.double().cpu()
    values: npt.NDArray[np.float32] = (scores[:, 1] - scores[:, 0]).float().numpy()
    return values if np.isfinite(values).all() else None


def calibration(scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the expected calibration error and the negative log-likelihood of logits.

    Args:
        scores: Logits. Shape `(N, C)`.
        labels: Shape `(N,)`.

    Returns:
        Expected calibration error in [0, 1] (Guo et al. 2017, eq. 5; 15 bins of equal width of the largest probability), and
        mean negative log-likelihood in nats.
    """
    labels = labels.cpu()
    predicted = torch.empty_like(labels)
    confidence = torch.empty(len(labels), dtype=torch.float64)
    likelihoods = torch.empty_like(confidence)
    rows = rows_per_block(scores.shape[1])
    blocks = (torch.split(tensor, rows) for tensor in (scores, labels, confidence, predicted, likelihoods))
    for block, block_labels, block_confidence, block_predicted, block_likelihoods in zip(*blocks, strict=True):
        logs = torch.log_softmax(block.double().cpu(), dim=1)
        block_confidence[:], block_predicted[:] = logs.exp().max(1)
        block_likelihoods[:] = logs.gather(1, block_labels[:, None]).squeeze(1)
    correct = (predicted == labels).double()
    # Bins exclude their lower end and include their upper end.
    bins = (torch.ceil(confidence * _BINS) - 1).clamp(0, _BINS - 1).long()
    gaps = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, confidence - correct)
    return float(gaps.abs().sum() / len(labels)), float(-likelihoods.mean())


def headline(scores: torch.Tensor, labels: torch.Tensor, metric: str) -> float:
    """Return one of `metrics` by its name."""
    return metrics(scores, labels)[metric]
