"""Batches made ahead of their use, so that a GPU does not wait for images to be read and cut.

Batches are pure functions of the update's number, so what is fed does not depend on how many threads make it.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import torch

from lrbench.core.machine import cores_here, processes_here
from lrbench.data.batches import Batches
from lrbench.data.resident import cut, layout_of, resident

Batch = tuple[torch.Tensor, torch.Tensor]
Made = TypeVar("Made", bound=tuple[torch.Tensor, ...])

# More threads than this wait for the interpreter's lock.
_MOST_THREADS = 16


def feeding_threads(device: torch.device) -> int:
    """How many threads make batches ahead: none on a CPU, whose cores have enough to do; else its share of them."""
    if device.type == "cpu":
        return 0
    return max(1, min(cores_here() // processes_here() - 1, _MOST_THREADS))


def training_batches(batches: Batches, first: int, last: int, device: torch.device) -> Generator[Batch]:
    """The batches of updates `first … last - 1` for a device, made as suits it.

    A GPU that can hold the data set cuts and augments its batches itself. Else threads decode ahead into page-locked memory,
    and the GPU resizes and flips the random crops; without random crops nothing is resized, and batches come as they are. A
    CPU makes each when it is asked for. Close the iterator (`contextlib.closing`) when fewer are taken.

    Returns:
        Images, uint8 of shape `(B, S, S, 3)`, and labels, int64 of shape `(B,)`; on the device where it cuts them.
    """
    pin, threads = device.type == "cuda", feeding_threads(device)
    here = resident(batches.pixels, batches.size, device)
    if here is not None:

        def laid_out(update: int) -> tuple[torch.Tensor, ...]:
            samples, boxes, flips, labels = batches.recipe(update)
            return (*here.layout(samples, boxes, flips), labels)

        with closing(feed(laid_out, first, last, threads=1, pin=pin)) as layouts:
            for crops, reach, labels in layouts:
                yield here.batch(crops, reach), labels
    elif device.type != "cpu" and batches.augmentation == "crop-flip":

        def patches(update: int) -> tuple[torch.Tensor, ...]:
            content, extents, flips, labels = batches.patches(update)
            return (torch.from_numpy(content), *layout_of(extents, flips), labels)

        with closing(feed(patches, first, last, threads=threads, pin=pin)) as fed:
            for content, crops, reach, labels in fed:
                yield cut(content, crops, reach, batches.size, device), labels
    else:
        yield from feed(batches.at, first, last, threads=threads, pin=pin)


def feed(make: Callable[[int], Made], first: int, last: int, *, threads: int, pin: bool = False) -> Generator[Made]:
    """What `make` makes for updates `first … last - 1`, in order.

    Close the iterator (`contextlib.closing`) when fewer are taken; its threads then end with the batches in the making.

    Args:
        make: Makes an update's tensors.
        first: Number of the first update.
        last: One after the last.
        threads: How many make batches ahead, each one batch at a time; 0 to make each when it is asked for.
        pin: Whether tensors lie in page-locked memory, from which a GPU copies while it computes.

    Raises:
        Exception: Whatever making a batch raised, when its turn comes.
    """
    if threads == 0:
        yield from map(make, range(first, last))
        return

    def made(update: int) -> Made:
        tensors = make(update)
        return tuple(each.pin_memory() for each in tensors) if pin else tensors  # type: ignore[return-value]

    pool = ThreadPoolExecutor(threads, thread_name_prefix="feeding")
    waiting: deque[Future[Made]] = deque()
    try:
        following = first
        while following < last or waiting:
            # One batch for each thread in the making, and as many ready.
            while following < last and len(waiting) < 2 * threads:
                waiting.append(pool.submit(made, following))
                following += 1
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
