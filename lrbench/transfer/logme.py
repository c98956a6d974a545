"""LogME: the evidence for a Bayesian linear model on frozen features, which ranks snapshots without tuning anything.

You, Liu, Wang and Long 2021 ("LogME: Practical Assessment of Pre-trained Models for Transfer Learning"): for each class, the
logarithm of the marginal likelihood of its one-hot labels under a linear model with Gaussian prior and noise, both precisions
maximised; its mean over classes and images is the score. The posterior mean predicts.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from lrbench.control import Control
from lrbench.transfer.blocks import product, rows_at_once
from lrbench.transfer.diagnostics import sums_by_class
from lrbench.transfer.selection import Choice, LabelledFeatures, heed

_ITERATIONS = 100
_TOLERANCE = 1e-6


class Evidence:
    """The model of each class at the precisions that maximise the evidence.

    Args:
        data: Features and labels.
        classes: Number of classes C.
        control: May stop the work.

    Raises:
        InterruptedWork: Asked to stop.

    Attributes:
        score: Mean log evidence of an image's label, over classes.
        weights: Posterior means. Shape `(D, C)`, float64.
    """

    def __init__(self, data: LabelledFeatures, classes: int, control: Control | None = None) -> None:
        count, width = data.features.shape
        labels = data.labels.to(data.features.device)
        # Of the singular value decomposition only the squares and the right side are needed: an eigenproblem of size D. Both
        # products are added up in blocks; sums by class may also take a row of `classes` for each image.
        rows = rows_at_once(max(width, classes))
        product = torch.zeros(width, width, dtype=torch.float64, device=labels.device)
        sums = torch.zeros(classes, width, dtype=torch.float64, device=labels.device)
        for block, own in zip(torch.split(data.features, rows), torch.split(labels, rows), strict=True):
            heed(control)
            wide = block.double()
            product.addmm_(wide.T, wide)
            sums += sums_by_class(wide, own, classes)
        squares, basis = torch.linalg.eigh(product)
        # What is so small beside the largest is rounding: no feature points there.
        squares = torch.where(squares > 1e-12 * squares.max(), squares, 0.0)
        # Each class's one-hot labels in the basis of the left singular vectors, times the singular values.
        projected = (basis.T @ sums.T) * (squares > 0)[:, None]
        inside = projected.square() / squares.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
        total = torch.bincount(labels, minlength=classes).double()
        # The prior's precision in units of the noise's. Where features say nothing of a class (all zero in its images) its best
        # is infinite, and weights of zero are left: it is held where nothing changes any more in double precision.
        largest = float(squares.max().clamp(min=1e-150))
        ratio = torch.ones_like(total)
        for _ in range(_ITERATIONS):
            heed(control)
            shrunk = ratio + squares[:, None]
            explained = (squares[:, None] / shrunk).sum(0)
            size = (projected / shrunk).square().sum(0).clamp(min=1e-300)
            misfit = self._misfit(total, inside, squares, ratio)
            unexplained = (count - explained).clamp(min=1e-12)
            best = (explained / size * (misfit / unexplained)).clamp(1e-30 * largest, 1e12 * largest)
            moved = (best / ratio).log().abs().max()
            ratio = best
            if moved < _TOLERANCE:
                break
        means = projected / (ratio + squares[:, None])
        # The noise's precision that is best beside this ratio.
        noise = count / (self._misfit(total, inside, squares, ratio) + ratio * means.square().sum(0))
        evidence = (
            0.5 * count * (noise / (2 * math.pi)).log() - 0.5 * count - 0.5 * (squares[:, None] / ratio).log1p().sum(0)
        )
        # A class without images is foretold perfectly and would count as knowledge.
        self.score = float((evidence / count)[total > 0].mean())
        self.weights = basis @ means

    @staticmethod
    def _misfit(total: torch.Tensor, inside: torch.Tensor, squares: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """Squared residuals of the posterior mean: what the features cannot reach, and what the prior holds back."""
        held_back = (inside * (ratio / (ratio + squares[:, None])).square()).sum(0)
        return (total - inside.sum(0) + held_back).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class EvidenceChoice(Choice):
    """The score, and the model that it is of.

    Attributes:
        evidence: Of all images that may be looked at.
    """

    evidence: Evidence


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: None,
    control: Control | None = None,
) -> EvidenceChoice:
    """The score of all images that may be looked at; nothing is chosen by it within a cell.

    Args:
        train: Images that may be looked at.
        validation: More of them; none where `train` holds them all, which spares a copy.
        classes: Number of classes.
        metric: What results of the task are ranked by.
        settings: There are none.
        control: May stop the work.

    Raises:
        InterruptedWork: Asked to stop.
    """
    every = train
    if len(validation.labels):
        every = LabelledFeatures(
            features=torch.cat([train.features, validation.features]),
            labels=torch.cat([train.labels, validation.labels]),
        )
    evidence = Evidence(every, classes, control)
    return EvidenceChoice(chosen={"logme": evidence.score}, candidates=(), edge=False, metric=metric, evidence=evidence)


class FittedLogme:
    """The posterior mean, as a classifier."""

    def __init__(self, evidence: Evidence) -> None:
        self._weights = evidence.weights
        self.diagnostics: dict[str, Any] = {"logme": evidence.score}

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Predicted targets: no probabilities. Shape `(N, C)`, float64."""
        return product(features, self._weights)


def fit(
    data: LabelledFeatures, choice: EvidenceChoice, *, classes: int, settings: None, control: Control | None = None
) -> FittedLogme:
    """The posterior mean on everything that may be looked at, which the score is of."""
    return FittedLogme(choice.evidence)
