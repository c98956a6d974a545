"""Jobs over worker processes: order, failures, and processes that vanish."""

import os
import signal
from dataclasses import dataclass

import pytest

from lrbench.control import Control
from lrbench.engines.jobs import Job
from lrbench.engines.local import run_jobs
from lrbench.errors import FailureError, InputError, InterruptedWork


@dataclass(frozen=True, kw_only=True)
class Note(Job):
    """Writes its name into a file of the workspace."""

    def run(self, suite, place, control):
        with (place.workspace.root / "notes.txt").open("a") as file:
            file.write(f"{self.name}\n")
        return f"{self.name} noted"


@dataclass(frozen=True, kw_only=True)
class Fails(Job):
    kind: str = "input"

    def run(self, suite, place, control):
        if self.kind == "input":
            raise InputError(f"{self.name} has bad input")
        if self.kind == "surprise":
            raise ZeroDivisionError("division by zero")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""


class Watcher:
    def __init__(self):
        self.lines = []

    def started(self, job):
        pass

    def progressed(self, job, done, total, unit):
        pass

    def finished(self, job, line):
        self.lines.append(line)

    def said(self, text):
        pass


def notes(place):
    path = place.workspace.root / "notes.txt"
    return path.read_text().split() if path.is_file() else []


def test_jobs_run_after_what_they_need_and_each_once(tiny, place):
    jobs = [
        Note(name="a"),
        Note(name="b", needs=("a",)),
        Note(name="c", needs=("a",)),
        Note(name="d", needs=("b", "c")),
    ]
    watcher = Watcher()
    run_jobs(jobs, tiny, place, Control(), watcher, workers=2)
    done = notes(place)
    assert sorted(done) == ["a", "b", "c", "d"] and done[0] == "a" and done[-1] == "d"
    assert sorted(watcher.lines) == ["a noted", "b noted", "c noted", "d noted"]


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("input", InputError, "broken has bad input"),
        ("surprise", FailureError, "ZeroDivisionError: division by zero"),
        ("vanishes", FailureError, "the process that worked on `broken` ended by itself"),
    ],
)
def test_a_failed_job_stops_only_what_needs_it(tiny, place, kind, error, said):
    jobs = [
        Fails(name="broken", kind=kind),
        Note(name="needs-it", needs=("broken",)),
        Note(name="other"),
        Note(name="another", needs=("other",)),
    ]
    with pytest.raises(error, match="1 jobs that need what failed") as caught:
        run_jobs(jobs, tiny, place, Control(), Watcher(), workers=2)
    assert said in str(caught.value)
    assert sorted(notes(place)) == ["another", "other"]


def test_a_vanished_process_does_not_stop_the_rest_even_alone(tiny, place):
    with pytest.raises(FailureError, match="--workers 1"):
        run_jobs(
            [Fails(name="broken", kind="vanishes", weight=9.0), Note(name="other")],
            tiny,
            place,
            Control(),
            Watcher(),
            workers=1,
        )
    assert notes(place) == ["other"]


def test_being_asked_to_stop_begins_nothing_more(tiny, place):
    control = Control()
    control.stop()
    with pytest.raises(InterruptedWork):
        run_jobs([Note(name="a")], tiny, place, control, Watcher(), workers=1)
    assert notes(place) == []
