"""Saving of the progress in the background, while training continues."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from lrbench.pretraining.state import Progress


class Saver:
    """Saves one progress at a time in a thread; the next waits until the last is on the disk.

    Args:
        write: Writes a progress with tensors on the CPU, atomically.
        device: Device of the tensors passed to `save`.
    """

    def __init__(self, write: Callable[[Progress], None], device: torch.device) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._pending: list[Future[None]] = []
        # A separate stream, so that copies to the CPU do not wait for training.
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def save(self, progress: Progress) -> None:
        """Save a progress, which must not change afterwards.

        Raises:
            LrbenchError: An earlier write failed.
        """
        self.wait()
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        self._pending.append(self._pool.submit(self._write_from_device, progress, ready))

    def submit(self, work: Callable[[], None]) -> None:
        """Do some work in the background, after the work already submitted.

        Raises:
            LrbenchError: Earlier work failed.
        """
        if self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(work))

    def wait(self) -> None:
        """Wait until all submitted work is done.

        Raises:
            LrbenchError: Some of it failed.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def close(self) -> None:
        """End the thread, after finishing submitted work."""
        self._pool.shutdown(wait=True)

    def _write_from_device(self, progress: Progress, ready: Any) -> None:
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                progress = on_cpu(progress)
        self._write(progress)


def on_cpu(progress: Progress) -> Progress:
    """Return a progress whose tensors are on the CPU."""
    return replace(
        progress,
        weights={name: tensor.cpu() for name, tensor in progress.weights.items()},
        momentum={name: tensor.cpu() for name, tensor in progress.momentum.items()},
        mean={name: tensor.cpu() for name, tensor in progress.mean.items()},
        tail={name: tensor.cpu() for name, tensor in progress.tail.items()},
        moving={name: tensor.cpu() for name, tensor in progress.moving.items()},
    )
