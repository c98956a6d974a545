"""Inference: a network applied to prepared images in batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch

from lrbench.data.pixels import Pixels
from lrbench.data.prefetch import prefetch, prefetch_threads

# Threads that prepare evaluation batches.
_MOST_THREADS = 8
# Sizes of a batch.
_LEAST_IMAGES, _MOST_IMAGES = 16, 256
# Pixels of a batch on a CPU. The largest activations of larger batches are blocks that the C library takes from the system and
# returns each time.
_CPU_PIXELS = 64 * 64 * 64


class InputNormalisation:
    """Normalise uint8 images to a network's input on its device.

    Args:
        mean: Subtracted from each channel, on the scale [0, 1].
        std: Divides each channel, on the scale [0, 1].
        device: Device of the network.

    Attributes:
        device: Device of the network.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._scale = (1.0 / (255.0 * torch.tensor(std))).to(device)
        self._shift = (-torch.tensor(mean) / torch.tensor(std)).to(device)
        self.device = device

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images.

        Args:
            images: uint8, shape `(B, S, S, 3)`.

        Returns:
            float32, shape `(B, 3, S, S)`, channels last in memory.
        """
        levels = images.to(self.device, non_blocking=True).to(torch.float32)
        # On a CPU, loops over rows of 3 S numbers are faster than loops over 3 channels.
        rows, width = levels.flatten(2), levels.shape[2]
        torch.addcmul(self._shift.repeat(width), rows, self._scale.repeat(width), out=rows)
        return levels.permute(0, 3, 1, 2)


def forward_all(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixels: Pixels,
    normalise: InputNormalisation,
    *,
    indices: npt.NDArray[np.int64] | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Apply a function to evaluation crops in batches, to each image exactly once.

    Args:
        forward: Takes a network's input of shape `(B, 3, S, S)`.
        pixels: Prepared images.
        normalise: Turns them into inputs.
        indices: Images in order; None for all.
        batch: Batch size; None to choose it for the device and the size of the images.
        progress: Called with the number of images done, after each batch.

    Returns:
        The outputs in order, on the CPU. Shape `(N, …)`.
    """
    # Outputs move to the CPU at the end, so that a GPU does not wait after each batch.
    outputs = list(forward_batches(forward, pixels, normalise, indices=indices, batch=batch, progress=progress))
    return torch.cat([output.cpu() for output in outputs])


def forward_batches(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixels: Pixels,
    normalise: InputNormalisation,
    *,
    indices: npt.NDArray[np.int64] | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[torch.Tensor]:
    """Yield the outputs of `forward_all` batch by batch, on the device."""
    chosen = np.arange(len(pixels)) if indices is None else indices
    device = normalise.device
    batch = batch or _batch_size(device, pixels.evaluation(chosen[:1]).shape[1])

    def crops(number: int) -> tuple[torch.Tensor]:
        part = chosen[number * batch : (number + 1) * batch]
        return (torch.from_numpy(pixels.evaluation(part)),)

    # Each thread holds two batches in memory.
    threads = min(prefetch_threads(device), _MOST_THREADS)
    batches = prefetch(crops, 0, -(-len(chosen) // batch), threads=threads, pin=device.type == "cuda")
    with closing(batches):
        for number, (images,) in enumerate(batches, start=1):
            # Not around the `yield`: the mode would hold in the caller, too.
            with torch.inference_mode():
                output = forward(normalise(images))
            yield output
            if progress is not None:
                progress(min(number * batch, len(chosen)))


def _batch_size(device: torch.device, size: int) -> int:
    """Return the number of images in a batch; it does not depend on the machine, so that neither do the outputs.

    Args:
        device: Device of the network.
        size: Height and width of the images.
    """
    if device.type != "cpu":
        return _MOST_IMAGES
    return min(max(_CPU_PIXELS // size**2, _LEAST_IMAGES), _MOST_IMAGES)
