"""Fit of a snapshot to training images of its source: their loss, and its curvature and gradients at the fixed weights."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn

from lrbench.config.protocols import SourceFit
from lrbench.data.pixels import Indices, Pixels
from lrbench.models.devices import computing_threads
from lrbench.pretraining.curvature import gradient_statistics, largest_eigenvalue
from lrbench.transfer.features import Network

_PIECE = 64
_MOST_BATCHES = 16


def describe_fit(
    network: Network,
    pixels: Pixels,
    indices: Indices,
    labels: Tensor,
    logits: Tensor,
    settings: SourceFit,
    *,
    decay: float,
) -> dict[str, float | None]:
    """Return measures of a snapshot's fit to a sample of images, a pure function of the snapshot.

    Args:
        network: The snapshot, in evaluation mode.
        pixels: Training images of the source.
        indices: The sample. Shape `(N,)`.
        labels: Its labels. Shape `(N,)`.
        logits: The network's outputs for it. Shape `(N, C)`.
        settings: Whether to compute the curvature, and the size of the batches.
        decay: Weight decay, which curvature and gradients include.

    Returns:
        `loss`, the mean cross-entropy; with `settings.gradients` the other measures of `GradientStatistics`, on up to 16
        batches of the sample; with `settings.curvature` the `largest_eigenvalue`.
    """
    measures: dict[str, float | None] = {}

    def batches(size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(indices), size):
            part = slice(start, start + size)
            images = torch.from_numpy(pixels.evaluation(indices[part]))
            yield network.normalise(images), labels[part].to(network.device)

    with computing_threads(network.device, network.snapshot.metadata.threads or 1):
        if settings.gradients:
            # An incomplete batch would weigh as much as the others.
            count = min(_MOST_BATCHES, len(indices) // settings.batch)
            compared = itertools.islice(batches(settings.batch), count)
            measures |= asdict(gradient_statistics(network.model, compared, decay=decay))
        if settings.curvature:
            measures["largest_eigenvalue"] = largest_eigenvalue(
                network.model, lambda: batches(_PIECE), decay=decay, vectors=settings.lanczos_vectors
            )
    measures["loss"] = float(nn.functional.cross_entropy(logits.cpu().double(), labels))
    return {name: None if value is None else float(f"{value:.8g}") for name, value in measures.items()}
