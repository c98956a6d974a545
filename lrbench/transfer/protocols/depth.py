"""The probe after each stage of the network: how deep lies what the target needs?

Depth and strength are chosen together on validation; the scores of all depths stand among the candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.store.cells import TransferSettings
from lrbench.transfer.protocols import Fitted, probe
from lrbench.transfer.selection import Choice, LabelledFeatures


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """What the protocol works with.

    Attributes:
        probe: The probe at each depth.
        widths: Number of features of each depth, shallowest first; they lie side by side.
    """

    probe: Probe
    widths: Sequence[int]

    def of(self, data: LabelledFeatures, level: int) -> LabelledFeatures:
        """The features of one depth, counted from 1."""
        return LabelledFeatures(features=self.cut(data.features, level), labels=data.labels)

    def cut(self, features: torch.Tensor, level: int) -> torch.Tensor:
        """The columns of one depth."""
        start = sum(self.widths[: level - 1])
        return features[:, start : start + self.widths[level - 1]]


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> DepthSettings:
    """Return the settings of the probe with the widths of the stages."""
    return DepthSettings(probe=settings.probe, widths=widths)


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: DepthSettings,
    control: Control | None = None,
) -> Choice:
    """Choose depth and strength on validation; of equal scores the deeper wins.

    Raises:
        InterruptedWork: Asked to stop.
    """
    candidates: list[dict[str, Any]] = []
    edges: dict[int, bool] = {}
    for level in range(len(settings.widths), 0, -1):
        best = probe.select(
            settings.of(train, level),
            settings.of(validation, level),
            classes=classes,
            metric=metric,
            settings=settings.probe,
            control=control,
        )
        score = max(candidate["score"] for candidate in best.candidates)
        candidates.append(
            {
                "depth": level,
                "strength": best.chosen["strength"],
                "score": score,
                "iterations": sum(candidate["iterations"] for candidate in best.candidates),
                "converged": all(candidate["converged"] for candidate in best.candidates),
            }
        )
        edges[level] = best.edge
    chosen = max(candidates, key=lambda candidate: candidate["score"])
    return Choice(
        chosen={"depth": chosen["depth"], "strength": chosen["strength"]},
        candidates=tuple(candidates),
        edge=edges[chosen["depth"]],
        metric=metric,
    )


class FittedDepth(Fitted):
    """A probe at the chosen depth."""

    def __init__(self, fitted: probe.FittedProbe, settings: DepthSettings, level: int) -> None:
        self._fitted, self._settings, self._level = fitted, settings, level
        self.diagnostics = fitted.diagnostics

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Logits. Shape `(N, C)`, float64."""
        return self._fitted.scores(self._settings.cut(features, self._level))


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: DepthSettings, control: Control | None = None
) -> FittedDepth:
    """Fit once at the chosen depth with the chosen strength.

    Raises:
        InterruptedWork: Asked to stop.
    """
    level = int(choice.chosen["depth"])
    fitted = probe.fit(settings.of(data, level), choice, classes=classes, settings=settings.probe, control=control)
    return FittedDepth(fitted, settings, level)
