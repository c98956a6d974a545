"""Curvature and gradients of the training loss at fixed weights.

With the mean loss L over a sample of images, weight decay λ and parameters w, the objective is L(w) + (λ / 2) |w|², with
gradient g and Hessian H. The network is in evaluation mode, so that each image's loss depends on that image alone: pieces of
the sample add up to the whole, and nothing of the network's state changes.

- The largest eigenvalue of H, by Lanczos iterations on products H v (Cohen et al. 2021). Gradient descent at rate η without
  momentum is stable below 2/η; with heavy-ball momentum β below 2 (1 + β) / η.
- Batch Sharpness, the mean of gᵀ H g / |g|² over batches, each with the loss of its own images (arXiv 2412.20553).
- The noise scale tr Σ / |G|² of gradients of single images, from gradients of batches (McCandlish et al. 2018, appendix A.1),
  and cosines between gradients of batches (Sankararaman et al. 2020).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from lrbench.config.protocols import LANCZOS_VECTORS
from lrbench.core.errors import FailureError

Pieces = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Function that returns the sample from its start at each call, in pieces: inputs of the network, and labels."""

# Relative residual of an eigenpair. The relative error of the eigenvalue is far smaller. With fewer vectors, the first check
# comes too early for the looser tolerance.
_TOLERANCE, _FEW_VECTORS_TOLERANCE = 0.1, 0.03
_MOST_RESTARTS = 30
# Images in one forward and backward pass; second derivatives need several times the memory of first ones.
_PIECE = 64


@dataclass(frozen=True, kw_only=True)
class GradientStatistics:
    """Statistics of the gradients of several batches at the same weights.

    Attributes:
        loss: Mean loss without weight decay.
        gradient_norm: Norm of the mean gradient of the objective.
        weight_norm: Norm of the weights.
        noise_scale: Images in a batch for which noise and signal of the gradient are equally large; None where the estimate of
            the signal is not positive.
        mean_cosine: Mean cosine between the gradients of two batches.
        smallest_cosine: The smallest of them.
        batch_sharpness: Batch Sharpness, over every second batch.
    """

    loss: float
    gradient_norm: float
    weight_norm: float
    noise_scale: float | None
    mean_cosine: float
    smallest_cosine: float
    batch_sharpness: float


def largest_eigenvalue(
    model: nn.Module, pieces: Pieces, *, decay: float = 0.0, seed: int = 0, vectors: int = LANCZOS_VECTORS
) -> float:
    """Return the largest eigenvalue of the Hessian of the mean loss over a sample.

    Args:
        model: The network in evaluation mode.
        pieces: The sample.
        decay: λ.
        seed: Seed of the vector with which the iterations start.
        vectors: Vectors that the iterations keep. They first check for convergence after as many products with the Hessian.

    Raises:
        FailureError: Products are not finite, or the iterations do not converge.
    """
    parameters = _trained(model)
    count = sum(parameter.numel() for parameter in parameters)

    def product(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        along = torch.from_numpy(vector.astype(np.float32)).to(parameters[0].device)
        result = _hessian_product(model, parameters, pieces(), along).double().cpu().numpy()
        if not np.isfinite(result).all():
            raise FailureError("the curvature cannot be computed, because products with the Hessian are not finite.")
        return np.asarray(result)

    start = np.random.default_rng(seed).normal(size=count)
    operator = LinearOperator((count, count), matvec=product, dtype=np.float64)
    try:
        (value,) = eigsh(
            operator,
            k=1,
            which="LA",
            v0=start,
            ncv=min(vectors, count),
            tol=_TOLERANCE if vectors >= LANCZOS_VECTORS else _FEW_VECTORS_TOLERANCE,
            maxiter=_MOST_RESTARTS,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        raise FailureError("the largest eigenvalue of the Hessian did not converge.") from error
    return float(value) + decay


def gradient_statistics(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, decay: float = 0.0
) -> GradientStatistics:
    """Compare the gradients of several batches of equal size at the same weights.

    Args:
        model: The network in evaluation mode.
        batches: At least two batches: inputs and labels.
        decay: λ, which Batch Sharpness and the norm of the gradient include.
    """
    parameters = _trained(model)
    weights = _flat([parameter.detach() for parameter in parameters])
    losses, gradients, sharpness, size = [], [], [], 0
    for inputs, labels in batches:
        size = len(labels)
        pieces = list(zip(torch.split(inputs, _PIECE), torch.split(labels, _PIECE), strict=True))
        loss, gradient = _loss_and_gradient(model, parameters, pieces)
        losses.append(loss)
        gradients.append(gradient)
        # A product with the Hessian costs as much as seven gradients.
        if len(gradients) % 2:
            whole = gradient + decay * weights
            curved = _hessian_product(model, parameters, pieces, whole) + decay * whole
            sharpness.append(float(whole @ curved) / max(float(whole @ whole), 1e-300))
    stacked = torch.stack(gradients).double()
    count = len(stacked)
    mean = stacked.mean(0)
    # Unbiased: E|mean|² = |G|² + tr Σ / (size · count), and the variance between batches is tr Σ / size.
    noise = float((stacked - mean).square().sum()) / (count - 1) * size
    signal = float(mean.square().sum()) - noise / (size * count)
    normalised = stacked / stacked.norm(dim=1, keepdim=True).clamp(min=1e-300)
    cosines = (normalised @ normalised.T)[tuple(torch.triu_indices(count, count, offset=1))]
    return GradientStatistics(
        loss=math.fsum(losses) / count,
        gradient_norm=float((mean + decay * weights.double()).norm()),
        weight_norm=float(weights.double().norm()),
        noise_scale=noise / signal if signal > 0 else None,
        mean_cosine=float(cosines.mean()),
        smallest_cosine=float(cosines.min()),
        batch_sharpness=math.fsum(sharpness) / len(sharpness),
    )


def _trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    # In the order of elements, whatever the memory format.
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _loss_and_gradient(
    model: nn.Module, parameters: Sequence[Tensor], pieces: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float, Tensor]:
    """Return the mean loss over all pieces, and its gradient."""
    images = sum(len(labels) for _, labels in pieces)
    total, gradient = 0.0, torch.zeros_like(_flat(parameters))
    for inputs, labels in pieces:
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum") / images
        gradient += _flat(_defined(torch.autograd.grad(loss, parameters, allow_unused=True), parameters))
        total += float(loss.detach())
    return total, gradient


def _hessian_product(
    model: nn.Module, parameters: Sequence[Tensor], pieces: Iterable[tuple[Tensor, Tensor]], vector: Tensor
) -> Tensor:
    """Return the Hessian of the mean loss over all pieces, times a vector: the derivative of gᵀ v (Pearlmutter 1994)."""
    parts = [
        part.view(parameter.shape)
        for part, parameter in zip(
            torch.split(vector, [parameter.numel() for parameter in parameters]), parameters, strict=True
        )
    ]
    total, images = torch.zeros_like(vector), 0
    for inputs, labels in pieces:
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        along = torch.stack(
            [(gradient * part).sum() for gradient, part in zip(gradients, parts, strict=True) if gradient is not None]
        ).sum()
        total += _flat(_defined(torch.autograd.grad(along, parameters, allow_unused=True), parameters))
        images += len(labels)
    return total / images


def _defined(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients with zeros for parameters that no loss depends on."""
    return [
        torch.zeros_like(parameter) if gradient is None else gradient.detach()
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
