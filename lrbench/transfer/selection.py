"""What keeps selection honest: the validation split, the frozen choice, and test labels that open once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.seeds import generator

Indices = npt.NDArray[np.int64]


def by_class(labels: npt.NDArray[np.int64]) -> Iterator[tuple[int, Indices]]:
    """Each class that has images, with the positions of its images, both rising.

    Args:
        labels: Class of each image. Shape `(N,)`.
    """
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    yield from zip(classes.tolist(), np.split(order, starts[1:]), strict=True)


def validation_split(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split training images into those to train on and those to select on, class by class.

    Of a class with n images, max(1, round(fraction · n)) go to validation; a class with one image keeps it for training.

    Args:
        labels: Class of each training image. Shape `(N,)`.
        fraction: Share of each class held out.
        seed: Transfer seed, which keys the draw.

    Returns:
        Positions to train on and positions to select on, each rising.
    """
    held_out = []
    for label, members in by_class(labels):
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        held_out.append(generator(seed, "validation", label).permutation(members)[:count])
    validation: Indices = np.sort(np.concatenate(held_out)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), validation), validation


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """Features with their labels.

    Attributes:
        features: Shape `(N, D)`, float32.
        labels: Shape `(N,)`, int64.
    """

    features: torch.Tensor
    labels: torch.Tensor

    def part(self, positions: Indices | slice) -> "LabelledFeatures":
        """Some of them: a copy where they are named one by one."""
        return LabelledFeatures(features=self.features[positions], labels=self.labels[positions])


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Hyper-parameters chosen on validation, frozen.

    Attributes:
        chosen: The hyper-parameters by name.
        candidates: Each point of the grid with its `score` on validation.
        edge: Whether the best lies on the grid's edge, and nothing further in does as well.
        metric: What `score` is: `top1` or `mean_per_class`.
    """

    chosen: dict[str, float | int]
    candidates: tuple[dict[str, Any], ...]
    edge: bool
    metric: str


def on_edge(candidates: Sequence[dict[str, Any]], name: str, ends: Sequence[float]) -> bool:
    """Whether the best lies at an end of the grid, and nothing further in does as well: then a wider grid may do better.

    Args:
        candidates: Each point of the grid with its `score`.
        name: The hyper-parameter.
        ends: The values beyond which the grid could go on.
    """
    best: dict[float, float] = {}
    for each in candidates:
        best[each[name]] = max(each["score"], best.get(each[name], each["score"]))
    top, within = max(best.values()), [score for value, score in best.items() if value not in ends]
    # Of a grid of ends alone, one end may be better than the other; a single value is no grid.
    return top > max(within) if within else len(set(best.values())) > 1


def heed(control: Control | None) -> None:
    """End a protocol's work where that was asked for; a cell is begun anew next time.

    Raises:
        InterruptedWork: Asked to stop.
    """
    if control is not None and control.stop_requested():
        raise InterruptedWork(
            "stopped within a cell, which will be computed from its beginning; the cells already done are kept. Run the same "
            "command again to go on."
        )


class SealedLabels:
    """Test labels behind a seal: they open once, for a frozen choice and scores of every test image.

    Args:
        labels: Shape `(N,)`.
    """

    def __init__(self, labels: npt.NDArray[np.int64]) -> None:
        kept: list[npt.NDArray[np.int64]] = [labels.copy()]
        self._count = len(labels)

        def take() -> npt.NDArray[np.int64]:
            if not kept:
                raise RuntimeError("the test labels were opened before: a protocol may read them once")
            return kept.pop()

        # A closure, so that no attribute leads to the labels.
        self._take: Callable[[], npt.NDArray[np.int64]] = take

    def open(self, choice: Choice, scores: torch.Tensor) -> npt.NDArray[np.int64]:
        """Break the seal.

        Args:
            choice: The frozen choice.
            scores: The protocol's scores of every test image, made without the labels. Shape `(N, C)`.

        Returns:
            The labels. Shape `(N,)`.

        Raises:
            RuntimeError: They were opened before.
            TypeError: There is no choice, or there are not scores for every image, or some are not finite.
        """
        if not isinstance(choice, Choice) or not choice.chosen:
            raise TypeError("test labels open for a frozen Choice only")
        if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or len(scores) != self._count:
            raise TypeError(f"test labels open for scores of shape ({self._count}, classes) only")
        if not bool(torch.isfinite(scores).all()):
            raise TypeError("test labels open for finite scores only")
        return self._take()

    def __reduce__(self) -> str:
        raise TypeError("sealed labels do not travel")
