"""Recovery of an update that runs out of memory, or whose network does not compile."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lrbench.config.pretraining import Training
from lrbench.core.distributed import ProcessGroup
from lrbench.core.errors import OutOfMemory
from lrbench.models.devices import is_out_of_memory
from lrbench.models.networks import batchnorm_layers, drops_at_random

# Compiling takes about a minute, which a schedule with fewer updates does not win back.
_COMPILE_FROM = 2000

Outcome = tuple[Tensor, Tensor]
"""Mean loss and number of correct predictions of one update, both on the device."""


class Recovery:
    """Compile a network, and run its forward and backward pass again where compilation or memory fails.

    Args:
        model: The network on its device.
        training: Whether to compile; None compiles on a GPU where the schedule is long enough.
        device: Device of the network.
        ranks: The processes that train together.
        micro_batch: Images in one forward and backward pass; None for a whole batch.
        updates: Updates of the whole schedule.
        say: Called with a warning when micro-batch size or compilation changes.

    Attributes:
        micro_batch: The micro-batch size in use.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        device: torch.device,
        ranks: ProcessGroup,
        *,
        micro_batch: int | None,
        updates: int,
        say: Callable[[str], None],
    ) -> None:
        self.micro_batch = micro_batch
        self._model, self._device, self._ranks, self._say = model, device, ranks, say
        compiles = device.type == "cuda" and updates >= _COMPILE_FROM if training.compile is None else training.compile
        # A failure counts as the compiler's until the compiled network has run once.
        self._unproven = compiles
        if compiles:
            # In place: names in the state dict stay the network's.
            model.compile(dynamic=False)

    def micro_batches(self, inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Yield the inputs and labels of each micro-batch, and whether it is the last."""
        size = self.micro_batch or len(labels)
        parts = list(zip(torch.split(inputs, size), torch.split(labels, size), strict=True))
        for number, (part, targets) in enumerate(parts, start=1):
            yield part, targets, number == len(parts)

    def run(
        self,
        forward_backward: Callable[[Tensor, Tensor], Outcome],
        optimiser: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
    ) -> Outcome:
        """Call `forward_backward`; after a failure, change the setting that caused it and call it again.

        Raises:
            OutOfMemory: Out of memory, and smaller micro-batches would change the training.
        """
        while True:
            try:
                outcome = forward_backward(images, labels)
                break
            except Exception as error:
                # Compilers raise errors of no common class.
                if is_out_of_memory(error):
                    self._shrink(len(labels), error)
                elif self._unproven:
                    self._stop_compiling(error)
                else:
                    raise
            # Outside the handler, whose traceback holds the activations.
            optimiser.zero_grad(set_to_none=True)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        self._unproven = False
        return outcome

    def close(self) -> None:
        """Undo compilation."""
        # The attribute that `Module.compile` sets; torch has no public way back.
        self._model._compiled_call_impl = None

    def _shrink(self, total: int, error: Exception) -> None:
        size = self.micro_batch or total
        # Under BatchNorm, micro-batches must be of equal size.
        smaller = next((count for count in range(size // 2, 0, -1) if total % count == 0), 1)
        reason = None
        if batchnorm_layers(self._model):
            reason = "BatchNorm statistics would change"
        elif drops_at_random(self._model):
            reason = "random dropping would change"
        elif not self._ranks.is_single:
            reason = "all processes must use the same size"
        elif size == 1:
            reason = "one image is the smallest micro-batch"
        if reason is not None:
            raise OutOfMemory(
                f"Out of memory with {size} images per micro-batch. lrbench cannot lower it because {reason}. Free memory, "
                f'use training.precision="bfloat16" under a new suite name, or pass --set training.micro_batch={smaller}.'
            ) from error
        self.micro_batch = smaller
        self._say(f"Out of memory with {size} images per micro-batch; using {smaller}, which gives the same updates.")

    def _stop_compiling(self, error: Exception) -> None:
        self._unproven = False
        self.close()
        first = str(error).strip().splitlines() or [type(error).__name__]
        self._say(f"Training continues without compilation, which failed: {first[0][:200]}")
