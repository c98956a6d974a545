"""Long work talks to whoever runs it: it tells how far it is, and asks whether it should stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Control:
    """Runs work in this process: progress goes nowhere, and work stops when `stop` was called."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """Ask the work to stop at its next step."""
        self._stopped = True

    def stop_requested(self) -> bool:
        """Whether the work should save what it has and end."""
        return self._stopped

    def progress(self, done: int, total: int, unit: str) -> None:
        """Tell how far the present piece of work is."""

    def say(self, text: str) -> None:
        """Tell that a piece of work is done, in one line."""


@contextmanager
def stopping_on_signals(control: Control) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second Ctrl-C interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and control.stop_requested():
            raise KeyboardInterrupt
        control.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
