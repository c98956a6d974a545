"""Batches made ahead of their use, so that a GPU does not wait for images to be read and cut.

Batches are pure functions of the update's number, so what is fed does not depend on how many threads make it.
"""

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

Batch = tuple[torch.Tensor, torch.Tensor]

# More threads than this wait for the interpreter's lock.
_MOST_THREADS = 16


class MakesBatches(Protocol):
    """What is fed from: `lrbench.data.batches.Batches`."""

    def at(self, update: int) -> Batch:
        """Images and labels of an update."""
        ...


def feeding_threads(device: torch.device) -> int:
    """How many threads make batches ahead: none on a CPU, whose cores have enough to do; else as many as there are."""
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, _MOST_THREADS))


def feed(batches: MakesBatches, first: int, last: int, *, threads: int, pin: bool = False) -> Generator[Batch]:
    """The batches of updates `first … last - 1`, in order.

    Close the iterator (`contextlib.closing`) when fewer are taken; its threads then end with the batches in the making.

    Args:
        batches: Makes them.
        first: Number of the first update.
        last: One after the last.
        threads: How many make batches ahead, each one batch at a time; 0 to make each when it is asked for.
        pin: Whether images lie in page-locked memory, from which a GPU copies while it computes.

    Raises:
        Exception: Whatever making a batch raised, when its turn comes.
    """
    if threads == 0:
        yield from map(batches.at, range(first, last))
        return

    def make(update: int) -> Batch:
        images, labels = batches.at(update)
        return (images.pin_memory(), labels.pin_memory()) if pin else (images, labels)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="feeding")
    waiting: deque[Future[Batch]] = deque()
    try:
        following = first
        while following < last or waiting:
            # One batch for each thread in the making, and as many ready.
            while following < last and len(waiting) < 2 * threads:
                waiting.append(pool.submit(make, following))
                following += 1
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
