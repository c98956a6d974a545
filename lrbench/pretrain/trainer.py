"""The training loop of one segment: one learning rate, from one boundary to the next."""

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lrbench.arms import Segment
from lrbench.control import Control
from lrbench.data.batches import Batches
from lrbench.data.feeding import Batch, training_batches
from lrbench.errors import FailureError, InterruptedWork
from lrbench.models import InputNormalisation
from lrbench.registry.suite import Schedule

# Losses are looked at every so many updates on an accelerator: each look waits for the device.
_LOOK_EVERY = 25

SAVE_SECONDS = 120.0
"""Progress is saved when this long has passed since the last time."""


@dataclass
class Progress:
    """Where a segment stands between two updates.

    Attributes:
        update: Updates done since the start of pretraining.
        weights: The network's state dict.
        momentum: SGD's momentum buffers by parameter name; empty before the first update.
        mean: Sum of epoch-end weights of this segment in float64, where the segment keeps one.
        mean_count: Number of epochs in the sum.
        kept: Weights at the end of epochs that were to be kept, by epoch.
        loss: Sum of the present epoch's losses.
        correct: Correct predictions on the present epoch's training batches.
        records: Log records of the epochs that this segment has finished.
    """

    update: int
    weights: dict[str, torch.Tensor]
    momentum: dict[str, torch.Tensor] = field(default_factory=dict)
    mean: dict[str, torch.Tensor] = field(default_factory=dict)
    mean_count: int = 0
    kept: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    loss: float = 0.0
    correct: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains one segment.

    Args:
        model: The network; takes on the progress's weights.
        segment: What to train.
        schedule: Momentum and weight decay.
        batches: The source's training batches.
        normalise: Turns images into inputs on the device.
        progress: Where to start.
        keep_mean: Whether the sum of epoch-end weights is kept (for the arm `average`).
        keep_epochs: After which epochs the weights are kept (for the arm `trail`).
    """

    def __init__(
        self,
        model: nn.Module,
        segment: Segment,
        schedule: Schedule,
        batches: Batches,
        normalise: InputNormalisation,
        progress: Progress,
        *,
        keep_mean: bool,
        keep_epochs: Collection[int] = (),
        device: torch.device,
    ) -> None:
        self.segment = segment
        self._batches = batches
        self._normalise = normalise
        self._keep_mean = keep_mean
        self._keep_epochs = keep_epochs
        self._device = device
        self._model = model
        model.load_state_dict(progress.weights)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.SGD(
            model.parameters(),
            lr=segment.rate,
            momentum=schedule.momentum,
            nesterov=schedule.nesterov,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        for name, parameter in model.named_parameters():
            if name in progress.momentum:
                buffer = torch.empty_like(parameter, memory_format=torch.preserve_format)
                buffer.copy_(progress.momentum[name])
                self._optimiser.state[parameter]["momentum_buffer"] = buffer
        self._progress = progress

    @property
    def first_update(self) -> int:
        """The segment's first update, counted from the start of pretraining."""
        return self.segment.first_epoch * self._batches.updates_per_epoch

    @property
    def last_update(self) -> int:
        """The update after the segment's last."""
        return self.segment.last_epoch * self._batches.updates_per_epoch

    def train(self, control: Control, save: Any) -> Progress:
        """Train to the segment's end.

        Args:
            control: Asked before each update whether to stop; told how far training is.
            save: Called with the progress, to keep it: by time, and when asked to stop.

        Returns:
            The progress at the boundary.

        Raises:
            FailureError: The loss is not finite.
            InterruptedWork: Asked to stop; the progress was saved.
        """
        look_every = 1 if self._device.type == "cpu" else _LOOK_EVERY
        self._model.train()
        fed = training_batches(self._batches, self._progress.update, self.last_update, self._device)
        with closing(fed):
            self._train_on(fed, control, save, look_every)
        return self.snapshot()

    def _train_on(self, fed: Iterator[Batch], control: Control, save: Any, look_every: int) -> None:
        progress = self._progress
        saved = time.monotonic()
        pending: list[torch.Tensor] = []
        hits: list[torch.Tensor] = []
        for images, labels in fed:
            loss, correct = self._step(images, labels)
            pending.append(loss)
            hits.append(correct)
            progress.update += 1
            ends_epoch = progress.update % self._batches.updates_per_epoch == 0
            stopping = control.stop_requested()
            due = time.monotonic() - saved > SAVE_SECONDS
            if len(pending) >= look_every or ends_epoch or stopping or due:
                self._look(pending, hits)
                control.progress(progress.update - self.first_update, self.last_update - self.first_update, "updates")
            if ends_epoch:
                self._end_epoch()
            if progress.update < self.last_update and (stopping or due):
                save(self.snapshot())
                saved = time.monotonic()
                if stopping:
                    raise InterruptedWork(
                        f"stopped at update {progress.update:,} of {self.last_update:,} of {self.segment.key}; it is saved. "
                        "Run the same command again to go on from there."
                    )

    def snapshot(self) -> Progress:
        """The progress with the weights and momentum buffers as they are now, on the CPU."""
        progress = self._progress
        progress.weights = _copied(self._model.state_dict())
        progress.momentum = _copied(
            {
                name: self._optimiser.state[parameter]["momentum_buffer"]
                for name, parameter in self._model.named_parameters()
                if self._optimiser.state.get(parameter, {}).get("momentum_buffer") is not None
            }
        )
        return progress

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = labels.to(self._device, non_blocking=True)
        logits = self._model(self._normalise(images))
        loss = nn.functional.cross_entropy(logits, labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _look(self, pending: list[torch.Tensor], hits: list[torch.Tensor]) -> None:
        first = self._progress.update - len(pending)
        for offset, value in enumerate(torch.stack(pending).tolist()):
            if not math.isfinite(value):
                self._not_finite(first + offset, value)
            self._progress.loss += value
        self._progress.correct += int(torch.stack(hits).sum())
        pending.clear()
        hits.clear()

    def _not_finite(self, update: int, value: float) -> None:
        raise FailureError(
            f"the loss of {self.segment.key} became {value} at update {update + 1:,} "
            f"(epoch {update // self._batches.updates_per_epoch + 1}), at learning rate {self.segment.rate:g}. The last "
            f"good state is its parent {self.segment.parent}, or what was saved of this stage since, and every snapshot "
            "made so far is kept. Use a smaller rate in schedule.rates under a new suite name (--set name=NAME), or look "
            "at the images for wrong values."
        )

    def _end_epoch(self) -> None:
        progress, updates = self._progress, self._batches.updates_per_epoch
        progress.records.append(
            {
                "arm": self.segment.key.arm,
                "seed": self.segment.key.seed,
                "stage": self.segment.key.stage,
                "epoch": progress.update // updates,
                "update": progress.update,
                "learning_rate": self.segment.rate,
                "loss": round(progress.loss / updates, 8),
                "training_accuracy": round(progress.correct / (updates * self._batches.batch), 8),
            }
        )
        progress.loss, progress.correct = 0.0, 0
        epoch = progress.update // updates
        if epoch in self._keep_epochs:
            progress.kept[epoch] = _copied(self._model.state_dict())
        if self._keep_mean:
            for name, tensor in self._model.state_dict().items():
                value = tensor.detach().to("cpu", torch.float64)
                progress.mean[name] = progress.mean[name] + value if name in progress.mean else value
            progress.mean_count += 1


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
