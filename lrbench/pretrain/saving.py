"""Progress saved in the background, while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from lrbench.pretrain.state import Progress


class Saver:
    """Writes one progress at a time; the next waits until the last is on the disk.

    Args:
        write: Writes a progress whose tensors lie on the CPU, whole or not at all.
        device: Where the tensors lie.
    """

    def __init__(self, write: Callable[[Progress], None], device: torch.device) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._pending: list[Future[None]] = []
        # Copies to the CPU go beside the training's own work.
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def save(self, progress: Progress) -> None:
        """Save a progress that nobody changes any more.

        Raises:
            LrbenchError: The last one could not be written.
        """
        self.wait()
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        self._pending.append(self._pool.submit(self._do, progress, ready))

    def then(self, work: Callable[[], None]) -> None:
        """Do something in the background, after what was given before.

        Raises:
            LrbenchError: Something that was given before has failed.
        """
        if self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(work))

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            LrbenchError: It could not be written.
        """
        pending, self._pending = self._pending, []
        for each in pending:
            each.result()

    def close(self) -> None:
        """End the thread; what is being written is finished."""
        self._pool.shutdown(wait=True)

    def _do(self, progress: Progress, ready: Any) -> None:
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                progress = on_cpu(progress)
        self._write(progress)


def on_cpu(progress: Progress) -> Progress:
    """A progress whose tensors lie on the CPU."""
    return replace(
        progress,
        weights={name: tensor.cpu() for name, tensor in progress.weights.items()},
        momentum={name: tensor.cpu() for name, tensor in progress.momentum.items()},
        mean={name: tensor.cpu() for name, tensor in progress.mean.items()},
    )
