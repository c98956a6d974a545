"""A suite's job as a Ray task: its messages to the driver, and the driver's request to stop."""

import contextlib
import importlib
import os
import time
from dataclasses import dataclass
from typing import Any

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.locks import use_leases
from lrbench.core.machine import available_cores
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job
from lrbench.jobs.worker import WorkerSettings, outcome, prepare_process

# Seconds between two exchanges of a job with the driver.
_POLL_SECONDS = 1.0
# Seconds after which a job without a driver gives up.
_LOST_SECONDS = 60.0


def load_ray() -> Any:
    """Import Ray, an optional library whose types are incomplete.

    Raises:
        ImportError: It is not installed.
    """
    return importlib.import_module("ray")


class Board:
    """Messages from jobs to the driver, and the driver's request to stop. A Ray actor on the driver's node."""

    def __init__(self) -> None:
        self._messages: list[tuple[Any, ...]] = []
        self._stopped = False

    def exchange(self, messages: list[tuple[Any, ...]]) -> bool:
        """Add messages of a job; return whether it should stop."""
        self._messages += messages
        return self._stopped

    def take(self, stop: bool) -> list[tuple[Any, ...]]:
        """Return all messages since the last call, and request a stop."""
        self._stopped |= stop
        messages, self._messages = self._messages, []
        return messages


class _JobControl(Control):
    """Exchanges progress and stop requests with the board, at most once a second."""

    def __init__(self, board: Any, name: str) -> None:
        super().__init__()
        self._board, self._name = board, name
        self._pending: list[tuple[Any, ...]] = [("started", name)]
        self._progress: tuple[Any, ...] | None = None
        self._exchanged, self._answered = 0.0, time.monotonic()
        self.exchange()

    def stop_requested(self) -> bool:
        self._exchange_if_due()
        return super().stop_requested()

    def progress(self, done: int, total: int, unit: str) -> None:
        self._progress = "progress", self._name, done, total, unit
        self._exchange_if_due()

    def say(self, text: str) -> None:
        self._pending.append(("message", text))

    def exchange(self) -> None:
        """Send all messages and learn of a stop request. Stop if the driver has been gone for a while."""
        ray = load_ray()

        # Background threads add messages in the meantime.
        pending, self._pending = self._pending, []
        messages = [*pending, *([self._progress] if self._progress else [])]
        self._exchanged = time.monotonic()
        try:
            stop = ray.get(self._board.exchange.remote(messages), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            self._pending = pending + self._pending
            stop = time.monotonic() - self._answered > _LOST_SECONDS
        else:
            self._progress, self._answered = None, time.monotonic()
        if stop:
            self.stop()

    def _exchange_if_due(self) -> None:
        if time.monotonic() - self._exchanged > _POLL_SECONDS:
            self.exchange()


@dataclass(frozen=True, kw_only=True)
class Room:
    """Resources that a job needs on its node.

    Attributes:
        gpus: GPUs; none are visible to the job if it is 0.
        cpus: CPU cores.
    """

    gpus: float
    cpus: int


def perform(
    job: Job, suite: Suite, place: Place, board: Any, room: Room, folder: str, leases: bool
) -> tuple[str, object]:
    """Run a job in a Ray worker; return `done` with its report, or `failed` with its error."""
    # Task files may be named relative to it.
    with contextlib.suppress(OSError):
        os.chdir(folder)
    if leases:
        use_leases()
    # Ray hides no GPUs from a job that asks for none.
    gpu = None if room.gpus else ""
    processes = max(1, int(room.gpus))
    feeding = processes * max(1, available_cores() // room.cpus)
    prepare_process(WorkerSettings(threads=room.cpus, gpu=gpu, feeding=feeding))
    control = _JobControl(board, job.name)
    result = outcome(job, suite, place, control, processes)
    control.exchange()
    return result
