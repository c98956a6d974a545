"""Nearest neighbours under cosine similarity: exact, in chunks, without anything to fit but k."""

from typing import Any

import torch

from lrbench.control import Control
from lrbench.errors import InputError
from lrbench.registry.suite import Knn
from lrbench.transfer.metrics import headline
from lrbench.transfer.selection import Choice, LabelledFeatures, heed, on_edge

# The similarity matrix of as many queries as are looked at together, also against a million training images.
_BYTES = 256 << 20


class Neighbours:
    """The nearest training images of each query.

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

    def scores(
        self, features: torch.Tensor, neighbours: list[int], control: Control | None = None
    ) -> list[torch.Tensor]:
        """Scores for each k: votes, and as a fraction of one vote the mean similarity of those who gave them.

        Args:
            features: Queries. Shape `(N, D)`.
            neighbours: Values of k.
            control: May stop the work.

        Returns:
            For each k, shape `(N, C)`.

        Raises:
            InterruptedWork: Asked to stop.
        """
        parts: list[list[torch.Tensor]] = [[] for _ in neighbours]
        at_once = max(1, _BYTES // (4 * len(self._features)))
        for chunk in torch.split(_unit(features), at_once):
            heed(control)
            similarity, nearest = (chunk @ self._features.T).topk(self._most, dim=1)
            labels = self._labels[nearest]
            for part, k in zip(parts, neighbours, strict=True):
                votes = torch.zeros(len(chunk), self._classes, dtype=torch.float64, device=chunk.device)
                votes.scatter_add_(1, labels[:, :k], torch.ones_like(similarity[:, :k], dtype=torch.float64))
                nearness = torch.zeros_like(votes)
                nearness.scatter_add_(1, labels[:, :k], similarity[:, :k].double())
                # Similarities lie in [-1, 1]: scaled to less than half a vote, they only break ties.
                part.append(votes + nearness / (2.0 * k + 1.0))
        return [torch.cat(part) for part in parts]


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
    scores = Neighbours(train, classes=classes, most=grid[0]).scores(validation.features, grid, control)
    candidates: list[dict[str, Any]] = [
        {"neighbours": k, "score": headline(each, validation.labels, metric)}
        for k, each in zip(grid, scores, strict=True)
    ]
    best = max(candidates, key=lambda candidate: candidate["score"])
    # k = 1 is the end of the road, not the edge of a grid that could go on; nor is the largest that the images allow.
    cut = len(grid) < len(settings.neighbours)
    edge = not cut and on_edge(candidates, "neighbours", grid[:1])
    return Choice(chosen={"neighbours": best["neighbours"]}, candidates=tuple(candidates), edge=edge, metric=metric)


class FittedKnn:
    """Neighbours among everything that may be looked at, with the chosen k."""

    def __init__(self, neighbours: Neighbours, k: int, control: Control | None = None) -> None:
        self._neighbours = neighbours
        self._k = k
        self._control = control
        self.diagnostics: dict[str, Any] = {}

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Votes, ties broken by similarity. Shape `(N, C)`."""
        return self._neighbours.scores(features, [self._k], self._control)[0]


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: Knn, control: Control | None = None
) -> FittedKnn:
    """Take everything as neighbours, with the chosen k."""
    k = int(choice.chosen["neighbours"])
    return FittedKnn(Neighbours(data, classes=classes, most=k), k, control)


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=1)
