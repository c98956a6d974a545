"""Fine-tuning: the whole network is trained on the target, with the same grid for every snapshot.

SGD with Nesterov momentum; the learning rate falls from the grid's value to 0 along half a cosine. The grid is trained on the
training part and scored on validation; the best point is trained again on both.
"""

import itertools
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lrbench.core.control import Control
from lrbench.core.errors import FailureError
from lrbench.models.inference import forward_all
from lrbench.models.networks import penultimate
from lrbench.transfer.protocols.finetune_run import FinetuneContext, TrainingRun, UpdateProgress
from lrbench.transfer.selection import Choice, Indices, on_edge


class Finetuning:
    """Fine-tuning of one snapshot on one target.

    Args:
        context: Network, images and settings.
    """

    def __init__(self, context: FinetuneContext) -> None:
        self._context = context
        self._progress = UpdateProgress((context.settings.updates,), 0)

    def select(self, train: Indices, validation: Indices, *, metric: str, control: Control) -> Choice:
        """Train every point of the grid on `train` and score it on `validation`.

        A point diverges if a loss, weight or logit is not finite. It is never selected, nor is a point that `halving` gave up.
        Of equal scores the smaller rate wins, then the larger decay.

        Raises:
            FailureError: Every point diverged.
            InterruptedWork: A stop was requested; finished points and the current run are saved.
        """
        settings = self._context.settings
        rates, decays = sorted(settings.rates), sorted(settings.decays, reverse=True)
        grid = list(itertools.product(rates, decays))
        ends = (*(_halving_updates(settings.updates) if settings.halving else ()), settings.updates)
        self._progress = UpdateProgress(ends, len(grid))
        runs = [TrainingRun(self._context, self._progress, train, rate, decay) for rate, decay in grid]
        for end in ends:
            active = [run for run in runs if run.is_active]
            for number, run in enumerate(active):
                self._progress.start_run(end, number)
                run.evaluate_at(end, validation, metric, control)
                # One network in memory at a time, unless halving continues with it.
                if end == settings.updates:
                    run.release()
            if end < settings.updates:
                _give_up_worse_half(active, end)
        candidates = [run.candidate for run in runs]
        finished = [run.candidate for run in runs if run.is_finished]
        if not finished:
            raise FailureError(
                f"fine-tuning diverged at every learning rate of the grid ({', '.join(f'{rate:g}' for rate in rates)}). "
                "Add smaller rates to finetune.rates."
            )
        best = max(finished, key=lambda candidate: candidate["score"])
        # The grid cannot be extended below a decay of 0.
        open_ends = [decays[0], *(decay for decay in decays[-1:] if decay > 0)]
        edge = on_edge(candidates, "learning_rate", (rates[0], rates[-1])) or on_edge(
            candidates, "weight_decay", open_ends
        )
        chosen = {name: best[name] for name in ("learning_rate", "weight_decay")}
        return Choice(chosen=chosen, candidates=tuple(candidates), edge=edge, metric=metric)

    def fit(self, choice: Choice, control: Control) -> "Finetuned":
        """Train with the selected hyper-parameters on training and validation images.

        Raises:
            FailureError: A loss or weight is not finite.
            InterruptedWork: A stop was requested; the run is saved.
        """
        images = np.arange(len(self._context.development.labels))
        rate, decay = float(choice.chosen["learning_rate"]), float(choice.chosen["weight_decay"])
        self._progress.start_fit()
        run = TrainingRun(self._context, self._progress, images, rate, decay, purpose="fit")
        run.train(self._context.settings.updates, control)
        if run.has_diverged:
            raise FailureError(
                f"fine-tuning with learning rate {rate:g} diverged on training and validation images together, but not on the "
                "training images alone. Add smaller rates to finetune.rates."
            )
        return Finetuned(self._context, run.model)


class Finetuned:
    """A fine-tuned network.

    Attributes:
        diagnostics: Entries for the result's `diagnostics`.
    """

    def __init__(self, context: FinetuneContext, model: nn.Module) -> None:
        self._context = context
        self._model = model
        self.diagnostics: dict[str, Any] = {"updates": context.settings.updates}

    def scores(self, pixels: Any) -> torch.Tensor:
        """Return logits of every image. Shape `(N, C)`.

        Raises:
            FailureError: Some are not finite.
        """
        scores = self._context.scores(self._model, pixels)
        if not bool(torch.isfinite(scores).all()):
            raise FailureError(
                "the logits of the fine-tuned network are not finite, although its loss was. Add smaller rates to "
                "finetune.rates."
            )
        return scores

    def features(self) -> torch.Tensor:
        """Return features of the penultimate layer for the training and validation images. Shape `(N, D)`."""
        read = partial(penultimate, self._model)
        return forward_all(read, self._context.development.pixels, self._context.normalise)


def _halving_updates(updates: int) -> tuple[int, ...]:
    """Return the updates after which the worse half is given up, rising."""
    return tuple(sorted({updates // share for share in (8, 4, 2)} - {0, updates}))


def _give_up_worse_half(runs: list[TrainingRun], update: int) -> None:
    active = sorted((run for run in runs if run.is_active), key=lambda run: run.candidate["score"], reverse=True)
    for run in active[max(1, (len(active) + 1) // 2) :]:
        run.give_up(update)
