"""Training batches prepared ahead of their use by threads, so that a GPU does not wait for images.

A batch is a function of its update number, so the number of threads does not change what is trained on.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import torch

from lrbench.core.machine import feeding_cores
from lrbench.data.batches import Batches, allocate_bytes
from lrbench.data.device_images import crop_layout, images_on_device, resize_crops

Batch = tuple[torch.Tensor, torch.Tensor]
Tensors = TypeVar("Tensors", bound=tuple[torch.Tensor, ...])

# More threads only wait for the interpreter lock.
_MAX_THREADS = 16


def prefetch_threads(device: torch.device) -> int:
    """Return the number of threads that prepare batches: this process's share of the cores; 0 if the CPU itself trains."""
    if device.type == "cpu":
        return 0
    return max(1, min(feeding_cores() - 1, _MAX_THREADS))


def training_batches(batches: Batches, first: int, last: int, device: torch.device) -> Generator[Batch]:
    """Yield the batches of updates `first … last - 1` for a device.

    If the images fit on a GPU, it crops and augments them itself. Else threads decode into pinned memory, and the GPU resizes
    and flips random crops; batches without random crops need no resize. On a CPU, each batch is made when it is requested.
    Close the generator (`contextlib.closing`) when not all batches are used.

    Yields:
        Images, uint8 of shape `(B, S, S, 3)`, and labels, int64 of shape `(B,)`; on the GPU if it makes them.
    """
    pin, threads = device.type == "cuda", prefetch_threads(device)
    device_images = images_on_device(batches.pixels, batches.size, device)
    if device_images is not None:

        def layout(update: int) -> tuple[torch.Tensor, ...]:
            samples, boxes, flips, labels = batches.recipe(update)
            return (*device_images.layout(samples, boxes, flips), labels)

        with closing(prefetch(layout, first, last, threads=1, pin=pin)) as layouts:
            for crops, largest, labels in layouts:
                yield device_images.batch(crops, largest), labels
    elif device.type != "cpu" and batches.augmentation == "crop-flip":

        def patches(update: int) -> tuple[torch.Tensor, ...]:
            content, sizes, flips, labels = batches.patches(update, _allocate_pinned if pin else allocate_bytes)
            return (content, *crop_layout(sizes, flips), labels)

        with closing(prefetch(patches, first, last, threads=threads, pin=pin)) as prefetched:
            for content, crops, largest, labels in prefetched:
                yield resize_crops(content, crops, largest, batches.size, device), labels
    else:
        yield from prefetch(batches.at, first, last, threads=threads, pin=pin)


def _allocate_pinned(count: int) -> torch.Tensor:
    # torch keeps pinned memory that is no longer used, so no page is mapped again for the next batch.
    return torch.empty(count, dtype=torch.uint8, pin_memory=True)


def prefetch(
    make: Callable[[int], Tensors], first: int, last: int, *, threads: int, pin: bool = False
) -> Generator[Tensors]:
    """Yield `make(update)` for updates `first … last - 1`, in order.

    Close the generator (`contextlib.closing`) when not all results are used; its threads then finish their current one.

    Args:
        make: Makes the tensors of an update.
        first: First update.
        last: One after the last update.
        threads: Number of threads that work ahead; 0 to make each result when it is requested.
        pin: Whether to copy tensors to pinned memory, which a GPU can copy from while it computes.

    Raises:
        Exception: Any error of `make`, when its result is due.
    """
    if threads == 0:
        yield from map(make, range(first, last))
        return

    def make_pinned(update: int) -> Tensors:
        tensors = make(update)
        return tuple(tensor.pin_memory() for tensor in tensors) if pin else tensors  # type: ignore[return-value]

    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    pending: deque[Future[Tensors]] = deque()
    try:
        next_update = first
        while next_update < last or pending:
            # Each thread has one batch in work and one that is ready.
            while next_update < last and len(pending) < 2 * threads:
                pending.append(pool.submit(make_pinned, next_update))
                next_update += 1
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
