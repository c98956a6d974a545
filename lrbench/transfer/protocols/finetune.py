"""Fine-tuning: the whole network trained on the target, from the same grid for every snapshot.

SGD with Nesterov momentum; the rate falls from the grid's value to 0 along half a cosine. The grid is tried on the
training part, chosen on validation, and the choice trained once more on both.
"""

import copy
import itertools
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lrbench.config.protocols import Finetune
from lrbench.config.schedule import cosine_rate
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.core.seeds import derive
from lrbench.data.batches import Batches
from lrbench.data.prefetch import training_batches
from lrbench.models.networks import InputNormalisation, forward_all, penultimate, placed, seed_draws
from lrbench.models.tensors import mismatches
from lrbench.transfer.metrics import headline
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.selection import Choice, on_edge
from lrbench.transfer.target import Development

Indices = npt.NDArray[np.int64]

# Updates between two looks at the loss, for which a GPU is waited for.
_LOOK = 100
# A run that takes longer is kept on its way so often.
SAVE_SECONDS = 300.0


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
        device: Where the network is trained.
        points: The grid's points that are done already, and where others are kept.
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
        points: Points,
    ) -> None:
        self._model = model
        self._development = development
        self._classes = classes
        self._size = size
        self._normalise = normalise
        self._settings = settings
        self._seed = seed
        self._device = device
        self._points = points
        self._course = _Course((settings.updates,), 0)

    def select(self, train: Indices, validation: Indices, *, metric: str, control: Control) -> Choice:
        """Try the whole grid on `train` and score each point on `validation`.

        A point whose loss, weights or logits are not finite counts as diverged and is never chosen, nor is one that was given
        up (`halving`). Of equal scores the smaller rate wins, then the larger decay.

        Raises:
            FailureError: Every point diverged.
        """
        rates, decays = sorted(self._settings.rates), sorted(self._settings.decays, reverse=True)
        runs = [_Run(self, train, rate, decay) for rate, decay in itertools.product(rates, decays)]
        ends = _rungs(self._settings.updates) if self._settings.halving else ()
        self._course = _Course((*ends, self._settings.updates), len(runs))
        for end in (*ends, self._settings.updates):
            going = [run for run in runs if run.going]
            for number, run in enumerate(going):
                self._course.at(end, number)
                run.reach(end, validation, metric, control)
                # One network at a time where none is gone on with.
                if end == self._settings.updates:
                    run.forget()
            if end < self._settings.updates:
                _give_up_half(going, end)
        candidates = [run.candidate for run in runs]
        alive = [run.candidate for run in runs if run.finished]
        if not alive:
            raise FailureError(
                f"fine-tuning diverged at every learning rate of the grid ({', '.join(f'{rate:g}' for rate in rates)}). "
                "Put smaller ones into finetune.rates."
            )
        best = max(alive, key=lambda candidate: candidate["score"])
        chosen = {name: best[name] for name in ("learning_rate", "weight_decay")}
        # A decay of 0 is the end of the road, not the edge of a grid that could go on.
        outermost = [decays[0], *(decay for decay in decays[-1:] if decay > 0)]
        edge = on_edge(candidates, "learning_rate", (rates[0], rates[-1])) or on_edge(
            candidates, "weight_decay", outermost
        )
        return Choice(chosen=chosen, candidates=tuple(candidates), edge=edge, metric=metric)

    def fit(self, choice: Choice, control: Control) -> "Finetuned":
        """Train with the chosen hyper-parameters on training and validation images together.

        Raises:
            FailureError: The loss, or the network after the last update, is not finite.
        """
        everything = np.arange(len(self._development.labels))
        rate, decay = float(choice.chosen["learning_rate"]), float(choice.chosen["weight_decay"])
        self._course.at_refit()
        run = _Run(self, everything, rate, decay, purpose="fit")
        run.train(self._settings.updates, control)
        if run.diverged:
            raise FailureError(
                f"fine-tuning diverged on training and validation images together at learning rate {rate:g}, which was "
                "stable on the training images alone. Put smaller rates into finetune.rates."
            )
        return Finetuned(self, run.model)

    def _fresh(self) -> nn.Module:
        # On the CPU, whose generator draws the same new classifier on every machine.
        model = copy.deepcopy(self._model).cpu()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self._seed, "classifier"))
            model.reset_classifier(self._classes)  # type: ignore[operator]
        model.requires_grad_(True)
        return placed(model, self._device)

    def _scores(self, model: nn.Module, pixels: Any, indices: Indices | None = None) -> torch.Tensor:
        # In single precision whatever training's was: in bfloat16 logits tie, and the class that comes first wins.
        return forward_all(model, pixels, self._normalise, indices=indices)

    def _precision(self) -> torch.autocast:
        low = self._settings.precision == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=low)


