"""What people see of long work."""

import sys

import pytest

from lrbench.cli.progress import Display


@pytest.mark.parametrize("terminal", [False, True])
def test_what_several_jobs_say_is_shown_once_and_as_it_is(monkeypatch, capfd, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with Display(2) as display:
        for _ in range(2):
            display.said("not used: c0/photo [red]1.heic")
        display.said("something else")
    shown = capfd.readouterr().err
    assert shown.count("not used: c0/photo [red]1.heic") == 1 and shown.count("something else") == 1
