"""LogME: the evidence for a Bayesian linear model on frozen features, which ranks snapshots without any selection.

You, Liu, Wang and Long 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning".

Features F, shape (N, D), and for each class the one-hot labels y, shape (N,). The model is y = F w + noise with w ~ N(0, 1/α)
and noise ~ N(0, 1/β). With F = U S Vᵀ, σ² = S² (shape (D,)), z = S Uᵀ y (shape (D,)) and the ratio r = α / β:

    posterior mean   m = V (z / (r + σ²))
    misfit           e = |y - F m|² = (|y|² - Σ z²/σ²) + Σ z²/σ² (r / (r + σ²))²
    evidence         2 log p(y) = N log(β / 2π) - N - Σ log(1 + σ²/r),   with β = N / (e + r |m|²)

|y|² is the number of images of the class. r is maximised by MacKay's fixed point: with γ = Σ σ² / (r + σ²),
r ← (γ / |m|²) · (e / (N - γ)). The score is the mean of log p(y) / N over classes that have images; F m predicts.
Only FᵀF (shape (D, D)) and the sum of features of each class, FᵀY (shape (D, C)), are needed: FᵀF = V S² Vᵀ and z = Vᵀ Fᵀ y.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import add_by_class, float64_product, rows_per_block
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.selection import Choice, LabelledFeatures, raise_if_stopped

_ITERATIONS = 100
_TOLERANCE = 1e-6
# Memory of one computation on a part of the classes.
_BYTES = 64 << 20


class Evidence:
    """Model of each class at the precisions that maximise the evidence.

    Args:
        data: Features and labels.
        classes: Number of classes C.
        control: Receives progress and may request a stop.

    Raises:
        InterruptedWork: A stop was requested.

    Attributes:
        score: Mean log evidence per image, over classes.
        weights: Posterior means. Shape `(D, C)`, float64.
    """

    def __init__(self, data: LabelledFeatures, classes: int, control: Control | None = None) -> None:
        count, width = data.features.shape
        labels = data.labels.to(data.features.device)
        # On a GPU, sums by class need a row of `classes` for each image.
        rows = rows_per_block(max(width, classes))
        gram = torch.zeros(width, width, dtype=torch.float64, device=labels.device)
        sums = torch.zeros(classes, width, dtype=torch.float64, device=labels.device)
        for block, block_labels in zip(torch.split(data.features, rows), torch.split(labels, rows), strict=True):
            raise_if_stopped(control)
            wide = block.double()
            gram.addmm_(wide.T, wide)
            add_by_class(sums, wide, block_labels)
        squares, basis = torch.linalg.eigh(gram)
        # Relatively tiny eigenvalues are rounding.
        squares = torch.where(squares > 1e-12 * squares.max(), squares, 0.0)
        # z of each class. Shape (D, C).
        projected = (basis.T @ sums.T).mul_((squares > 0)[:, None])
        del sums
        total = torch.bincount(labels, minlength=classes).double()
        problem = _Problem(count=count, squares=squares, projected=projected, total=total)
        # If the features of a class are all zero, its best ratio is infinite and its weights are zero: the bound is where
        # nothing changes in float64.
        largest = float(squares.max().clamp(min=1e-150))
        ratio, parts = torch.ones_like(total), problem.parts()
        for iteration in range(_ITERATIONS):
            best = torch.empty_like(ratio)
            for part in parts:
                raise_if_stopped(control)
                best[part] = problem.best_ratio(ratio, part)
            best = best.clamp(1e-30 * largest, 1e12 * largest)
            # A single part is done too soon for a report.
            if control is not None and len(parts) > 1:
                control.progress(iteration + 1, _ITERATIONS, "iterations at most")
            change = (best / ratio).log().abs().max()
            ratio = best
            if change < _TOLERANCE:
                break
        evidence = torch.empty_like(ratio)
        for part in parts:
            raise_if_stopped(control)
            evidence[part] = problem.evidence(ratio, part)
        # A class without images is predicted perfectly and would raise the score.
        self.score = float((evidence / count)[total > 0].mean())
        self.weights = basis @ problem.means(ratio)


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Evidence of each class as a function of its ratio r, for a part of the classes at a time.

    Attributes:
        count: Number of images N.
        squares: σ², the squared singular values of the features. Shape `(D,)`.
        projected: z of each class. Shape `(D, C)`.
        total: |y|², the number of images of each class. Shape `(C,)`.
    """

    count: int
    squares: torch.Tensor
    projected: torch.Tensor
    total: torch.Tensor

    def parts(self) -> list[slice]:
        """Return slices of classes that fit into memory together."""
        step = max(1, _BYTES // (8 * len(self.squares)))
        return [slice(start, start + step) for start in range(0, len(self.total), step)]

    def best_ratio(self, ratio: torch.Tensor, part: slice) -> torch.Tensor:
        """Return the next ratio of some classes, by MacKay's fixed point."""
        squares, projected = self.squares[:, None], self.projected[:, part]
        regularised = ratio[part] + squares
        # γ, the effective number of parameters, and |m|².
        effective = (squares / regularised).sum(0)
        norm = (projected / regularised).square().sum(0).clamp(min=1e-300)
        remaining = (self.count - effective).clamp(min=1e-12)
        return effective / norm * (self._misfit(ratio, part) / remaining)

    def evidence(self, ratio: torch.Tensor, part: slice) -> torch.Tensor:
        """Return the log evidence of some classes at the noise precision β that is best for these ratios."""
        squares = self.squares[:, None]
        means = self.projected[:, part] / (ratio[part] + squares)
        noise = self.count / (self._misfit(ratio, part) + ratio[part] * means.square().sum(0))
        return (
            0.5 * self.count * (noise / (2 * math.pi)).log()
            - 0.5 * self.count
            - 0.5 * (squares / ratio[part]).log1p().sum(0)
        )

    def means(self, ratio: torch.Tensor) -> torch.Tensor:
        """Overwrite `projected` with the posterior means in the basis V, and return it. Shape `(D, C)`."""
        for part in self.parts():
            self.projected[:, part] /= ratio[part] + self.squares[:, None]
        return self.projected

    def _misfit(self, ratio: torch.Tensor, part: slice) -> torch.Tensor:
        """Return the squared residuals of the posterior mean."""
        squares = self.squares[:, None]
        reachable = self.projected[:, part].square() / squares.clamp(min=torch.finfo(torch.float64).tiny)
        shrinkage = (reachable * (ratio[part] / (ratio[part] + squares)).square()).sum(0)
        return (self.total[part] - reachable.sum(0) + shrinkage).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class EvidenceChoice(Choice):
    """LogME and the model that it belongs to.

    Attributes:
        evidence: Model of the training and validation images.
    """

    evidence: Evidence


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> None:
    """Return nothing: LogME has no settings."""


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: None,
    control: Control | None = None,
) -> EvidenceChoice:
    """Compute LogME of all images; nothing is selected within a cell.

    Args:
        train: Training images, or all images, which spares a copy.
        validation: The other images.
        classes: Number of classes.
        metric: Metric of the task.
        settings: Not used.
        control: Receives progress and may request a stop.

    Raises:
        InterruptedWork: A stop was requested.
    """
    data = train
    if len(validation.labels):
        data = LabelledFeatures(
            features=torch.cat([train.features, validation.features]),
            labels=torch.cat([train.labels, validation.labels]),
        )
    evidence = Evidence(data, classes, control)
    return EvidenceChoice(chosen={"logme": evidence.score}, candidates=(), edge=False, metric=metric, evidence=evidence)


class FittedLogme(Fitted):
    """Classifier with the posterior means as weights."""

    def __init__(self, evidence: Evidence) -> None:
        self._weights = evidence.weights
        self.diagnostics: dict[str, Any] = {"logme": evidence.score}

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return predicted one-hot labels, which are not probabilities. Shape `(N, C)`, float64."""
        return float64_product(features, self._weights)


def fit(
    data: LabelledFeatures, choice: EvidenceChoice, *, classes: int, settings: None, control: Control | None = None
) -> FittedLogme:
    """Return the classifier of the model that LogME belongs to."""
    return FittedLogme(choice.evidence)
