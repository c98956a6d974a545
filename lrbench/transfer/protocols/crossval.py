"""Cross-validation of the probe or kNN on training and validation images, for tasks with a small validation split."""

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import Probe
from lrbench.config.strict import Count, NotNegative, Strict
from lrbench.core.control import Control
from lrbench.core.seeds import generator
from lrbench.stats.grouping import hold_out_groups
from lrbench.store.cells import TransferSettings
from lrbench.store.results import Fraction
from lrbench.transfer.blocks import float64_product
from lrbench.transfer.metrics import accuracies
from lrbench.transfer.protocols.knn import Neighbours, usable_neighbours
from lrbench.transfer.protocols.logistic import Standardiser, solve
from lrbench.transfer.selection import Indices, LabelledFeatures

FOLDS = 5


class CrossValidation(Strict):
    """Score of a protocol over all folds.

    Attributes:
        score: Headline metric at the best point of the grid, over the images of all folds.
        point: The best strength of the probe or number of neighbours; the largest of equal ones.
        images: Number of images in the folds.
        seconds: Duration.
    """

    score: Fraction
    point: NotNegative
    images: Count
    seconds: NotNegative


def assign_folds(
    labels: npt.NDArray[np.int64], seed: int, folds: int = FOLDS, groups: npt.NDArray[np.int64] | None = None
) -> Indices:
    """Return the fold of each image, stratified: the folds have equally many images of a class, up to one.

    Args:
        labels: Shape `(N,)`.
        seed: Transfer seed, which keys the draw.
        folds: Number of folds.
        groups: Group of each image, none of which is divided between folds. Shape `(N,)`; None without groups.

    Returns:
        Shape `(N,)`. The only image of a class has fold -1, and so has every image of a class's only group: it is always
        trained on. With fewer groups than folds, the last folds are empty.
    """
    if groups is not None:
        return _assign_group_folds(labels, seed, folds, groups)
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


def _assign_group_folds(labels: npt.NDArray[np.int64], seed: int, folds: int, groups: npt.NDArray[np.int64]) -> Indices:
    pairs = np.unique(np.stack([labels, groups], axis=1), axis=0)
    is_only_group = np.bincount(pairs[:, 0])[pairs[:, 0]] == 1
    rest = ~np.isin(groups, pairs[is_only_group, 1])
    assigned: Indices = np.where(rest, 0, -1).astype(np.int64)
    # Each fold takes an equal share of what the earlier ones leave.
    for fold in range(1, folds):
        present, number_of = np.unique(groups[rest], return_inverse=True)
        if len(present) < 2:
            break
        order = generator(seed, "group folds", fold).permutation(len(present)).tolist()
        held_out = np.flatnonzero(rest)[
            hold_out_groups(labels[rest], number_of, 1 / (folds - fold + 1), order)[number_of]
        ]
        assigned[held_out] = fold
        rest[held_out] = False
    return assigned


def cross_validate(
    data: LabelledFeatures,
    *,
    protocol: str,
    classes: int,
    metric: str,
    settings: TransferSettings,
    seed: int,
    groups: npt.NDArray[np.int64] | None = None,
    control: Control | None = None,
) -> tuple[float, float]:
    """Return the score at the best point of a protocol's grid, and that point. Each fold is scored by a fit on the others.

    Args:
        data: Training and validation images.
        protocol: `probe` or `knn`.
        classes: Number of classes.
        metric: `top1` or `mean_per_class`.
        settings: Settings of the protocol.
        seed: Transfer seed.
        groups: Group of each image, as in `assign_folds`.
        control: Receives progress and may request a stop.

    Raises:
        InputError: Every number of neighbours of the grid is larger than the number of training images.
        InterruptedWork: A stop was requested.
    """
    folds = torch.from_numpy(assign_folds(data.labels.cpu().numpy(), seed, groups=groups))
    smallest = len(folds) - int(torch.bincount(folds[folds >= 0], minlength=FOLDS).max())
    grid = settings.probe.grid() if protocol == "probe" else usable_neighbours(settings.knn, smallest)
    predicted = torch.full((len(grid), len(folds)), -1)
    for fold in range(FOLDS):
        held_out = torch.nonzero(folds == fold).flatten()
        if not len(held_out):
            continue
        train = data.part(torch.nonzero(folds != fold).flatten().numpy())
        if protocol == "probe":
            predicted[:, held_out] = _probe_predictions(
                train, data.features[held_out], classes, settings.probe, control
            )
        else:
            neighbours = Neighbours(train, classes=classes, most=int(grid[0]))
            predicted[:, held_out] = neighbours.predictions(
                data.features[held_out], [int(k) for k in grid], control
            ).cpu()
    in_fold = folds >= 0
    labels = data.labels.cpu()[in_fold]
    scores = [accuracies(row[in_fold], labels, classes)[metric] for row in predicted]
    # The strongest or smoothest of equals: the grid is falling, and `index` returns the first.
    best = scores.index(max(scores))
    return scores[best], grid[best]


def _probe_predictions(
    train: LabelledFeatures, features: torch.Tensor, classes: int, settings: Probe, control: Control | None
) -> torch.Tensor:
    """Return the predictions of the probe at each strength. Shape `(len(grid), Q)`."""
    standardise = Standardiser(train.features)
    fits = solve(
        standardise(train.features), train.labels, settings.grid(), classes=classes, settings=settings, control=control
    )
    inputs = standardise(features)
    return torch.stack([float64_product(inputs, fit.weights).argmax(1).cpu() for fit in fits])
