"""LogME: the evidence for a Bayesian linear model on frozen features, which ranks snapshots without tuning anything.

You, Liu, Wang and Long 2021 ("LogME: Practical Assessment of Pre-trained Models for Transfer Learning"): for each class, the
logarithm of the marginal likelihood of its one-hot labels under a linear model with Gaussian prior and noise, both precisions
maximised; its mean over classes and images is the score. The posterior mean predicts.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import add_by_class, product, rows_at_once
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.selection import Choice, LabelledFeatures, heed

_ITERATIONS = 100
_TOLERANCE = 1e-6
# What one computation on some of the classes takes, in bytes.
_BYTES = 64 << 20


class Evidence:
    """The model of each class at the precisions that maximise the evidence.

    Args:
        data: Features and labels.
        classes: Number of classes C.
        control: Told how far the work is; may stop it.

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
        # products are added up in blocks; on a GPU, sums by class also take a row of `classes` for each image.
        rows = rows_at_once(max(width, classes))
        product = torch.zeros(width, width, dtype=torch.float64, device=labels.device)
        sums = torch.zeros(classes, width, dtype=torch.float64, device=labels.device)
        for block, own in zip(torch.split(data.features, rows), torch.split(labels, rows), strict=True):
            heed(control)
            wide = block.double()
            product.addmm_(wide.T, wide)
            add_by_class(sums, wide, own)
        squares, basis = torch.linalg.eigh(product)
        # What is so small beside the largest is rounding: no feature points there.
        squares = torch.where(squares > 1e-12 * squares.max(), squares, 0.0)
        # Each class's one-hot labels in the basis of the left singular vectors, times the singular values. Shape (D, C).
        projected = (basis.T @ sums.T).mul_((squares > 0)[:, None])
        del sums
        total = torch.bincount(labels, minlength=classes).double()
        problem = _Problem(count=count, squares=squares, projected=projected, total=total)
        # The prior's precision in units of the noise's. Where features say nothing of a class (all zero in its images) its best
        # is infinite, and weights of zero are left: it is held where nothing changes any more in double precision.
        largest = float(squares.max().clamp(min=1e-150))
        ratio, parts = torch.ones_like(total), problem.parts()
        for iteration in range(_ITERATIONS):
            best = torch.empty_like(ratio)
            for part in parts:
                heed(control)
                best[part] = problem.best_ratio(ratio, part)
            best = best.clamp(1e-30 * largest, 1e12 * largest)
            # A single part is done before anyone would ask.
            if control is not None and len(parts) > 1:
                control.progress(iteration + 1, _ITERATIONS, "iterations at most")
            moved = (best / ratio).log().abs().max()
            ratio = best
            if moved < _TOLERANCE:
                break
        evidence = torch.empty_like(ratio)
        for part in parts:
            heed(control)
            evidence[part] = problem.evidence(ratio, part)
        # A class without images is predicted perfectly and would count as knowledge.
        self.score = float((evidence / count)[total > 0].mean())
        self.weights = basis @ problem.means(ratio)


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """The evidence of each class as a function of its ratio, for some of the classes at a time.

    Attributes:
        count: Number of images N.
        squares: Squared singular values of the features. Shape `(D,)`.
        projected: Labels in the basis of the left singular vectors, times the singular values. Shape `(D, C)`.
        total: Images of each class. Shape `(C,)`.
    """

    count: int
    squares: torch.Tensor
    projected: torch.Tensor
    total: torch.Tensor

    def parts(self) -> list[slice]:
        """The classes that are computed together."""
        step = max(1, _BYTES // (8 * len(self.squares)))
        return [slice(start, start + step) for start in range(0, len(self.total), step)]

    def best_ratio(self, ratio: torch.Tensor, part: slice) -> torch.Tensor:
        """The next ratio of some classes, by MacKay's fixed point."""
        squares, projected = self.squares[:, None], self.projected[:, part]
        shrunk = ratio[part] + squares
        explained = (squares / shrunk).sum(0)
        size = (projected / shrunk).square().sum(0).clamp(min=1e-300)
        unexplained = (self.count - explained).clamp(min=1e-12)
        return explained / size * (self._misfit(ratio, part) / unexplained)

    def evidence(self, ratio: torch.Tensor, part: slice) -> torch.Tensor:
        """Log evidence of some classes, at the noise's precision that is best for these ratios."""
        squares = self.squares[:, None]
        means = self.projected[:, part] / (ratio[part] + squares)
        noise = self.count / (self._misfit(ratio, part) + ratio[part] * means.square().sum(0))
        return (
            0.5 * self.count * (noise / (2 * math.pi)).log()
            - 0.5 * self.count
            - 0.5 * (squares / ratio[part]).log1p().sum(0)
        )

    def means(self, ratio: torch.Tensor) -> torch.Tensor:
        """Posterior means in the basis of the right singular vectors, which replace `projected`. Shape `(D, C)`."""
        for part in self.parts():
            self.projected[:, part] /= ratio[part] + self.squares[:, None]
        return self.projected

    def _misfit(self, ratio: torch.Tensor, part: slice) -> torch.Tensor:
        """Squared residuals of the posterior mean: what the features cannot reach, and what the prior holds back."""
        squares = self.squares[:, None]
        inside = self.projected[:, part].square() / squares.clamp(min=torch.finfo(torch.float64).tiny)
        held_back = (inside * (ratio[part] / (ratio[part] + squares)).square()).sum(0)
        return (self.total[part] - inside.sum(0) + held_back).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class EvidenceChoice(Choice):
    """The score, and the model that it is of.

    Attributes:
        evidence: Of all images that may be looked at.
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
    """The score of all images that may be looked at; nothing is chosen by it within a cell.

    Args:
        train: Images that may be looked at.
        validation: More of them; none where `train` holds them all, which spares a copy.
        classes: Number of classes.
        metric: What results of the task are ranked by.
        settings: There are none.
        control: Told how far the work is; may stop it.

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


class FittedLogme(Fitted):
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
