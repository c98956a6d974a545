"""Statistics of the training loss at the fixed weights of an epoch's end, for the training log."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from torch import nn

from lrbench.data.batches import Batches
from lrbench.models.inference import InputNormalisation
from lrbench.pretraining.curvature import gradient_statistics

_LARGEST_BATCH = 256


class EpochStatistics:
    """Computes statistics on the same batches of training images at the end of each epoch.

    The batches are those of the first updates of pretraining, of at most 256 images, for every arm and stage: a difference
    between two epochs is one of the weights. The network is in evaluation mode, so that its state does not change.

    Args:
        model: The network, on the device.
        batches: The segment's training batches.
        normalise: Turns images into inputs on the device.
        count: Number of batches.
        batch: Images in one of them.
        decay: Weight decay, which is part of the objective.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, normalise: InputNormalisation, *, count: int, batch: int, decay: float
    ) -> None:
        self._model, self._normalise, self._count, self._decay = model, normalise, count, decay
        self._batches = replace(batches, batch=min(batch, _LARGEST_BATCH), rank=0, world=1)

    def compute(self) -> dict[str, float | None]:
        """Return the statistics by their key in the log, to eight digits."""
        device = self._normalise.device
        with _uncompiled_evaluation(self._model):
            batches = (self._batches.at(number) for number in range(self._count))
            statistics = gradient_statistics(
                self._model,
                ((self._normalise(images), labels.to(device)) for images, labels in batches),
                decay=self._decay,
            )
        return {
            f"probe_{name}": None if value is None else float(f"{value:.8g}")
            for name, value in asdict(statistics).items()
        }


@contextmanager
def _uncompiled_evaluation(model: nn.Module) -> Iterator[None]:
    """Context in which a network is in evaluation mode and not compiled: compiled code has no second derivatives."""
    was_training, compiled = model.training, model._compiled_call_impl
    model.eval()
    model._compiled_call_impl = None
    try:
        yield
    finally:
        model.train(was_training)
        model._compiled_call_impl = compiled
