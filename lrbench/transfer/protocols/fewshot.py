"""The probe on a few images of each class.

The suite fixes the strength: selecting it on thousands of validation images would not be few-shot learning. The transfer seed
keys the draw.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import Fewshot, Probe
from lrbench.core.control import Control
from lrbench.core.seeds import generator
from lrbench.store.cells import TransferSettings
from lrbench.transfer.protocols import Draw, probe
from lrbench.transfer.selection import Choice, LabelledFeatures, by_class


@dataclass(frozen=True, kw_only=True)
class FewshotSettings:
    """Settings of the protocol.

    Attributes:
        fewshot: Number of images of each class, and the strength.
        probe: Tolerance and iteration limit of the fit.
        seed: Transfer seed, which keys the draw.
    """

    fewshot: Fewshot
    probe: Probe
    seed: int


def draw(labels: npt.NDArray[np.int64], shots: int, seed: int) -> npt.NDArray[np.int64]:
    """Return positions of the drawn images, rising: `shots` of each class, or all of a class that has fewer."""
    drawn = [generator(seed, "few shots", label).permutation(members)[:shots] for label, members in by_class(labels)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def configure(settings: TransferSettings, *, widths: tuple[int, ...], seed: int) -> FewshotSettings:
    """Return the settings of the draw and of the probe, with the seed."""
    return FewshotSettings(fewshot=settings.fewshot, probe=settings.probe, seed=seed)


def select(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    *,
    classes: int,
    metric: str,
    settings: FewshotSettings,
    control: Control | None = None,
) -> Choice:
    """Return the fixed strength; images are not used."""
    chosen = {"shots": settings.fewshot.shots, "strength": settings.fewshot.strength}
    return Choice(chosen=chosen, candidates=(), edge=False, metric=metric)


def fit(
    data: LabelledFeatures, choice: Choice, *, classes: int, settings: FewshotSettings, control: Control | None = None
) -> probe.FittedProbe:
    """Fit on the drawn images.

    Raises:
        InterruptedWork: A stop was requested.
    """
    shots = int(choice.chosen["shots"])
    positions = draw(data.labels.numpy(), shots, settings.seed)
    drawn = torch.from_numpy(positions)
    few = LabelledFeatures(features=data.features[drawn], labels=data.labels[drawn])
    fitted = probe.fit(few, choice, classes=classes, settings=settings.probe, control=control)
    fitted.diagnostics["images"] = len(drawn)
    fitted.draw = Draw(positions=positions, name=f"{shots}shot", description=f"{shots} training images of each class")
    return fitted
