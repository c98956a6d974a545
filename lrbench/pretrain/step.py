"""One update of the weights: forward and backward in as many pieces as memory and BatchNorm ask for, then SGD's step."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from lrbench.config.suite import Schedule, Training
from lrbench.core.distributed import ProcessGroup
from lrbench.core.errors import FailureError
from lrbench.core.machine import set_cublas_workspace
from lrbench.models.networks import InputNormalisation, batchnorm_layers, no_memory, seed_draws

# Compiling takes about a minute: a schedule with fewer updates than this would not win it back.
_COMPILE_FROM = 2000


class Step:
    """Does updates.

    Args:
        model: The network on its device, in training mode.
        schedule: Momentum and weight decay.
        training: Precision, compilation.
        normalise: Turns images into inputs on the device.
        device: Where the network lies.
        ranks: The processes whose gradients are averaged.
        micro_batch: Images in one forward and backward pass; None for all that a process is given.
        updates: How many updates its schedule has: what is compiled for one stage serves the others too.
        say: Told what had to be done otherwise than asked.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        training: Training,
        normalise: InputNormalisation,
        device: torch.device,
        ranks: ProcessGroup,
        *,
        micro_batch: int | None,
        updates: int,
        say: Callable[[str], None],
    ) -> None:
        self.micro_batch = micro_batch
        self._model, self._normalise, self._device, self._say, self._ranks = model, normalise, device, say, ranks
        self._precision = training.precision
        self._random = drops_at_random(model)
        self._shares_statistics = bool(batchnorm_layers(model))
        wanted = device.type == "cuda" and updates >= _COMPILE_FROM if training.compile is None else training.compile
        # Compiled in place: the names in the state dict stay those of the network.
        self._unproven = wanted
        if wanted:
            model.compile(dynamic=False)
        self.optimiser = torch.optim.SGD(
            model.parameters(),
            lr=schedule.rates[0],
            momentum=schedule.momentum,
            nesterov=schedule.nesterov,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self._forward: Any = model
        if not ranks.is_single:
            parallel: Any = nn.parallel.DistributedDataParallel
            # BatchNorm's running statistics are each process's own; the first one's are kept. Newer versions of torch have
            # another word for that.
            known = inspect.signature(parallel).parameters
            own = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            self._forward = parallel(model, **{own: False})

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, rate: float, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do one update.

        Args:
            images: uint8 of shape `(B, S, S, 3)`, this process's share of the batch.
            labels: Shape `(B,)`.
            rate: The learning rate.
            seed: Of whatever the network draws at random.

        Returns:
            The mean loss and the number of correct predictions, both on the device.

        Raises:
            FailureError: There is not memory enough.
        """
        labels = labels.to(self._device, non_blocking=True)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        while (found := self._tried(images, labels, seed)) is None:
            # Outside the handler, whose traceback holds the activations that there was no room for.
            self.optimiser.zero_grad(set_to_none=True)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        self._unproven = False
        self.optimiser.step()
        return found

    def close(self) -> None:
        """Leave the network as it came: not compiled."""
        _uncompile(self._model)

    def _tried(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Forward and backward; None where they failed and are to be done again in another way."""
        try:
            return self._backward(images, labels, seed)
        except Exception as error:
            # What compilers raise has no common class.
            if no_memory(error):
                self._use_less(len(labels), error)
            elif self._unproven:
                self._go_on_uncompiled(error)
            else:
                raise
        return None

    def _backward(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        seed_draws(seed, self._device)
        self.optimiser.zero_grad(set_to_none=True)
        total = len(labels)
        size = self.micro_batch or total
        pieces = list(zip(torch.split(self._normalise(images), size), torch.split(labels, size), strict=True))
        losses, correct = [], []
        for position, (inputs, targets) in enumerate(pieces):
            with self._quiet(position < len(pieces) - 1):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                    logits = self._forward(inputs)
                    loss = nn.functional.cross_entropy(logits, targets)
                # A piece counts by its images, so that the gradient is the batch's whatever the pieces.
                share = loss if len(pieces) == 1 else loss * (len(targets) / total)
                share.backward()  # type: ignore[no-untyped-call]
            losses.append(share.detach())
            correct.append((logits.detach().argmax(1) == targets).sum())
        if len(pieces) == 1:
            return losses[0], correct[0]
        return torch.stack(losses).sum(), torch.stack(correct).sum()

    def _quiet(self, quiet: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients once an update, with the last piece."""
        return self._forward.no_sync() if quiet and not self._ranks.is_single else nullcontext()

    def _use_less(self, total: int, error: Exception) -> None:
        now = self.micro_batch or total
        # Under BatchNorm only an even share will do.
        less = next((each for each in range(now // 2, 0, -1) if total % each == 0), 1)
        why = None
        if self._shares_statistics:
            why = "under BatchNorm fewer images would share statistics, which is another training"
        elif self._random:
            why = "its random dropping depends on the pieces"
        elif not self._ranks.is_single:
            why = "the other processes would not know"
        elif now == 1:
            why = "a single image is too much"
        if why is not None:
            raise FailureError(
                f"there is not memory enough for {now} images at a time, and taking fewer is no choice of lrbench's: {why}. "
                f"Everything up to the last saved state is kept. Free memory, set "
                f'training.precision="bfloat16" under a new name, or say --set training.micro_batch={less}, and run '
                "the same command again."
            ) from error
        self.micro_batch = less
        self._say(f"not memory enough for {now} images at a time: from here on {less}, which gives the same updates")

    def _go_on_uncompiled(self, error: Exception) -> None:
        self._unproven = False
        _uncompile(self._model)
        first = str(error).strip().splitlines() or [type(error).__name__]
        self._say(f"the network could not be compiled ({first[0][:200]}); training goes on without")


def _uncompile(model: nn.Module) -> None:
    # What `Module.compile` sets; torch has no public way back.
    model._compiled_call_impl = None


def drops_at_random(model: nn.Module) -> bool:
    """Whether a network drops activations or paths at random, as layers or as functions that read a rate of the module's."""
    return any(
        isinstance(value, float) and value > 0
        for module in model.modules()
        for name, value in vars(module).items()
        if "drop" in name.lower() or (name == "p" and "drop" in type(module).__name__.lower())
    )


@contextmanager
def arithmetic(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """How a GPU computes meanwhile: the same bits each time, or by the convolutions that are fastest for these shapes."""
    if device.type != "cuda":
        yield
        return
    if deterministic:
        set_cublas_workspace()
    searches = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = searches
