"""Measure inference on one CPU core by batch size: `python benchmark/speed/inference_batches.py`.

Prints user and system time of all images, the lower of three measurements. Larger batches than `forward_all` chooses cost
system time, because the C library returns their activations to the system and maps them again.
"""

import resource
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config import load_suite
from lrbench.models.devices import to_device
from lrbench.models.folding import fold_batchnorm
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.networks import create_model, penultimate

_QUICK = load_suite("quick").model
# Architecture, arguments, height and width, number of images.
_CASES: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    (_QUICK.architecture, _QUICK.arguments, 48, 1024),
    ("resnet18", {}, 64, 512),
    ("resnet18", {}, 224, 128),
)
_BATCHES = (None, 16, 64, 128, 256)
_REPETITIONS = 3


class _Images:
    """Random images in memory."""

    plain = None

    def __init__(self, count: int, size: int) -> None:
        self._images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def evaluation(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self._images[indices]

    def resized(self, index: int) -> npt.NDArray[np.uint8]:
        return self._images[index]


def _used() -> npt.NDArray[np.float64]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([usage.ru_utime, usage.ru_stime])


def main() -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    normalise = InputNormalisation([0.5] * 3, [0.25] * 3, device)
    for architecture, arguments, size, count in _CASES:
        model = fold_batchnorm(to_device(create_model(architecture, arguments, classes=10, seed=0), device).eval())
        images = _Images(count, size)
        # The C library keeps larger blocks after it has seen the first of them.
        forward_all(partial(penultimate, model), images, normalise, batch=256)
        for batch in _BATCHES:
            if batch is not None and batch > count:
                continue
            times = []
            for _ in range(_REPETITIONS):
                before = _used()
                forward_all(partial(penultimate, model), images, normalise, batch=batch)
                times.append(_used() - before)
            user, system = min(times, key=np.sum)
            name = "as chosen" if batch is None else batch
            print(f"{architecture} at {size} px, {count} images, batch {name}: {user:.2f} + {system:.2f} s", flush=True)


if __name__ == "__main__":
    main()
