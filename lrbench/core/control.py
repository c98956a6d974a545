"""How long work reports its progress, and learns that it should stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def about(seconds: float) -> str:
    """Return an estimated duration in words: `about 40 s`, `about 3 min`, `about 2.5 h`."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"about {hours:.1f} h" if hours < 10 else f"about {hours:,.0f} h"


class Control:
    """Controls work in this process: progress is not shown, and work stops once `stop` was called."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """Ask the work to stop at its next step."""
        self._stopped = True

    def stop_requested(self) -> bool:
        """Whether the work should save and end."""
        return self._stopped

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report how much of the current piece of work is done."""

    def say(self, text: str) -> None:
        """Report something in one line."""


@contextmanager
def stopping_on_signals(control: Control) -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or end of the terminal into a request to stop; a second Ctrl-C interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and control.stop_requested():
            raise KeyboardInterrupt
        control.stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup has it ignored, and so it stays.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
