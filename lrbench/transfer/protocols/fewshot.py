"""The probe on a few images of each class, for several numbers of images.

The suite fixes the strength: selecting it on thousands of validation images would not be few-shot learning. The transfer seed
keys the draw, in which the images of a smaller number are among those of a larger one.
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
from lrbench.transfer.selection import Choice, Indices, LabelledFeatures, by_class


@dataclass(frozen=True, kw_only=True)
class FewshotSettings:
    """Settings of the protocol.

    Attributes:
        fewshot: Numbers of images of each class, and the strength.
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
    """Fit on the drawn images, and for the curve on each number of images that every class has.

    Raises:
        InterruptedWork: A stop was requested.
    """

    def fit_on(shots: int) -> tuple[probe.FittedProbe, Indices]:
        positions = draw(data.labels.numpy(), shots, settings.seed)
        drawn = torch.from_numpy(positions)
        few = LabelledFeatures(features=data.features[drawn], labels=data.labels[drawn])
        fitted = probe.fit(few, choice, classes=classes, settings=settings.probe, control=control)
        fitted.diagnostics["images"] = len(drawn)
        return fitted, positions

    shots = int(choice.chosen["shots"])
    fitted, positions = fit_on(shots)
    fitted.draw = Draw(positions=positions, name=f"{shots}shot", description=f"{shots} training images of each class")
    fewest = min(len(members) for _, members in by_class(data.labels.numpy()))
    others = [count for count in settings.fewshot.curve if count != shots and count <= fewest]
    fitted.by_shots = {count: fit_on(count)[0] for count in others}
    return fitted
