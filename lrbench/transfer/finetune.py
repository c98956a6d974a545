"""Fine-tuning: the whole network trained on the target, from the same grid for every snapshot.

SGD with Nesterov momentum; the rate falls from the grid's value to 0 along half a cosine. The grid is tried on the
training part, chosen on validation, and the choice trained once more on both.
"""

import copy
import itertools
import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lrbench.control import Control
from lrbench.data.batches import Batches
from lrbench.data.feeding import Batch, training_batches
from lrbench.errors import FailureError, InterruptedWork
from lrbench.models import InputNormalisation, forward_all
from lrbench.registry.suite import Finetune
from lrbench.seeds import derive
from lrbench.transfer.metrics import headline
from lrbench.transfer.selection import Choice
from lrbench.transfer.target import Development

Indices = npt.NDArray[np.int64]


class Finetuning:
    """Fine-tuning of one snapshot on one target.

    Args:
        model: The snapshot's network; it is copied, never changed.
        development: The images that may be looked at with their labels.
        classes: Number of the target's classes.
        size: Side of the input in pixels.
        normalise: Turns images into inputs on the device.
        settings: Grid, updates and batch.
        seed: Transfer seed: keys the new classifier, the order and the augmentation.
    """

    def __init__(
        self,
        model: nn.Module,
        development: Development,
        *,
        classes: int,
        size: int,
        normalise: InputNormalisation,
        settings: Finetune,
        seed: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._development = development
        self._classes = classes
        self._size = size
        self._normalise = normalise
        self._settings = settings
        self._seed = seed
        self._device = device

    def select(self, train: Indices, validation: Indices, *, metric: str, control: Control) -> Choice:
        """Try the whole grid on `train` and score each point on `validation`.

        A point whose loss is not finite counts as diverged and is never chosen. Of equal scores the smaller rate wins,
        then the larger decay.

        Raises:
            FailureError: Every point diverged.
        """
        labels = self._development.labels[validation]
        rates, decays = sorted(self._settings.rates), sorted(self._settings.decays, reverse=True)
        candidates: list[dict[str, Any]] = []
        for rate, decay in itertools.product(rates, decays):
            candidate: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay}
            model = self._train(train, rate, decay, control)
            if model is None:
                candidates.append({**candidate, "score": 0.0, "diverged": True})
                continue
            scores = self._scores(model, self._development.pixels, validation)
            candidates.append({**candidate, "score": headline(scores, torch.from_numpy(labels), metric)})
        alive = [candidate for candidate in candidates if "diverged" not in candidate]
        if not alive:
            raise FailureError(
                f"fine-tuning diverged at every learning rate of the grid ({', '.join(f'{rate:g}' for rate in rates)}). "
                "Put smaller ones into finetune.rates."
            )
        best = max(alive, key=lambda candidate: candidate["score"])
        chosen = {name: best[name] for name in ("learning_rate", "weight_decay")}
        edge = len(rates) > 1 and chosen["learning_rate"] in (rates[0], rates[-1])
        return Choice(chosen=chosen, candidates=tuple(candidates), edge=edge, metric=metric)

    def fit(self, choice: Choice, control: Control) -> "Finetuned":
        """Train with the chosen hyper-parameters on training and validation images together.

        Raises:
            FailureError: The loss is not finite.
        """
        everything = np.arange(len(self._development.labels))
        rate, decay = float(choice.chosen["learning_rate"]), float(choice.chosen["weight_decay"])
        model = self._train(everything, rate, decay, control)
        if model is None:
            raise FailureError(
                f"fine-tuning diverged on training and validation images together at learning rate {rate:g}, which was "
                "stable on the training images alone. Put smaller rates into finetune.rates."
            )
        return Finetuned(self, model)

    def _train(self, subset: Indices, rate: float, decay: float, control: Control) -> nn.Module | None:
        settings = self._settings
        model = self._fresh()
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            # The grid's decays are products of rate and decay, so that every rate is tried with the same shrinkage.
            weight_decay=decay / rate,
            fused=True,
        )
        batches = Batches(
            pixels=self._development.pixels,
            labels=self._development.labels,
            seed=derive(self._seed, "finetune"),
            # Small tasks may have fewer images than a batch.
            batch=min(settings.batch, len(subset)),
            size=self._size,
            augmentation=settings.augmentation,
            subset=subset,
        )
        model.train()
        fed = training_batches(batches, 0, settings.updates, self._device)
        with closing(fed):
            losses = self._updates(model, optimiser, fed, rate, control)
        if not bool(torch.isfinite(torch.stack(losses)).all()):
            return None
        return model.eval()

    def _updates(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, fed: Iterator[Batch], rate: float, control: Control
    ) -> list[torch.Tensor]:
        settings, losses = self._settings, []
        for update, (images, labels) in enumerate(fed):
            if control.stop_requested():
                raise InterruptedWork("stopped while fine-tuning; the cells already done are kept. Run the same again.")
            for group in optimiser.param_groups:
                group["lr"] = cosine_rate(rate, update, settings.updates)
            loss = nn.functional.cross_entropy(model(self._normalise(images)), labels.to(self._device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
            control.progress(update + 1, settings.updates, f"updates at rate {rate:g}")
        return losses

    def _fresh(self) -> nn.Module:
        model = copy.deepcopy(self._model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self._seed, "classifier"))
            model.reset_classifier(self._classes)  # type: ignore[operator]
        model.requires_grad_(True)
        return model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _scores(self, model: nn.Module, pixels: Any, indices: Indices | None = None) -> torch.Tensor:
        return forward_all(lambda images: model(images).float(), pixels, self._normalise, indices=indices)


class Finetuned:
    """A fine-tuned network."""

    def __init__(self, owner: Finetuning, model: nn.Module) -> None:
        self._owner = owner
        self._model = model
        self.diagnostics: dict[str, Any] = {"updates": owner._settings.updates}

    def scores(self, pixels: Any) -> torch.Tensor:
        """Logits of every image. Shape `(N, C)`."""
        return self._owner._scores(self._model, pixels)


def cosine_rate(rate: float, update: int, updates: int) -> float:
    """The learning rate of an update (from 0) on half a cosine from `rate` to 0 (Loshchilov and Hutter 2017, eq. 5)."""
    return rate * 0.5 * (1 + math.cos(math.pi * update / updates))
