"""Progress on stderr: bars on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lrbench.cli.common import is_quiet, note
from lrbench.core.control import Control, rounded_duration, stopping_on_signals
from lrbench.core.escaping import for_terminal

if TYPE_CHECKING:
    from lrbench.jobs.job import Job

# Seconds between two lines of progress without a terminal.
_LINE_SECONDS = 30.0


class _Pace:
    """Estimates the time left."""

    def __init__(self) -> None:
        self._first: tuple[int, str, int, float] | None = None

    def words(self, done: int, total: int, unit: str) -> str:
        """Return `, about 3 min left`, or an empty string before any progress."""
        now = time.monotonic()
        if self._first is None or self._first[:2] != (total, unit) or done < self._first[2]:
            self._first = total, unit, done, now
        _, _, first, since = self._first
        if done == first:
            return ""
        return f", {rounded_duration((total - done) * (now - since) / (done - first))} left"


class Display:
    """Displays the progress of jobs (a `jobs.schedule.Observer`).

    Args:
        total: Number of jobs.
        quiet: Show only finished jobs, because another process shows the rest.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._last_line: dict[str, float] = {}
        self._paces: dict[str, _Pace] = {}
        self._messages: set[str] = set()
        self._bars: Any = None
        self._overall: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Display":
        if sys.stderr.isatty() and not self._quiet and not is_quiet():
            self._bars = _bars()
            self._bars.start()
            self._overall = self._bars.add_task("jobs", total=self._total, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def started(self, job: "Job") -> None:
        """Show a job that has started."""
        self._last_line[job.name] = time.monotonic()
        if self._bars is not None and job.name not in self._tasks:
            self._tasks[job.name] = self._bars.add_task(for_terminal(job.name), total=None, rate="")

    def progressed(self, job: "Job", done: int, total: int, unit: str) -> None:
        """Show the progress of a job."""
        if self._bars is not None:
            _advance(self._bars, self._tasks[job.name], done, total, unit)
            return
        left = self._paces.setdefault(job.name, _Pace()).words(done, total, unit)
        now = time.monotonic()
        if not self._quiet and now - self._last_line.get(job.name, now) > _LINE_SECONDS:
            self._last_line[job.name] = now
            note(f"{job.name}: {done:,} of {total:,} {unit}{left}")

    def finished(self, job: "Job", line: str) -> None:
        """Show the report of a finished job."""
        self._done += 1
        if self._bars is not None:
            self._bars.remove_task(self._tasks.pop(job.name))
            self._bars.update(self._overall, completed=self._done)
            note(line, self._bars.console)
            return
        if self._quiet:
            note(line)
            return
        note(f"[{self._done}/{self._total}, {time.monotonic() - self._started:.0f} s] {line}")

    def reported(self, text: str) -> None:
        """Show a message of a job; repeated messages are shown once."""
        if text in self._messages:
            return
        self._messages.add(text)
        note(text, self._bars and self._bars.console)


@contextmanager
def showing_progress(title: str) -> Iterator[Control]:
    """Yield a control that shows progress; Ctrl-C or SIGTERM stops the work at its next step."""
    with progress_view(title) as control, stopping_on_signals(control):
        yield control


@contextmanager
def progress_view(title: str) -> Iterator[Control]:
    """Yield a control that shows progress, and leaves signals alone.

    Work of several parts (`Control.part`) has a second bar, or a line for each part. Bars hide what is printed on stdout.
    """
    bars = _bars() if sys.stderr.isatty() and not is_quiet() else None
    task = bars.add_task(for_terminal(title), total=None, rate="") if bars else None
    overall: Any = None
    name, last_line = title, time.monotonic()
    pace, parts_pace = _Pace(), _Pace()

    class Shown(Control):
        def progress(self, done: int, total: int, unit: str) -> None:
            nonlocal last_line
            if bars is not None:
                _advance(bars, task, done, total, unit)
                return
            left = pace.words(done, total, unit)
            if time.monotonic() - last_line > _LINE_SECONDS:
                last_line = time.monotonic()
                self.say(f"{name}: {done:,} of {total:,} {unit}{left}")

        def part(self, number: int, total: int, part: str) -> None:
            nonlocal name, overall
            name = part
            left = parts_pace.words(number - 1, total, "parts")
            if bars is None:
                self.say(f"[{number}/{total}] {name}{left}")
                return
            if overall is None:
                overall = bars.add_task(for_terminal(title), total=total, rate="")
            bars.update(overall, completed=number - 1, total=total)
            bars.reset(task, total=None, description=for_terminal(name), rate="")

        def say(self, text: str) -> None:
            note(text, bars and bars.console)

    control = Shown()
    with bars or nullcontext():
        yield control


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        # File names may contain brackets.
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, markup=False),
        transient=True,
    )


def _advance(bars: Any, task: Any, done: int, total: int, unit: str) -> None:
    bars.update(task, completed=done, total=total)
    speed = bars.tasks[bars.task_ids.index(task)].speed
    bars.update(task, rate=f"{speed:,.0f} {unit}/s" if speed else unit)
