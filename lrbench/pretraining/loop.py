"""The training loop of one segment, from one boundary to the next."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrbench.config.arms import Mean
from lrbench.config.pretraining import Schedule, Training
from lrbench.config.schedule import Segment, learning_rate
from lrbench.core.control import Control, waiting_for
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.errors import FailureError, InterruptedWork, LrbenchError
from lrbench.core.seeds import derive
from lrbench.data.batches import Batches
from lrbench.data.prefetch import training_batches
from lrbench.models.devices import seed_generators
from lrbench.models.inference import InputNormalisation
from lrbench.pretraining.recovery import Outcome, Recovery
from lrbench.pretraining.setup import create_optimiser, gradient_sync, momentum_buffers, parallel
from lrbench.pretraining.stage_end import ended_at, ends_here
from lrbench.pretraining.state import Progress
from lrbench.pretraining.update_statistics import direction_norm, epoch_end

CHECK_EVERY = 25
"""Updates between two checks of the losses on an accelerator, which each check has to wait for."""

SAVE_SECONDS = 120.0
"""Seconds between two saves of the progress."""


class Trainer:
    """Trains one segment.

    Args:
        model: The network, on the device.
        segment: The segment to train.
        schedule: The suite's schedule.
        training: Precision and compilation.
        batches: The source's training batches.
        normalise: Turns images into inputs on the device.
        progress: The state to start from; its weights are loaded into the network.
        micro_batch: Images in one forward and backward pass; None for the whole share of this process.
        means: Means for other arms, for which weights are summed.
        epochs_to_keep: Epochs after which the weights are kept for other arms, each with whether momentum is kept too.
        keeps_stage_end: Whether to keep weights and momentum where the rule of an adaptive arm ends the stage.
        statistics: Returns statistics of the network at the end of an epoch for the log; None for none.
        logs_updates: Whether the log has statistics of the updates (`update_statistics`).
        updates: Updates of the whole schedule; decides whether compiling pays off.
        device: Device of the network.
        ranks: The processes that train together.
        say: Called with a warning when micro-batch size or compilation changes.
        last_good: Returns a clause that names the state training can return to.
        on_epoch_end: Called at the end of an epoch with the records of all epochs.
    """

    def __init__(
        self,
        model: nn.Module,
        segment: Segment,
        schedule: Schedule,
        training: Training,
        batches: Batches,
        normalise: InputNormalisation,
        progress: Progress,
        *,
        micro_batch: int | None,
        means: Collection[Mean],
        epochs_to_keep: Mapping[int, bool],
        keeps_stage_end: bool = False,
        statistics: Callable[[], dict[str, float | None]] | None = None,
        logs_updates: bool = False,
        updates: int,
        device: torch.device,
        ranks: ProcessGroup = SINGLE_PROCESS,
        say: Callable[[str], None] = lambda text: None,
        last_good: Callable[[], str] = lambda: "The last good state is its parent",
        on_epoch_end: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    ) -> None:
        self.segment, self.schedule, self.batches, self.progress = segment, schedule, batches, progress
        self.device, self.ranks, self.normalise = device, ranks, normalise
        self.bfloat16 = training.precision == "bfloat16"
        self.check_every = 1 if device.type == "cpu" else CHECK_EVERY
        self._sums_epochs, self._epochs_to_keep = "epochs" in means, epochs_to_keep
        # The tail is the segment's last epoch.
        self._tail_from = self.last_update - batches.updates_per_epoch if "tail" in means else self.last_update
        self._sums_moving = "moving" in means
        self._finds_stage_end = keeps_stage_end and ended_at(progress.records, schedule) is None
        self._on_epoch_end, self._last_good, self._statistics = on_epoch_end, last_good, statistics
        self._logs_updates, self._norms = logs_updates, list[Tensor]()
        self.model = model
        model.load_state_dict(progress.weights)
        self.recovery = Recovery(model, training, device, ranks, micro_batch=micro_batch, updates=updates, say=say)
        self.optimiser = create_optimiser(model, schedule, progress.momentum)
        self.forward = parallel(model, ranks)
        # Sums are kept on the weights' device, so that adding to them waits for nothing.
        progress.mean = {name: tensor.to(device) for name, tensor in progress.mean.items()}
        progress.tail = _copied(progress.tail, device)
        progress.moving = _copied(progress.moving, device)

    @property
    def first_update(self) -> int:
        """First update of the segment, counted from the start of pretraining."""
        return self.segment.first_epoch * self.batches.updates_per_epoch

    @property
    def last_update(self) -> int:
        """End of the segment's range of updates (exclusive)."""
        return self.segment.last_epoch * self.batches.updates_per_epoch

    def train(self, control: Control, save: Callable[[Progress], None], wait: Callable[[], None]) -> Progress:
        """Train to the segment's end, and return the progress at the boundary.

        Args:
            control: Asked before each update whether to stop; receives the number of updates done.
            save: Saves a progress, possibly in the background: by time, and when asked to stop.
            wait: Returns when everything passed to `save` is on the disk.

        Raises:
            FailureError: The loss is not finite, or memory ran out.
            InterruptedWork: Asked to stop; the progress was saved.
        """
        progress, batches, ranks = self.progress, self.batches, self.ranks
        first, last = self.first_update, self.last_update

        def forward_backward(images: Tensor, labels: Tensor) -> Outcome:
            # Dropout is drawn by the update's number, so that a resume draws the same.
            seed_generators(derive(batches.seed, "dropping", progress.update, ranks.rank), self.device)
            self.optimiser.zero_grad(set_to_none=True)
            outcomes: list[Outcome] = []
            for inputs, targets, is_last in self.recovery.micro_batches(self.normalise(images), labels):
                with gradient_sync(self.forward, enabled=is_last):
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                        logits = self.forward(inputs)
                        # Weighted by size: the gradient is the batch's, whatever the micro-batches.
                        loss = nn.functional.cross_entropy(logits, targets) * (len(targets) / len(labels))
                    loss.backward()  # type: ignore[no-untyped-call]
                outcomes.append((loss.detach(), (logits.detach().argmax(1) == targets).sum()))
            return _total(outcomes)

        pending: list[Outcome] = []
        saved = time.monotonic()
        with self._training_mode(), closing(training_batches(batches, progress.update, last, self.device)) as feed:
            for images, labels in waiting_for(feed, control):
                rate = learning_rate(self.schedule, self.segment, progress.update, batches.updates_per_epoch)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                labels = labels.to(self.device, non_blocking=True)
                pending.append(self.recovery.run(forward_backward, self.optimiser, images, labels))
                self.optimiser.step()
                if self._logs_updates:
                    self._norms.append(direction_norm(self.model, self.optimiser))
                progress.update += 1
                if progress.update > self._tail_from:
                    self._add_to(progress.tail)
                    progress.tail_count += 1
                if self._sums_moving:
                    self._add_to(progress.moving, decay=self.schedule.moving_decay)
                    progress.moving_count += 1

                ends_epoch = progress.update % batches.updates_per_epoch == 0
                stop, due = control.stop_requested(), time.monotonic() - saved > SAVE_SECONDS
                # Processes that train together check, save and stop at the same updates: none decides alone.
                if len(pending) >= self.check_every or ends_epoch or (ranks.is_single and (stop or due)):
                    with control.waiting():
                        stop, due = self._check(pending, stop, due, wait)
                    control.progress(progress.update - first, last - first, "updates")
                elif not ranks.is_single:
                    continue
                if ends_epoch:
                    self._end_epoch(rate)
                    if self.segment.adaptive and ends_here(progress.records, self.schedule):
                        break
                if progress.update < last and (stop or due):
                    save(self.copy_progress())
                    saved = time.monotonic()
                    if stop:
                        raise self._stopped(wait)
        return self.copy_progress()

    def copy_progress(self) -> Progress:
        """Return the current progress, with copies of weights and momentum buffers on the device."""
        progress = self.progress
        return replace(
            progress,
            weights=_copied(self.model.state_dict()),
            momentum=_copied(momentum_buffers(self.model, self.optimiser)),
            mean=dict(progress.mean),
            tail=_copied(progress.tail),
            moving=_copied(progress.moving),
            kept=dict(progress.kept),
            kept_momentum=dict(progress.kept_momentum),
            records=list(progress.records),
        )

    @contextmanager
    def _training_mode(self) -> Iterator[None]:
        """Put the network into training mode; at the end, restore the random state and undo compilation."""
        self.model.train()
        random = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(random)
            self.recovery.close()

    def _check(self, pending: list[Outcome], stop: bool, due: bool, wait: Callable[[], None]) -> tuple[bool, bool]:
        """Record the outcomes of updates since the last check, and clear their list.

        Returns:
            Whether any process should stop, and whether any should save.

        Raises:
            FailureError: A loss is not finite.
        """
        losses = torch.stack([loss for loss, _ in pending]).double() / self.ranks.world_size
        correct = torch.stack([correct for _, correct in pending]).sum()[None].double()
        flags = torch.tensor([stop, due], dtype=torch.float64, device=losses.device)
        *means, hits, stops, dues = self.ranks.all_reduce(torch.cat([losses, correct, flags])).tolist()
        first = self.progress.update - len(pending)
        for offset, loss in enumerate(means):
            if not math.isfinite(loss):
                raise self._not_finite(first + offset, loss, wait)
            self.progress.loss += loss
        self.progress.correct += int(hits)
        pending.clear()
        if self._norms:
            for square in torch.stack(self._norms).double().square().tolist():
                self.progress.direction_square += square
            self._norms.clear()
        return stops > 0, dues > 0

    def _not_finite(self, update: int, value: float, wait: Callable[[], None]) -> LrbenchError:
        per_epoch = self.batches.updates_per_epoch
        rate = learning_rate(self.schedule, self.segment, update, per_epoch)
        with suppress(LrbenchError):
            # The state being saved may be the last good one, or be refused for the same reason.
            wait()
        error = FailureError(
            f"The loss of {self.segment.key} became {value} at update {update + 1:,} "
            f"(epoch {update // per_epoch + 1}), at learning rate {rate:g}. {self._last_good()}; finished snapshots are "
            "kept. Lower schedule.rates under a new suite name (--set name=NAME), or check the images for wrong values."
        )
        return self.ranks.mark_shared(error)

    def _stopped(self, wait: Callable[[], None]) -> LrbenchError:
        wait()
        # No process may leave before the first has written: torchrun then ends the others.
        self.ranks.all_gather(None)
        return self.ranks.mark_shared(
            InterruptedWork(
                f"Stopped at update {self.progress.update:,} of {self.last_update:,} of {self.segment.key}; the progress is "
                "saved. Run the same command again to resume."
            )
        )

    def _end_epoch(self, rate: float) -> None:
        """Append the epoch's log record, and keep what other arms need of its end."""
        progress, updates = self.progress, self.batches.updates_per_epoch
        epoch = progress.update // updates
        progress.records.append(
            {
                "arm": self.segment.key.arm,
                "seed": self.segment.key.seed,
                "stage": self.segment.key.stage,
                "epoch": epoch,
                "update": progress.update,
                "learning_rate": rate,
                "loss": round(progress.loss / updates, 8),
                "training_accuracy": round(progress.correct / (updates * self.batches.batch), 8),
                **({} if self._statistics is None else self._statistics()),
                **self._update_statistics(),
            }
        )
        progress.loss, progress.correct, progress.direction_square = 0.0, 0, 0.0
        ends_stage = self._finds_stage_end and ends_here(progress.records, self.schedule)
        if ends_stage:
            self._finds_stage_end = False
        if ends_stage or epoch in self._epochs_to_keep:
            progress.kept[epoch] = _copied(self.model.state_dict(), "cpu")
            if ends_stage or self._epochs_to_keep[epoch]:
                progress.kept_momentum[epoch] = _copied(momentum_buffers(self.model, self.optimiser), "cpu")
        if self._sums_epochs:
            for name, tensor in self.model.state_dict().items():
                value = tensor.detach().to(torch.float64, memory_format=torch.contiguous_format, copy=True)
                progress.mean[name] = progress.mean[name] + value if name in progress.mean else value
            progress.mean_count += 1
        self._on_epoch_end(progress.records)

    def _update_statistics(self) -> dict[str, float]:
        if not self._logs_updates:
            return {}
        mean = self.progress.direction_square / self.batches.updates_per_epoch
        return epoch_end(self.model, self.optimiser, mean)

    def _add_to(self, total: dict[str, Tensor], decay: float = 1.0) -> None:
        """Multiply a sum of weights by `decay` and add the weights, in float64 and in place."""
        for name, tensor in self.model.state_dict().items():
            if name in total:
                if decay < 1:
                    total[name] *= decay
                total[name] += tensor
            else:
                total[name] = tensor.to(torch.float64, memory_format=torch.contiguous_format, copy=True)


def _total(outcomes: list[Outcome]) -> Outcome:
    if len(outcomes) == 1:
        return outcomes[0]
    losses, correct = zip(*outcomes, strict=True)
    return torch.stack(losses).sum(), torch.stack(correct).sum()


def _copied(tensors: Mapping[str, Tensor], device: torch.device | str | None = None) -> dict[str, Tensor]:
    # Contiguous: the bytes of a file must not depend on the memory format used for computing.
    return {
        name: tensor.detach().to(device or tensor.device, memory_format=torch.contiguous_format, copy=True)
        for name, tensor in tensors.items()
    }
