"""Honest selection: the validation split, the frozen choice, and test labels that can be read once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.seeds import generator
from lrbench.stats.grouping import hold_out_groups

Indices = npt.NDArray[np.int64]


def by_class(labels: npt.NDArray[np.int64]) -> Iterator[tuple[int, Indices]]:
    """Yield each class that has images with the positions of its images, both rising.

    Args:
        labels: Class of each image. Shape `(N,)`.
    """
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    yield from zip(classes.tolist(), np.split(order, starts[1:]), strict=True)


def number_groups(splits: Sequence[Sequence[str] | None]) -> Indices | None:
    """Return the number of each image's group over several splits. Shape `(N,)`; None if a split has no groups."""
    if any(groups is None for groups in splits):
        return None
    names = [name for groups in splits for name in groups or ()]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def validation_split(
    labels: npt.NDArray[np.int64], fraction: float, seed: int, groups: npt.NDArray[np.int64] | None = None
) -> tuple[Indices, Indices]:
    """Split training images into those to train on and those to select on, stratified by class.

    max(1, round(fraction · n)) of the n images of a class go to validation; the image of a class with only one is trained on.
    With groups, whole groups go to validation, with about that fraction of each class.

    Args:
        labels: Class of each training image. Shape `(N,)`.
        fraction: Fraction of each class held out.
        seed: Transfer seed, which keys the draw.
        groups: Group of each image, from 0. Shape `(N,)`; None without groups.

    Returns:
        Positions to train on and positions to select on, each rising.
    """
    if groups is not None:
        order = generator(seed, "validation groups").permutation(int(groups.max()) + 1).tolist()
        is_held_out = hold_out_groups(labels, groups, fraction, order)[groups]
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    held_out = []
    for label, members in by_class(labels):
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        held_out.append(generator(seed, "validation", label).permutation(members)[:count])
    validation: Indices = np.sort(np.concatenate(held_out)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), validation), validation


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """Features with labels.

    Attributes:
        features: Shape `(N, D)`, float32.
        labels: Shape `(N,)`, int64.
    """

    features: torch.Tensor
    labels: torch.Tensor

    def part(self, positions: Indices | slice) -> "LabelledFeatures":
        """Return the rows at positions; a copy unless they are a slice."""
        return LabelledFeatures(features=self.features[positions], labels=self.labels[positions])


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Hyper-parameters selected on validation, frozen.

    Attributes:
        chosen: Selected hyper-parameters by name.
        candidates: Points of the grid, each with its `score` on validation.
        edge: Whether the best point is on the edge of the grid (`on_edge`).
        metric: Metric of `score`: `top1` or `mean_per_class`.
    """

    chosen: dict[str, float | int]
    candidates: tuple[dict[str, Any], ...]
    edge: bool
    metric: str


def on_edge(candidates: Sequence[dict[str, Any]], name: str, ends: Sequence[float]) -> bool:
    """Return whether an end of the grid scores better than all values inside it, so that a wider grid may do better.

    Args:
        candidates: Points of the grid, each with its `score`.
        name: The hyper-parameter.
        ends: Values at which the grid could be extended.
    """
    best: dict[float, float] = {}
    for candidate in candidates:
        value, score = candidate[name], candidate["score"]
        best[value] = max(score, best.get(value, score))
    inside = [score for value, score in best.items() if value not in ends]
    # Without inner values, ends that differ are an edge; a single value is not a grid.
    return max(best.values()) > max(inside) if inside else len(set(best.values())) > 1


def raise_if_stopped(control: Control | None) -> None:
    """Stop the current cell if a stop was requested.

    Raises:
        InterruptedWork: A stop was requested.
    """
    if control is not None and control.stop_requested():
        raise InterruptedWork(
            "stopped within a cell, which starts from scratch next time. Finished cells are saved. Run the same command again "
            "to continue."
        )


class SealedLabels:
    """Test labels that can be read once, in exchange for a frozen choice and the scores of every test image.

    Args:
        labels: Shape `(N,)`.
        classes: Number of classes C.
    """

    def __init__(self, labels: npt.NDArray[np.int64], classes: int) -> None:
        sealed: list[npt.NDArray[np.int64]] = [labels.copy()]
        self._shape = (len(labels), classes)

        def take() -> npt.NDArray[np.int64]:
            if not sealed:
                raise RuntimeError("the test labels have been opened already; a protocol may read them once")
            return sealed.pop()

        # A closure, so that no attribute holds the labels.
        self._take: Callable[[], npt.NDArray[np.int64]] = take

    def open(self, choice: Choice, scores: torch.Tensor) -> npt.NDArray[np.int64]:
        """Return the labels. Shape `(N,)`.

        Args:
            choice: The frozen choice.
            scores: Scores of every test image, computed without the labels. Shape `(N, C)`.

        Raises:
            RuntimeError: The labels have been opened already.
            TypeError: The choice is empty, or scores are missing, not finite or not of this shape.
        """
        if not isinstance(choice, Choice) or not choice.chosen:
            raise TypeError("test labels open only for a frozen Choice")
        if not isinstance(scores, torch.Tensor) or scores.shape != self._shape:
            raise TypeError(f"test labels open only for a tensor of scores of shape {self._shape}")
        if not bool(torch.isfinite(scores).all()):
            raise TypeError("test labels open only for finite scores")
        return self._take()

    def __reduce__(self) -> str:
        raise TypeError("sealed labels cannot be pickled")
