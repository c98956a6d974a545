"""Nearest neighbours under cosine similarity: exact, in chunks, without anything to fit but k."""

from typing import Any

import torch

from lrbench.config.protocols import Knn
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import rows_at_once
from lrbench.transfer.metrics import accuracies
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.selection import Choice, LabelledFeatures, heed, on_edge

# The similarity matrix of as many queries as are looked at together, also against a million training images.
_BYTES = 256 << 20


class Neighbours:
    """The nearest training images of each query; of images equally near, those first in the training set.

    Args:
        data: What is searched.
        classes: Number of classes.
        most: Largest k that will be asked for.
    """

    def __init__(self, data: LabelledFeatures, *, classes: int, most: int) -> None:
        self._features = _unit(data.features)
        self._labels = data.labels.to(self._features.device)
        self._classes = classes
        self._most = min(most, len(self._labels))

    def scores(self, features: torch.Tensor, k: int, control: Control | None = None) -> torch.Tensor:
        """Votes; ties are broken by the mean similarity of those who gave them, and without votes by a class's nearest image.

        Args:
            features: Queries. Shape `(N, D)`.
            k: How many neighbours vote.
            control: May stop the work.

        Returns:
            Shape `(N, C)`, float64.

        Raises:
            InterruptedWork: Asked to stop.
        """
        scores = torch.empty(len(features), self._classes, dtype=torch.float64, device=features.device)
        for part, chunk in zip(self._chunks(scores), self._chunks(features), strict=True):
            heed(control)
            part[:] = self._scores(chunk, k)
        return scores

    def predictions(
        self, features: torch.Tensor, neighbours: list[int], control: Control | None = None
    ) -> torch.Tensor:
        """The class that scores best, for each k: all that a choice of k needs.

        Args:
            features: Queries. Shape `(N, D)`.
            neighbours: Values of k.
            control: May stop the work.

        Returns:
            Shape `(len(neighbours), N)`.

        Raises:
            InterruptedWork: Asked to stop.
        """
        found = []
        for chunk in self._chunks(features):
            heed(control)
            found.append(self._predictions(chunk, neighbours))
        return torch.cat(found, dim=1)

    def _chunks(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(rows, max(1, _BYTES // (4 * len(self._features))))

    # A method's names end with it: no chunk's similarities are there when the next one's are made.
    def _scores(self, chunk: torch.Tensor, k: int) -> torch.Tensor:
        similarity = _unit(chunk) @ self._features.T
        nearest, whose = _nearest(similarity, min(k, self._most))
        votes = self._votes(nearest, self._labels[whose], k)
        # The nearest image of each class; one without images comes after all that have some.
        closest = similarity.new_full(votes.shape, -2.0)
        closest.scatter_reduce_(1, self._labels.expand(len(similarity), -1), similarity, "amax")
        # What has votes is above a half, as its similarities take less than half a vote: a quarter stays below.
        return torch.where(votes > 0, votes, closest.double() / 4)

    def _predictions(self, chunk: torch.Tensor, neighbours: list[int]) -> torch.Tensor:
        nearest, whose = _nearest(_unit(chunk) @ self._features.T, self._most)
        labels = self._labels[whose]
        return torch.stack([self._votes(nearest[:, :k], labels[:, :k], k).argmax(1) for k in neighbours])

    def _votes(self, nearest: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
        """Votes, and as a fraction of one vote the mean similarity of those who gave them. Shape `(N, C)`."""
        votes = torch.zeros(len(nearest), self._classes, dtype=torch.float64, device=nearest.device)
        votes.scatter_add_(1, labels, torch.ones_like(nearest, dtype=torch.float64))
        nearness = torch.zeros_like(votes)
        nearness.scatter_add_(1, labels, nearest.double())
        # Similarities lie in [-1, 1]: scaled to less than half a vote, they only break ties.
        return votes + nearness / (2.0 * k + 1.0)


def _nearest(similarity: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most similar columns of each row, in order; of equal ones those that come first.

    `topk` alone takes any of several equal ones, and others for another k.

    Args:
        similarity: Shape `(N, M)`.
        k: At most M.

    Returns:
        Their similarities and their positions. Shape `(N, k)` each.
    """
    nearest, whose = similarity.topk(k, dim=1)
    least = nearest[:, -1:]
    crowded = torch.nonzero((similarity >= least).sum(1) > k).flatten()
    if len(crowded):
        rows, bound = similarity[crowded], least[crowded]
        tied = rows == bound
        room = k - (rows > bound).sum(1, keepdim=True)
        whose[crowded] = torch.nonzero((rows > bound) | (tied & (tied.cumsum(1) <= room)))[:, 1].view(-1, k)
    whose = whose.sort(dim=1).values
    nearest, order = similarity.gather(1, whose).sort(dim=1, descending=True, stable=True)
    return nearest, whose.gather(1, order)


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> Knn:
    """Return the numbers of neighbours to try."""
    return settings.knn


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: Knn,
    control: Control | None = None,
) -> Choice:
    """Choose k on validation; of equal scores the largest k wins.

    Raises:
        InterruptedWork: Asked to stop.
        InputError: Every k of the grid is larger than the number of training images.
    """
    grid = sorted((k for k in settings.neighbours if k <= len(train.labels)), reverse=True)
    if not grid:
        raise InputError(
            f"every value of knn.neighbours ({', '.join(map(str, settings.neighbours))}) is larger than the "
            f"{len(train.labels)} training images. Name a smaller one (--set knn.neighbours=[1])."
        )
    predicted = Neighbours(train, classes=classes, most=grid[0]).predictions(validation.features, grid, control)
    candidates: list[dict[str, Any]] = [
        {"neighbours": k, "score": accuracies(each, validation.labels, classes)[metric]}
        for k, each in zip(grid, predicted, strict=True)
    ]
    best = max(candidates, key=lambda candidate: candidate["score"])
    # k = 1 is the end of the road, not the edge of a grid that could go on; nor is the largest that the images allow.
    cut = len(grid) < len(settings.neighbours)
    edge = not cut and on_edge(candidates, "neighbours", grid[:1])
    return Choice(chosen={"neighbours": best["neighbours"]}, candidates=tuple(candidates), edge=edge, metric=metric)


class FittedKnn(Fitted):
    """Neighbours among everything that may be looked at, with the chosen k."""

    def __init__(self, neighbours: Neighbours, k: int, control: Control | None = None) -> None:
        self._neighbours = neighbours
        self._k = k
        self._control = control
        self.diagnostics: dict[str, Any] = {}

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Votes, ties broken by similarity. Shape `(N, C)`."""
        return self._neighbours.scores(features, self._k, self._control)


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: Knn, control: Control | None = None
) -> FittedKnn:
    """Take everything as neighbours, with the chosen k."""
    k = int(choice.chosen["neighbours"])
    return FittedKnn(Neighbours(data, classes=classes, most=k), k, control)


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Features of length one, whatever their scale; zeros stay zeros. Shape `(N, D)`, float32."""
    unit = torch.empty_like(features)
    rows = rows_at_once(features.shape[1])
    for part, block in zip(torch.split(unit, rows), torch.split(features, rows), strict=True):
        # Squares end at 1e-38 and 1e38 in single precision. By a power of two, which may itself lie beyond that, the largest
        # entry comes near one and no digit changes.
        _, exponents = block.abs().amax(1, keepdim=True).frexp()
        part[:] = torch.nn.functional.normalize((block.double() * torch.exp2(-exponents.double())).float(), dim=1)
    return unit
