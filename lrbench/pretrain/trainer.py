"""The training loop of one segment, from one boundary to the next."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lrbench.config.schedule import Segment, learning_rate
from lrbench.config.suite import Schedule
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.errors import FailureError, InterruptedWork, LrbenchError
from lrbench.core.seeds import derive
from lrbench.data.batches import Batches
from lrbench.data.prefetch import Batch, training_batches
from lrbench.pretrain.state import Progress
from lrbench.pretrain.step import Step

# Losses are looked at every so many updates on an accelerator: each look waits for the device.
_LOOK_EVERY = 25

SAVE_SECONDS = 120.0
"""Progress is saved when this long has passed since the last time."""


class Trainer:
    """Trains one segment.

    Args:
        model: The network, on the device; takes on the progress's weights.
        segment: What to train.
        schedule: The suite's schedule.
        batches: The source's training batches.
        step: Makes what does the updates, once the weights are in place.
        progress: Where to start.
        keep_mean: Whether the sum of epoch-end weights is kept (for arms that are means).
        keep_epochs: After which epochs the weights are kept for other arms, and whether the momentum is too.
        device: Where training happens.
        ranks: The processes that train together.
        last_good: Says, in a clause, which state training can go back to.
        each_epoch: Called with the records of all epochs so far, when one has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        segment: Segment,
        schedule: Schedule,
        batches: Batches,
        step: Callable[[nn.Module], Step],
        progress: Progress,
        *,
        keep_mean: bool,
        keep_epochs: Mapping[int, bool],
        device: torch.device,
        ranks: ProcessGroup = SINGLE_PROCESS,
        last_good: Callable[[], str] = lambda: "The last good state is its parent",
        each_epoch: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    ) -> None:
        self.segment = segment
        self._schedule, self._batches, self._device, self._ranks = schedule, batches, device, ranks
        self._keep_mean, self._keep_epochs = keep_mean, keep_epochs
        self._each_epoch, self._last_good = each_epoch, last_good
        self._model = model
        model.load_state_dict(progress.weights)
        self._step = step(model)
        for name, parameter in model.named_parameters():
            if name in progress.momentum:
                buffer = torch.empty_like(parameter, memory_format=torch.preserve_format)
                buffer.copy_(progress.momentum[name])
                self._step.optimiser.state[parameter]["momentum_buffer"] = buffer
        # Sums are kept where the weights are: adding to them waits for nothing.
        progress.mean = {name: tensor.to(device) for name, tensor in progress.mean.items()}
        self._progress = progress
        self._wait: Callable[[], None] = lambda: None

    @property
    def first_update(self) -> int:
        """The segment's first update, counted from the start of pretraining."""
        return self.segment.first_epoch * self._batches.updates_per_epoch

    @property
    def last_update(self) -> int:
        """The update after the segment's last."""
        return self.segment.last_epoch * self._batches.updates_per_epoch

    def train(self, control: Control, save: Callable[[Progress], None], wait: Callable[[], None]) -> Progress:
        """Train to the segment's end.

        Args:
            control: Asked before each update whether to stop; told how far training is.
            save: Called with a progress to keep, in the background if it likes: by time, and when asked to stop.
            wait: Returns when what was given to `save` is kept.

        Returns:
            The progress at the boundary.

        Raises:
            FailureError: The loss is not finite, or there is not memory enough.
            InterruptedWork: Asked to stop; the progress was saved.
        """
        self._model.train()
        self._wait = wait
        fed = training_batches(self._batches, self._progress.update, self.last_update, self._device)
        random = torch.get_rng_state()
        try:
            with closing(fed):
                self._train_on(fed, control, save, wait)
        finally:
            torch.set_rng_state(random)
            self._step.close()
        return self.snapshot()

    def _train_on(
        self, fed: Iterator[Batch], control: Control, save: Callable[[Progress], None], wait: Callable[[], None]
    ) -> None:
        progress, per_epoch = self._progress, self._batches.updates_per_epoch
        look_every = 1 if self._device.type == "cpu" else _LOOK_EVERY
        saved = time.monotonic()
        pending: list[torch.Tensor] = []
        hits: list[torch.Tensor] = []
        for images, labels in fed:
            update = progress.update
            rate = learning_rate(self._schedule, self.segment, update, per_epoch)
            seed = derive(self._batches.seed, "dropping", update, self._ranks.rank)
            loss, correct = self._step(images, labels, rate, seed)
            pending.append(loss)
            hits.append(correct)
            progress.update += 1
            ends_epoch = progress.update % per_epoch == 0
            stopping = control.stop_requested()
            due = time.monotonic() - saved > SAVE_SECONDS
            # Processes that work together look, stop and save at the same updates, so none decides for itself.
            if len(pending) >= look_every or ends_epoch or (self._ranks.is_single and (stopping or due)):
                stopping, due = self._look(pending, hits, stopping, due)
                control.progress(progress.update - self.first_update, self.last_update - self.first_update, "updates")
            elif not self._ranks.is_single:
                continue
            if ends_epoch:
                self._end_epoch(rate)
            if progress.update < self.last_update and (stopping or due):
                save(self.snapshot())
                saved = time.monotonic()
                if stopping:
                    wait()
                    # None leaves before the first has written: torchrun ends those that are left.
                    self._ranks.all_gather(None)
                    raise self._ranks.mark_shared(
                        InterruptedWork(
                            f"stopped at update {progress.update:,} of {self.last_update:,} of {self.segment.key}; it is "
                            "saved. Run the same command again to go on from there."
                        )
                    )

    def snapshot(self) -> Progress:
        """The progress as it is now, with copies of weights and momentum buffers on the device."""
        progress = self._progress
        return replace(
            progress,
            weights=_copied(self._model.state_dict()),
            momentum=self._momentum(),
            mean=dict(progress.mean),
            kept=dict(progress.kept),
            kept_momentum=dict(progress.kept_momentum),
            records=list(progress.records),
        )

    def _momentum(self) -> dict[str, torch.Tensor]:
        state = self._step.optimiser.state
        return _copied(
            {
                name: state[parameter]["momentum_buffer"]
                for name, parameter in self._model.named_parameters()
                if state.get(parameter, {}).get("momentum_buffer") is not None
            }
        )

    def _look(
        self, pending: list[torch.Tensor], hits: list[torch.Tensor], stopping: bool, due: bool
    ) -> tuple[bool, bool]:
        """Take note of losses and hits; gives whether any process should stop, and whether any would save."""
        ranks = self._ranks
        losses = torch.stack(pending).double() / ranks.world_size
        told = torch.tensor([stopping, due], dtype=torch.float64, device=losses.device)
        values = ranks.all_reduce(torch.cat([losses, torch.stack(hits).sum()[None].double(), told])).tolist()
        *values, correct, stops, dues = values
        first = self._progress.update - len(pending)
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                self._not_finite(first + offset, value)
            self._progress.loss += value
        self._progress.correct += int(correct)
        pending.clear()
        hits.clear()
        return stops > 0, dues > 0

    def _not_finite(self, update: int, value: float) -> None:
        per_epoch = self._batches.updates_per_epoch
        rate = learning_rate(self._schedule, self.segment, update, per_epoch)
        with suppress(LrbenchError):
            # What is being saved may be the last good state, or be refused for what was found here too.
            self._wait()
        error = FailureError(
            f"the loss of {self.segment.key} became {value} at update {update + 1:,} "
            f"(epoch {update // per_epoch + 1}), at learning rate {rate:g}. {self._last_good()}, and every snapshot "
            "made so far is kept. Use a smaller rate in schedule.rates under a new suite name (--set name=NAME), or look "
            "at the images for wrong values."
        )
        raise self._ranks.mark_shared(error)

    def _end_epoch(self, rate: float) -> None:
        progress, updates = self._progress, self._batches.updates_per_epoch
        progress.records.append(
            {
                "arm": self.segment.key.arm,
                "seed": self.segment.key.seed,
                "stage": self.segment.key.stage,
                "epoch": progress.update // updates,
                "update": progress.update,
                "learning_rate": rate,
                "loss": round(progress.loss / updates, 8),
                "training_accuracy": round(progress.correct / (updates * self._batches.batch), 8),
            }
        )
        progress.loss, progress.correct = 0.0, 0
        epoch = progress.update // updates
        if epoch in self._keep_epochs:
            progress.kept[epoch] = _copied(self._model.state_dict(), "cpu")
            if self._keep_epochs[epoch]:
                progress.kept_momentum[epoch] = {name: each.cpu() for name, each in self._momentum().items()}
        if self._keep_mean:
            for name, tensor in self._model.state_dict().items():
                value = tensor.detach().to(torch.float64, memory_format=torch.contiguous_format, copy=True)
                progress.mean[name] = progress.mean[name] + value if name in progress.mean else value
            progress.mean_count += 1
        self._each_epoch(progress.records)


def _copied(tensors: Mapping[str, torch.Tensor], device: str | None = None) -> dict[str, torch.Tensor]:
    # In plain order of memory: the bytes of a file must not depend on the layout that computing likes.
    return {
        name: tensor.detach().to(device or tensor.device, memory_format=torch.contiguous_format, copy=True)
        for name, tensor in tensors.items()
    }
