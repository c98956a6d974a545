"""k nearest neighbours under cosine similarity, exact.

N training images with features of width D, in C classes. A query q and a training image i, both scaled to length one, have the
similarity s(q, i) = q · x_i in [-1, 1]. The k nearest images vote, and class c scores

    votes(c) + (sum of s over its voters) / (2k + 1)     if votes(c) > 0,
    max over images i of class c of s(q, i) / 4          otherwise.

The sum of at most k similarities over 2k + 1 is in (-1/2, 1/2), so that it only breaks ties between equal votes; a quarter is
below every score with a vote. The second line orders classes without votes, which top-5 needs.
"""

from typing import Any

import torch

from lrbench.config.protocols import Knn
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.store.cells import TransferSettings
from lrbench.transfer.blocks import rows_per_block
from lrbench.transfer.metrics import accuracies
from lrbench.transfer.protocols import Fitted
from lrbench.transfer.selection import Choice, LabelledFeatures, on_edge, raise_if_stopped

# Memory of the similarities of one chunk of queries.
_BYTES = 256 << 20


class Neighbours:
    """Nearest training images of queries. Of equally near images the first in the training set are taken.

    Args:
        data: Training images.
        classes: Number of classes C.
        most: Largest k.
    """

    def __init__(self, data: LabelledFeatures, *, classes: int, most: int) -> None:
        self._features = _unit(data.features)
        self._labels = data.labels.to(self._features.device)
        self._classes = classes
        self._most = min(most, len(self._labels))

    def scores(self, features: torch.Tensor, k: int, control: Control | None = None) -> torch.Tensor:
        """Return the score of each class. Shape `(Q, C)`, float64.

        Args:
            features: Queries. Shape `(Q, D)`.
            k: Number of neighbours that vote.
            control: May request a stop.

        Raises:
            InterruptedWork: A stop was requested.
        """
        scores = torch.empty(len(features), self._classes, dtype=torch.float64, device=features.device)
        for part, chunk in zip(self._chunks(scores), self._chunks(features), strict=True):
            raise_if_stopped(control)
            part[:] = self._scores(chunk, k)
        return scores

    def predictions(
        self, features: torch.Tensor, neighbours: list[int], control: Control | None = None
    ) -> torch.Tensor:
        """Return the class with the best score for each k. Shape `(len(neighbours), Q)`.

        Args:
            features: Queries. Shape `(Q, D)`.
            neighbours: Values of k.
            control: May request a stop.

        Raises:
            InterruptedWork: A stop was requested.
        """
        predictions = []
        for chunk in self._chunks(features):
            raise_if_stopped(control)
            predictions.append(self._predictions(chunk, neighbours))
        return torch.cat(predictions, dim=1)

    def _chunks(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(rows, max(1, _BYTES // (4 * len(self._features))))

    # A method of its own, so that the similarities of a chunk are freed before those of the next are computed.
    def _scores(self, chunk: torch.Tensor, k: int) -> torch.Tensor:
        similarity = _unit(chunk) @ self._features.T
        nearest, images = _nearest(similarity, min(k, self._most))
        votes = self._votes(nearest, self._labels[images], k)
        # -2 puts classes without training images last.
        closest = similarity.new_full(votes.shape, -2.0)
        closest.scatter_reduce_(1, self._labels.expand(len(similarity), -1), similarity, "amax")
        return torch.where(votes > 0, votes, closest.double() / 4)

    def _predictions(self, chunk: torch.Tensor, neighbours: list[int]) -> torch.Tensor:
        nearest, images = _nearest(_unit(chunk) @ self._features.T, self._most)
        labels = self._labels[images]
        return torch.stack([self._votes(nearest[:, :k], labels[:, :k], k).argmax(1) for k in neighbours])

    def _votes(self, nearest: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
        """Return votes plus the tie-breaking term of similarities. Shape `(Q, C)`."""
        votes = torch.zeros(len(nearest), self._classes, dtype=torch.float64, device=nearest.device)
        votes.scatter_add_(1, labels, torch.ones_like(nearest, dtype=torch.float64))
        similarities = torch.zeros_like(votes)
        similarities.scatter_add_(1, labels, nearest.double())
        return votes + similarities / (2.0 * k + 1.0)


def _nearest(similarity: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest similarities of each row and their columns, in falling order; of equal ones the first columns.

    `topk` alone takes any of several equal columns, and different ones for a different k.

    Args:
        similarity: Shape `(Q, N)`.
        k: At most N.

    Returns:
        Similarities and columns. Shape `(Q, k)` each.
    """
    nearest, columns = similarity.topk(k, dim=1)
    least = nearest[:, -1:]
    crowded = torch.nonzero((similarity >= least).sum(1) > k).flatten()
    if len(crowded):
        rows, bound = similarity[crowded], least[crowded]
        tied = rows == bound
        room = k - (rows > bound).sum(1, keepdim=True)
        columns[crowded] = torch.nonzero((rows > bound) | (tied & (tied.cumsum(1) <= room)))[:, 1].view(-1, k)
    columns = columns.sort(dim=1).values
    nearest, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return nearest, columns.gather(1, order)


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> Knn:
    """Return the numbers of neighbours to try."""
    return settings.knn


def usable_neighbours(settings: Knn, count: int) -> list[int]:
    """Return the numbers of neighbours of the grid that are at most the number of training images, in falling order.

    Raises:
        InputError: There is none.
    """
    grid = sorted((k for k in settings.neighbours if k <= count), reverse=True)
    if not grid:
        raise InputError(
            f"every value of knn.neighbours ({', '.join(map(str, settings.neighbours))}) is larger than the "
            f"{count} training images. Add a smaller one, for example --set knn.neighbours=[1]."
        )
    return grid


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: Knn,
    control: Control | None = None,
) -> Choice:
    """Select k on validation; of equal scores the largest k wins.

    Raises:
        InterruptedWork: A stop was requested.
        InputError: Every k of the grid is larger than the number of training images.
    """
    grid = usable_neighbours(settings, len(train.labels))
    predicted = Neighbours(train, classes=classes, most=grid[0]).predictions(validation.features, grid, control)
    candidates: list[dict[str, Any]] = [
        {"neighbours": k, "score": accuracies(predictions, validation.labels, classes)[metric]}
        for k, predictions in zip(grid, predicted, strict=True)
    ]
    best = max(candidates, key=lambda candidate: candidate["score"])
    # The grid cannot be extended below 1, nor above the number of training images.
    is_cut = len(grid) < len(settings.neighbours)
    edge = not is_cut and on_edge(candidates, "neighbours", grid[:1])
    return Choice(chosen={"neighbours": best["neighbours"]}, candidates=tuple(candidates), edge=edge, metric=metric)


class FittedKnn(Fitted):
    """Neighbours among training and validation images, with the selected k."""

    def __init__(self, neighbours: Neighbours, k: int, control: Control | None = None) -> None:
        self._neighbours = neighbours
        self._k = k
        self._control = control
        self.diagnostics: dict[str, Any] = {}

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return votes, with ties broken by similarity. Shape `(Q, C)`, float64."""
        return self._neighbours.scores(features, self._k, self._control)


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: Knn, control: Control | None = None
) -> FittedKnn:
    """Search all training and validation images, with the selected k."""
    k = int(choice.chosen["neighbours"])
    return FittedKnn(Neighbours(data, classes=classes, most=k), k, control)


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Return features scaled to length one; zeros stay zeros. Shape `(N, D)`, float32."""
    unit = torch.empty_like(features)
    rows = rows_per_block(features.shape[1])
    for part, block in zip(torch.split(unit, rows), torch.split(features, rows), strict=True):
        # Squares may overflow or underflow in float32. Scaling by a power of two (itself perhaps out of range, hence float64)
        # brings the largest entry near one and changes no digit.
        _, exponents = block.abs().amax(1, keepdim=True).frexp()
        part[:] = torch.nn.functional.normalize((block.double() * torch.exp2(-exponents.double())).float(), dim=1)
    return unit
