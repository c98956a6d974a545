"""Cross-validation of the probe on training and validation images, for tasks with a small validation split."""

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import Probe
from lrbench.config.strict import Count, NotNegative, Strict
from lrbench.core.control import Control
from lrbench.core.seeds import generator
from lrbench.store.results import Fraction
from lrbench.transfer.blocks import float64_product
from lrbench.transfer.metrics import accuracies
from lrbench.transfer.protocols.logistic import Standardiser, solve
from lrbench.transfer.selection import Indices, LabelledFeatures

FOLDS = 5


class CrossValidation(Strict):
    """Score of the probe over all folds.

    Attributes:
        score: Headline metric at the best strength, over the images of all folds.
        strength: The best strength; the strongest of equal ones.
        images: Number of images in the folds.
        seconds: Duration.
    """

    score: Fraction
    strength: NotNegative
    images: Count
    seconds: NotNegative


def assign_folds(labels: npt.NDArray[np.int64], seed: int, folds: int = FOLDS) -> Indices:
    """Return the fold of each image, stratified: the folds have equally many images of a class, up to one.

    Args:
        labels: Shape `(N,)`.
        seed: Transfer seed, which keys the draw.
        folds: Number of folds.

    Returns:
        Shape `(N,)`. The only image of a class has fold -1: it is always trained on.
    """
    assigned: Indices = np.full(len(labels), -1, dtype=np.int64)
    # Each class continues at the fold where the previous one ended, so that the folds are equally large.
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
    """Return the score at the best strength and that strength. Each fold is scored by a fit on the others.

    Args:
        data: Training and validation images.
        classes: Number of classes.
        metric: `top1` or `mean_per_class`.
        settings: Grid, tolerance and iteration limit of the probe.
        seed: Transfer seed.
        control: Receives progress and may request a stop.

    Raises:
        InterruptedWork: A stop was requested.
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
            predicted[row, held_out] = float64_product(inputs, fit.weights).argmax(1).cpu()
    in_fold = folds >= 0
    labels = data.labels.cpu()[in_fold]
    scores = [accuracies(row[in_fold], labels, classes)[metric] for row in predicted]
    # The strongest of equals: the grid is falling, and `index` returns the first.
    best = scores.index(max(scores))
    return scores[best], grid[best]
