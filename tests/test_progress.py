"""What people see of long work."""

import sys
from types import SimpleNamespace

import pytest

from lrbench.cli import progress
from lrbench.cli.progress import Display
from lrbench.core.control import rounded_duration


@pytest.mark.parametrize("terminal", [False, True])
def test_what_several_jobs_say_is_shown_once_and_as_it_is(monkeypatch, capfd, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with Display(2) as display:
        for _ in range(2):
            display.reported("not used: c0/photo [red]1.heic")
        display.reported("something else")
    shown = capfd.readouterr().err
    assert shown.count("not used: c0/photo [red]1.heic") == 1 and shown.count("something else") == 1


def test_plain_lines_say_how_long_it_goes_on_once_that_can_be_told(monkeypatch, capfd):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.showing_progress("finetune mine") as control:
        # Half a minute for ten of a thousand: fifty minutes for the rest.
        for done, seconds in ((10, 31), (20, 31), (110, 31)):
            now[0] += seconds
            control.progress(done, 1000, "updates")
        now[0] += 31
        control.progress(1, 5, "images")
    assert capfd.readouterr().err.splitlines() == [
        "finetune mine: 10 of 1,000 updates",
        "finetune mine: 20 of 1,000 updates, about 51 min left",
        "finetune mine: 110 of 1,000 updates, about 9 min left",
        "finetune mine: 1 of 5 images",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.4, "about 4 s"), (89, "about 89 s"), (600, "about 10 min"), (9000, "about 2.5 h"), (4e5, "about 111 h")],
)
def test_a_length_of_time_is_told_in_the_unit_that_fits(seconds, said):
    assert rounded_duration(seconds) == said


def test_lines_of_a_suites_jobs_say_how_long_they_go_on(monkeypatch, capfd):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    job = SimpleNamespace(name="step/seed0/stage1")
    with progress.Display(1) as display:
        display.started(job)
        for done in (10, 20, 5, 15):
            now[0] += 31
            display.progressed(job, done, 100, "updates")
    assert capfd.readouterr().err.splitlines() == [
        "step/seed0/stage1: 10 of 100 updates",
        "step/seed0/stage1: 20 of 100 updates, about 4 min left",
        # Another cell of the job.
        "step/seed0/stage1: 5 of 100 updates",
        "step/seed0/stage1: 15 of 100 updates, about 4 min left",
    ]
