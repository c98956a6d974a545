"""Cross-validation of the probe: a finer score than a small validation split gives. Test images have no part in it."""

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import Probe
from lrbench.config.strict import Count, NotNegative, Strict
from lrbench.core.control import Control
from lrbench.core.seeds import generator
from lrbench.store.results import Fraction
from lrbench.transfer.blocks import product
from lrbench.transfer.metrics import accuracies
from lrbench.transfer.protocols.probe import Standardiser, solve
from lrbench.transfer.selection import Indices, LabelledFeatures

FOLDS = 5


class CrossValidation(Strict):
    """The probe's score over all folds.

    Attributes:
        score: The headline at the best strength, over the images of all folds.
        strength: That strength; of several that score the same, the strongest.
        images: Number of images that are in a fold.
        seconds: How long it took.
    """

    score: Fraction
    strength: NotNegative
    images: Count
    seconds: NotNegative


def assign_folds(labels: npt.NDArray[np.int64], seed: int, folds: int = FOLDS) -> Indices:
    """The fold of each image, class by class: the images of a class differ by at most one between the folds.

    Args:
        labels: Shape `(N,)`.
        seed: Transfer seed, which keys the draw.
        folds: Number of folds.

    Returns:
        Shape `(N,)`; -1 for the image of a class that has no other, which is always trained on.
    """
    assigned: Indices = np.full(len(labels), -1, dtype=np.int64)
    # Each class continues where the one before it ended, so that the folds are equally large.
    position = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            shuffled = generator(seed, "folds", int(label)).permutation(members)
            assigned[shuffled] = (position + np.arange(len(members))) % folds
            position += len(members)
    return assigned


def cross_validate(
    data: LabelledFeatures, *, classes: int, metric: str, settings: Probe, seed: int, control: Control | None = None
) -> tuple[float, float]:
    """The probe's headline over the images of all folds, each scored by a fit on the others, at the best strength.

    Args:
        data: Everything that may be looked at with its labels.
        classes: Number of classes.
        metric: `top1` or `mean_per_class`.
        settings: The probe's grid, tolerance and most iterations.
        seed: Transfer seed.
        control: Told how far the work is; may stop it.

    Returns:
        The score, and the strength.

    Raises:
        InterruptedWork: Asked to stop.
    """
    grid = settings.grid()
    folds = torch.from_numpy(assign_folds(data.labels.cpu().numpy(), seed))
    predicted = torch.full((len(grid), len(folds)), -1)
    for fold in range(FOLDS):
        held_out = torch.nonzero(folds == fold).flatten()
        train = data.part(torch.nonzero(folds != fold).flatten().numpy())
        standardise = Standardiser(train.features)
        fits = solve(
            standardise(train.features), train.labels, grid, classes=classes, settings=settings, control=control
        )
        inputs = standardise(data.features[held_out])
        for row, fit in enumerate(fits):
            predicted[row, held_out] = product(inputs, fit.weights).argmax(1).cpu()
    scored = folds >= 0
    labels = data.labels.cpu()[scored]
    scores = [accuracies(row[scored], labels, classes)[metric] for row in predicted]
    # The grid falls from the strongest, and `index` finds the first of equals.
    best = scores.index(max(scores))
    return scores[best], grid[best]
