"""How long work reports its progress, and learns that it should stop."""

import signal
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Generic, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")


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


class Kept(Generic[Parameters, Made]):
    """A function whose last results are kept, by all of its arguments but who watches the work.

    Args:
        make: Takes hashable arguments and, anywhere among them, a `Control`.
        most: How many results are kept.
    """

    def __init__(self, make: Callable[Parameters, Made], most: int) -> None:
        self._make, self._most = make, most
        self._found: OrderedDict[Hashable, Made] = OrderedDict()

    def __call__(self, *arguments: Parameters.args, **named: Parameters.kwargs) -> Made:
        """The result for these arguments, made now or before."""
        every = (*arguments, *named.values())
        key = tuple(each for each in every if not isinstance(each, Control))
        if key not in self._found:
            # What is left over goes first: two data sets need not be in memory at once.
            while len(self._found) >= self._most:
                self._found.popitem(last=False)
            self._found[key] = self._make(*arguments, **named)
        self._found.move_to_end(key)
        return self._found[key]

    def cache_clear(self) -> None:
        """Forget everything."""
        self._found.clear()


def kept(most: int) -> Callable[[Callable[Parameters, Made]], Kept[Parameters, Made]]:
    """Decorates a function so that its last `most` results are kept, whoever watches the work."""
    return lambda make: Kept(make, most)