class _Run:
    """One training run of a point of the grid, which may stop on the way and go on.

    Attributes:
        candidate: The point, with its score on validation so far.
        diverged: Whether a loss was not finite.
        going: Whether it is still in the running.
    """

    def __init__(
        self, owner: Finetuning, subset: Indices, rate: float, decay: float, *, purpose: str = "selection"
    ) -> None:
        self.candidate: dict[str, Any] = {"learning_rate": rate, "weight_decay": decay}
        self._purpose = purpose
        self.diverged = False
        self.going = True
        self._owner, self._subset, self._rate, self._decay = owner, subset, rate, decay
        self._update = 0
        # Time that went into it before an interruption.
        self._spared = 0.0
        self._begun: tuple[nn.Module, torch.optim.Optimizer] | None = None

    @property
    def model(self) -> nn.Module:
        """The network as it is."""
        assert self._begun is not None
        return self._begun[0]

    @property
    def finished(self) -> bool:
        """Whether it was trained to the end."""
        return self.going and not self.diverged

    def train(self, end: int, control: Control) -> None:
        """Go on to update number `end`."""
        owner, settings = self._owner, self._owner._settings
        model, optimiser = self._begun = self._begun or self._begin(end)
        batches = Batches(
            pixels=owner._development.pixels,
            labels=owner._development.labels,
            seed=derive(owner._seed, "finetune"),
            # Small tasks may have fewer images than a batch.
            batch=min(settings.batch, len(self._subset)),
            size=owner._size,
            augmentation=settings.augmentation,
            subset=self._subset,
        )
        model.train()
        losses: list[torch.Tensor] = []
        started = saved = time.monotonic()
        with (
            torch.random.fork_rng(devices=[]),
            closing(training_batches(batches, self._update, end, owner._device)) as fed,
        ):
            for images, labels in fed:
                stopping = control.stop_requested()
                if stopping or time.monotonic() - saved > SAVE_SECONDS:
                    self._keep(model, optimiser, losses, time.monotonic() - started)
                    saved = time.monotonic()
                if stopping:
                    raise InterruptedWork(
                        f"stopped while fine-tuning; the cells already done are kept, {len(owner._points)} scores of this "
                        f"one's grid, and the network in work after {self._update:,} of {settings.updates:,} updates. Run the "
                        "same command again to go on."
                    )
                for group in optimiser.param_groups:
                    group["lr"] = cosine_rate(self._rate, self._update, settings.updates)
                # Networks that drop at random do so by the update's number, whatever was computed before.
                seed_draws(derive(owner._seed, "dropping", self._update), owner._device)
                with owner._precision():
                    logits = model(owner._normalise(images))
                loss = nn.functional.cross_entropy(logits.float(), labels.to(owner._device, non_blocking=True))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(loss.detach())
                self._update += 1
                if self._update % _LOOK == 0 and not bool(torch.isfinite(losses[-1])):
                    # Nothing brings it back.
                    break
                control.progress(owner._course.done(self._update), owner._course.total, "updates")
        # The last update's loss was of the weights before it.
        ends = [torch.isfinite(each).all() for each in model.state_dict().values() if each.is_floating_point()]
        self.diverged = not bool(torch.stack([*ends, torch.isfinite(torch.stack(losses)).all()]).all())
        # Those of a grid that wait for their next rung need none.
        optimiser.zero_grad(set_to_none=True)
        model.eval()

    @property
    def _name(self) -> str:
        return f"{self._purpose} {self._rate!r} {self._decay!r}"

    def _keep(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, losses: list[torch.Tensor], seconds: float
    ) -> None:
        """Write down how far it is, where that is worth going on from."""
        if self._update and all(bool(torch.isfinite(each).all()) for each in (*losses, *model.state_dict().values())):
            content = {"update": self._update, "weights": model.state_dict(), "optimiser": optimiser.state_dict()}
            self._owner._points.keep(self._name, {**content, "seconds": self._spared + seconds})

    def _begin(self, end: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = self._owner._fresh()
        momentum = self._owner._settings.momentum
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=self._rate,
            momentum=momentum,
            nesterov=momentum > 0,
            # The grid's decays are products of rate and decay, so that every rate is tried with the same shrinkage.
            weight_decay=self._decay / self._rate,
            fused=True,
        )
        kept = self._owner._points.kept(self._name)
        shapes = {} if kept is None else {name: tuple(tensor.shape) for name, tensor in kept["weights"].items()}
        if kept is not None and kept["update"] < end and not mismatches(model, shapes):
            model.load_state_dict(kept["weights"])
            optimiser.load_state_dict(kept["optimiser"])
            self._update, self._spared = int(kept["update"]), float(kept["seconds"])
            self._owner._points.spared[self._purpose] += self._spared
        return model, optimiser

    def reach(self, end: int, validation: Indices, metric: str, control: Control) -> None:
        """Have the score after update number `end`: known from before an interruption, or trained for."""
        point = (self._rate, self._decay, end)
        found = self._owner._points.get(point)
        if found is None:
            started = time.perf_counter()
            self.train(end, control)
            found = self._judged(validation, metric)
            self._owner._points.put(point, found, time.perf_counter() - started + self._spared)
            self._spared = 0.0
        self.candidate |= found
        self.diverged = "diverged" in found
        if self.diverged:
            self.give_up(int(found["updates"]))

    def _judged(self, validation: Indices, metric: str) -> dict[str, Any]:
        if self.diverged:
            return {"score": 0.0, "diverged": True, "updates": self._update}
        development = self._owner._development
        scores = self._owner._scores(self.model, development.pixels, validation)
        # Finite weights may still be too large to compute with.
        if not bool(torch.isfinite(scores).all()):
            self.diverged = True
            return self._judged(validation, metric)
        return {"score": headline(scores, torch.from_numpy(development.labels[validation]), metric)}

    def give_up(self, update: int) -> None:
        """Take it out of the running after so many updates."""
        self.going = False
        self.candidate["updates"] = update
        self.forget()

    def forget(self) -> None:
        """Let go of the network."""
        self._begun = None


