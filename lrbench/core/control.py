"""Progress reports and stop requests of long work."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


def rounded_duration(seconds: float) -> str:
    """Return an estimated duration in words: `about 40 s`, `about 3 min`, `about 2.5 h`."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"about {hours:.1f} h" if hours < 10 else f"about {hours:,.0f} h"


class Control:
    """Connects long work to its caller. This base class shows nothing; work stops after `stop` is called."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """Request a stop at the next step."""
        self._stopped = True

    def stop_requested(self) -> bool:
        """Return True if the work should save its state and end."""
        return self._stopped

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report the progress of the current piece of work."""

    def part(self, number: int, total: int, name: str) -> None:
        """Report that the next of several parts starts.

        Args:
            number: Its number, from 1.
            total: Number of parts.
            name: Its name.
        """

    def say(self, text: str) -> None:
        """Report one line of text."""

    def waiting(self) -> AbstractContextManager[None]:
        """Return a context in which training waits for a device or for images."""
        return nullcontext()


@contextmanager
def stopping_on_signals(control: Control) -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or end of the terminal into a request to stop; a second Ctrl-C interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and control.stop_requested():
            raise KeyboardInterrupt
        control.stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup ignores SIGHUP; keep that.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def waiting_for(items: Iterable[Item], control: Control) -> Iterator[Item]:
    """Yield items, and tell a control while the next one is awaited."""
    iterator = iter(items)
    while True:
        with control.waiting():
            item = next(iterator, None)
        if item is None:
            return
        yield item
