"""Training runs of fine-tuning: one point of the grid, or the final fit."""

import copy
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lrbench.config.protocols import Finetune
from lrbench.config.schedule import cosine_rate
from lrbench.core.control import Control, waiting_for
from lrbench.core.errors import InterruptedWork
from lrbench.core.seeds import derive
from lrbench.data.batches import Batches
from lrbench.data.prefetch import training_batches
from lrbench.models.devices import seed_generators, to_device
from lrbench.models.graphs import can_capture, capture
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.tensors import mismatches
from lrbench.transfer.metrics import headline
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.selection import Indices
from lrbench.transfer.target import Development

# Updates between two checks of the loss, each of which waits for a GPU.
_CHECK_INTERVAL = 100
SAVE_SECONDS = 300.0
"""Seconds of training between two saves of an unfinished run."""


@dataclass(frozen=True, kw_only=True)
class FinetuneContext:
    """Inputs that all training runs of a cell share.

    Attributes:
        model: Network of the snapshot. It is copied, never changed.
        development: Training and validation images with labels.
        classes: Number of classes of the target.
        size: Side of the input in pixels.
        normalise: Function that turns images into inputs on the device.
        settings: Grid, updates and batch size.
        seed: Transfer seed, which keys the new classifier, the order of images and the augmentation.
        device: Device of the training.
        points: Scores and the unfinished run of an interrupted cell.
    """

    model: nn.Module
    development: Development
    classes: int
    size: int
    normalise: InputNormalisation
    settings: Finetune
    seed: int
    device: torch.device
    points: Points

    def new_model(self) -> nn.Module:
        """Return a copy of the network with a new classifier, on the device."""
        # On the CPU, whose generator draws the same classifier on every machine.
        model = copy.deepcopy(self.model).cpu()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "classifier"))
            model.reset_classifier(self.classes)  # type: ignore[operator]
        model.requires_grad_(True)
        return to_device(model, self.device)

    def scores(self, model: nn.Module, pixels: Any, indices: Indices | None = None) -> torch.Tensor:
        """Return logits of images, or of those at `indices`. Shape `(N, C)`."""
        # float32 whatever the precision of training: bfloat16 logits tie, and the lowest class wins a tie.
        return forward_all(model, pixels, self.normalise, indices=indices)

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass of training runs."""
        enabled = self.settings.precision == "bfloat16"
        # A weight is used once in a pass, and graphs need a cast in every pass.
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


class TrainingRun:
    """Training of one pair of hyper-parameters, which may pause at an update and continue.

    Args:
        context: Shared inputs.
        progress: UpdateProgress of the cell.
        subset: Positions of the images to train on.
        rate: Learning rate at the start.
        decay: Weight decay of the grid: rate times the decay that SGD uses.
        purpose: `selection` for a point of the grid, `fit` for the final fit.

    Attributes:
        candidate: The hyper-parameters with their latest score on validation.
        has_diverged: Whether a loss, weight or logit was not finite.
        is_active: Whether it has not been given up.
    """

    def __init__(
        self,
        context: FinetuneContext,
        progress: "UpdateProgress",
        subset: Indices,
        rate: float,
        decay: float,
        *,
        purpose: str = "selection",
    ) -> None:
        self.candidate: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay}
        self.has_diverged = False
        self.is_active = True
        self._context, self._progress, self._purpose = context, progress, purpose
        self._subset, self._rate, self._decay = subset, rate, decay
        self._update = 0
        self._may_capture = True
        # Seconds of training before an interruption.
        self._earlier_seconds = 0.0
        self._started: tuple[nn.Module, torch.optim.Optimizer] | None = None

    @property
    def model(self) -> nn.Module:
        """The network in its current state."""
        assert self._started is not None
        return self._started[0]

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to the end."""
        return self.is_active and not self.has_diverged

    def train(self, end: int, control: Control) -> None:
        """Train, or continue to train, until update number `end`.

        Raises:
            InterruptedWork: A stop was requested; the state is saved.
        """
        context, settings = self._context, self._context.settings
        model, optimiser = self._started = self._started or self._start(end)
        batches = Batches(
            pixels=context.development.pixels,
            labels=context.development.labels,
            seed=derive(context.seed, "finetune"),
            # A small task may have fewer images than a batch.
            batch=min(settings.batch, len(self._subset)),
            size=context.size,
            augmentation=settings.augmentation,
            subset=self._subset,
        )
        model.train()
        losses: list[torch.Tensor] = []
        started = saved = time.monotonic()
        with (
            torch.random.fork_rng(devices=[]),
            closing(training_batches(batches, self._update, end, context.device)) as stream,
        ):
            for images, labels in waiting_for(stream, control):
                stopping = control.stop_requested()
                if stopping or time.monotonic() - saved > SAVE_SECONDS:
                    self._save(model, optimiser, losses, time.monotonic() - started)
                    saved = time.monotonic()
                if stopping:
                    raise InterruptedWork(
                        f"stopped during fine-tuning. Finished cells, {len(context.points)} scores of this cell's grid and the "
                        f"network after {self._update:,} of {settings.updates:,} updates are saved. Run the same command "
                        "again to continue."
                    )
                for group in optimiser.param_groups:
                    group["lr"] = cosine_rate(self._rate, self._update, settings.updates)
                # Dropout is keyed by the update, so that a resumed run draws the same.
                seed_generators(derive(context.seed, "dropping", self._update), context.device)
                inputs = context.normalise(images)
                if self._may_capture:
                    self._capture(model, inputs, control)
                with context.autocast():
                    logits = model(inputs)
                loss = nn.functional.cross_entropy(logits.float(), labels.to(context.device, non_blocking=True))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(loss.detach())
                self._update += 1
                if self._update % _CHECK_INTERVAL == 0:
                    with control.waiting():
                        diverged = not bool(torch.isfinite(losses[-1]))
                    if diverged:
                        break
                control.progress(self._progress.done(self._update), self._progress.total, "updates")
        # The last loss was computed before the last update, so the weights are checked as well.
        finite = [torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self.has_diverged = not bool(torch.stack([*finite, torch.isfinite(torch.stack(losses)).all()]).all())
        # Paused runs of a halved grid need no memory for gradients.
        optimiser.zero_grad(set_to_none=True)
        model.eval()

    def evaluate_at(self, end: int, validation: Indices, metric: str, control: Control) -> None:
        """Train until update number `end` and score on validation, unless that score is saved.

        Raises:
            InterruptedWork: A stop was requested.
        """
        point = (self._rate, self._decay, end)
        measured = self._context.points.get(point)
        if measured is None:
            started = time.perf_counter()
            self.train(end, control)
            measured = self._evaluate(validation, metric)
            self._context.points.add(point, measured, time.perf_counter() - started + self._earlier_seconds)
            self._earlier_seconds = 0.0
        self.candidate |= measured
        self.has_diverged = "diverged" in measured
        if self.has_diverged:
            self.give_up(int(measured["updates"]))

    def give_up(self, update: int) -> None:
        """Exclude it from selection after so many updates."""
        self.is_active = False
        self.candidate["updates"] = update
        self.release()

    def release(self) -> None:
        """Free the memory of the network."""
        self._started = None

    @property
    def _name(self) -> str:
        return f"{self._purpose} {self._rate!r} {self._decay!r}"

    def _capture(self, model: nn.Module, inputs: torch.Tensor, control: Control) -> None:
        """Train with CUDA graphs from here on, if the network allows it."""
        self._may_capture = False
        if can_capture(model, self._context.device):
            problem = capture(model, inputs, self._context.autocast())
            if problem is not None:
                control.say(f"fine-tuning runs without CUDA graphs, with the same numbers: {problem}")

    def _start(self, end: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return a new network and optimiser, or those of an interrupted run if it did not reach `end`."""
        context = self._context
        model, momentum = context.new_model(), context.settings.momentum
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=self._rate,
            momentum=momentum,
            nesterov=momentum > 0,
            # Decays of the grid are products of rate and decay, so that every rate is tried with the same shrinkage.
            weight_decay=self._decay / self._rate,
            fused=True,
        )
        saved = context.points.load_run(self._name)
        shapes = {} if saved is None else {name: tuple(tensor.shape) for name, tensor in saved["weights"].items()}
        if saved is not None and saved["update"] < end and not mismatches(model, shapes):
            model.load_state_dict(saved["weights"])
            optimiser.load_state_dict(saved["optimiser"])
            self._update, self._earlier_seconds = int(saved["update"]), float(saved["seconds"])
            context.points.earlier_seconds[self._purpose] += self._earlier_seconds
        return model, optimiser

    def _save(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, losses: list[torch.Tensor], seconds: float
    ) -> None:
        """Save the state if there is one and it is finite."""
        if self._update and all(
            bool(torch.isfinite(tensor).all()) for tensor in (*losses, *model.state_dict().values())
        ):
            content = {"update": self._update, "weights": model.state_dict(), "optimiser": optimiser.state_dict()}
            self._context.points.save_run(self._name, {**content, "seconds": self._earlier_seconds + seconds})

    def _evaluate(self, validation: Indices, metric: str) -> dict[str, Any]:
        if not self.has_diverged:
            development = self._context.development
            scores = self._context.scores(self.model, development.pixels, validation)
            # Finite weights may still overflow.
            if bool(torch.isfinite(scores).all()):
                return {"score": headline(scores, torch.from_numpy(development.labels[validation]), metric)}
            self.has_diverged = True
        return {"score": 0.0, "diverged": True, "updates": self._update}


class UpdateProgress:
    """Number of updates done in a cell: first those of all networks of the grid, then those of the final fit.

    Args:
        ends: Updates at which networks are compared, rising; the last is the end of training.
        networks: Points of the grid. After each comparison but the last the better half continues.

    Attributes:
        total: Updates of the cell if no run diverges.
    """

    def __init__(self, ends: Sequence[int], networks: int) -> None:
        # By the end of each round: updates of all rounds before it, and the update at which it starts.
        self._rounds: dict[int, tuple[int, int]] = {}
        done = start = 0
        for end in ends:
            self._rounds[end] = done, start
            done += networks * (end - start)
            networks, start = max(1, (networks + 1) // 2), end
        self._grid = done
        self.total = done + ends[-1]
        self._before = self._start = 0

    def start_run(self, end: int, number: int) -> None:
        """Begin to train network `number` of a round; those before it count as done."""
        before, self._start = self._rounds[end]
        self._before = before + number * (end - self._start)

    def start_fit(self) -> None:
        """Begin the final fit; the grid counts as done."""
        self._before, self._start = self._grid, 0

    def done(self, update: int) -> int:
        """Return the updates done when the current network is at an update."""
        return self._before + max(0, update - self._start)
