"""Nearest class mean, with measures of the features beside accuracy.

An image gets the class whose mean feature is nearest, in Euclidean distance: nothing is tuned. Under neural collapse, the
network's own classifier equals this rule (NC4; Papyan, Han and Donoho 2020). The measures are in
`lrbench.transfer.representation`.
"""

import torch

from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import class_means, float64_product
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.selection import Choice, LabelledFeatures, raise_if_stopped


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> None:
    """Return nothing: the rule has no settings."""


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: None,
    control: Control | None = None,
) -> Choice:
    """Return the number of class means; nothing is selected."""
    means = int((torch.bincount(train.labels) > 0).sum())
    return Choice(chosen={"means": means}, candidates=(), edge=False, metric=metric)


class FittedMeans(Fitted):
    """Class means of the training and validation images.

    Args:
        means: Shape `(C, D)`, float64.
        present: Whether each class has images. Shape `(C,)`.
    """

    def __init__(self, means: torch.Tensor, present: torch.Tensor) -> None:
        self._means, self._present = means, present
        self.diagnostics = {}

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return the negative squared distance to each class mean, up to a number for each image. Shape `(N, C)`, float64."""
        scores = 2 * float64_product(features, self._means.T)
        scores -= self._means.square().sum(1).to(scores.device)
        # A class without images is never predicted.
        scores[:, ~self._present.to(scores.device)] = float(scores.min()) - 1
        return scores


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: None, control: Control | None = None
) -> FittedMeans:
    """Compute the mean feature of each class.

    Raises:
        InterruptedWork: A stop was requested.
    """
    raise_if_stopped(control)
    means, counts = class_means(data.features, data.labels.to(data.features.device), classes)
    return FittedMeans(means, counts > 0)
