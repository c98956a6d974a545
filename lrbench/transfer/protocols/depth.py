"""The probe after each stage of the network.

Depth and strength are selected together on validation. The candidates hold the score of each depth.
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
    """Settings of the protocol.

    Attributes:
        probe: Settings of the probe at each depth.
        widths: Number of features of each depth, shallowest first; the features are concatenated.
    """

    probe: Probe
    widths: Sequence[int]

    def select(self, data: LabelledFeatures, level: int) -> LabelledFeatures:
        """Return labelled features of one depth, counted from 1."""
        return LabelledFeatures(features=self.cut(data.features, level), labels=data.labels)

    def cut(self, features: torch.Tensor, level: int) -> torch.Tensor:
        """Return the columns of one depth."""
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
    """Select depth and strength on validation; of equal scores the deeper wins.

    Raises:
        InterruptedWork: A stop was requested.
    """
    candidates: list[dict[str, Any]] = []
    edges: dict[int, bool] = {}
    for level in range(len(settings.widths), 0, -1):
        best = probe.select(
            settings.select(train, level),
            settings.select(validation, level),
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
    """A probe at the selected depth."""

    def __init__(self, fitted: probe.FittedProbe, settings: DepthSettings, level: int) -> None:
        self._fitted, self._settings, self._level = fitted, settings, level
        self.diagnostics = fitted.diagnostics

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits. Shape `(N, C)`, float64."""
        return self._fitted.scores(self._settings.cut(features, self._level))


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: DepthSettings, control: Control | None = None
) -> FittedDepth:
    """Fit once at the selected depth with the selected strength.

    Raises:
        InterruptedWork: A stop was requested.
    """
    level = int(choice.chosen["depth"])
    fitted = probe.fit(settings.select(data, level), choice, classes=classes, settings=settings.probe, control=control)
    return FittedDepth(fitted, settings, level)
