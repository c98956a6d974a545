"""Progress bars and lines."""

import sys
from types import SimpleNamespace

import pytest

from lrbench.cli import progress
from lrbench.cli.progress import Display
from lrbench.core.control import rounded_duration


@pytest.mark.parametrize("terminal", [False, True])
def test_repeated_job_messages_are_shown_once(monkeypatch, capfd, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with Display(2) as display:
        for _ in range(2):
            display.reported("not used: c0/photo [red]1.heic")
        display.reported("something else")
    shown = capfd.readouterr().err
    assert shown.count("not used: c0/photo [red]1.heic") == 1 and shown.count("something else") == 1


def test_plain_lines_show_the_time_left(monkeypatch, capfd):
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


def test_parts_have_a_line_each(monkeypatch, capfd):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.showing_progress("transfer") as control:
        for number, name in enumerate(("a", "b", "c"), start=1):
            control.part(number, 3, name)
            now[0] += 31
            control.progress(1, 5, "images")
    assert capfd.readouterr().err.splitlines() == [
        "[1/3] a",
        "a: 1 of 5 images",
        "[2/3] b, about 62 s left",
        "b: 1 of 5 images",
        "[3/3] c, about 31 s left",
        "c: 1 of 5 images",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.4, "about 4 s"), (89, "about 89 s"), (600, "about 10 min"), (9000, "about 2.5 h"), (4e5, "about 111 h")],
)
def test_duration_has_a_fitting_unit(seconds, said):
    assert rounded_duration(seconds) == said


def test_job_lines_show_the_time_left(monkeypatch, capfd):
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