class _Course:
    """How far a cell's updates are: those of all networks of the grid, then those of the refit.

    Args:
        ends: Update numbers to which networks are trained before they are compared, rising.
        networks: Points of the grid; after each comparison the better half goes on.

    Attributes:
        total: All updates, if none is given up.
    """

    def __init__(self, ends: Sequence[int], networks: int) -> None:
        self._stretches: dict[int, tuple[int, int]] = {}
        before = start = 0
        for end in ends:
            self._stretches[end] = before, start
            before += networks * (end - start)
            networks, start = max(1, (networks + 1) // 2), end
        self._refit = before
        self.total = before + ends[-1]
        self._before = self._start = 0

    def at(self, end: int, number: int) -> None:
        """The network of such a number is trained to update `end`: what was to be done before it is done, or spared."""
        before, self._start = self._stretches[end]
        self._before = before + number * (end - self._start)

    def at_refit(self) -> None:
        """The last network is trained."""
        self._before, self._start = self._refit, 0

    def done(self, update: int) -> int:
        """Updates done when the network is at such an update."""
        return self._before + max(0, update - self._start)


def _rungs(updates: int) -> tuple[int, ...]:
    """After how many updates the worse half is given up."""
    return tuple(sorted({updates // share for share in (8, 4, 2)} - {0, updates}))


def _give_up_half(runs: list[_Run], update: int) -> None:
    alive = sorted((run for run in runs if run.going), key=lambda run: run.candidate["score"], reverse=True)
    for run in alive[max(1, (len(alive) + 1) // 2) :]:
        run.give_up(update)


class Finetuned:
    """A fine-tuned network."""

    def __init__(self, owner: Finetuning, model: nn.Module) -> None:
        self._owner = owner
        self._model = model
        self.diagnostics: dict[str, Any] = {"updates": owner._settings.updates}

    def scores(self, pixels: Any) -> torch.Tensor:
        """Logits of every image. Shape `(N, C)`.

        Raises:
            FailureError: Some are not finite.
        """
        scores = self._owner._scores(self._model, pixels)
        if not bool(torch.isfinite(scores).all()):
            raise FailureError(
                "fine-tuning ended in a network whose answers are not finite, though its loss was. Put smaller rates into "
                "finetune.rates."
            )
        return scores

    def features(self) -> torch.Tensor:
        """Features before the classifier of the images that were trained on. Shape `(N, D)`."""
        read = partial(penultimate, self._model)
        return forward_all(read, self._owner._development.pixels, self._owner._normalise)
