"""Outside text cannot control the terminal: every printed line passes one function."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lrbench.cli import common
from lrbench.cli.progress import Display, showing_progress
from tests import trees
from tests.helpers import command

PACKAGE = Path(__file__).resolve().parents[2] / "lrbench"
EVIL = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def printing_calls(path):
    """Calls in a file that print: `print`, `typer.echo`, writes to the streams, rich's consoles, tracebacks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if re.fullmatch(
                r"print|(typer|click)\.s?echo|.*console\.print|sys\.std(out|err)\.(?!isatty).*|traceback\.print_.*",
                called,
            ):
                yield called


def test_only_cli_common_prints():
    calls = {str(path.relative_to(PACKAGE)): set(printing_calls(path)) for path in PACKAGE.rglob("*.py")}
    assert {path: found for path, found in calls.items() if found} == {
        "cli/common.py": {"print", "console.print", "sys.stdout.buffer.write"},
        # Tracebacks, of workers too.
        "core/errors.py": {"sys.stderr.write"},
    }


def toml(text):
    """Return any text as a TOML string."""
    return '"' + "".join(f"\\U{ord(sign):08x}" for sign in text) + '"'


@pytest.fixture
def hostile(home):
    """A task with escape sequences in its title, classes and image names."""
    for split in ("train", "test"):
        for label, name in enumerate(("a", f"b{EVIL}")):
            for number in range(2):
                trees.save(home / "data" / "mine" / split / name / f"{number}.png", trees.image(label, number), "PNG")
    (home / "data" / "mine" / "train" / "a" / f"{EVIL}.png").write_bytes(b"no image")
    (home / "mine.toml").write_text(
        f'name = "mine"\ntitle = {toml("Title" + EVIL)}\nmanual = {toml("by hand" + EVIL)}\n'
        f'[files]\nlayout = "split-folders"\nroot = "mine"\n[about]\nnotes = [{toml("note" + EVIL)}]\n'
    )
    (home / "keys.toml").write_text(
        f'name = "keys"\n{toml("key" + EVIL)} = 1\n[files]\nlayout = "folders"\nroot = "x"\n'
    )
    (home / "gone.toml").write_text(
        f'name = "gone"\nmanual = {toml("by hand" + EVIL)}\n[files]\nlayout = "folders"\nroot = {toml("x" + EVIL)}\n'
    )
    return home


@pytest.mark.parametrize(
    "arguments",
    [
        ("tasks", "mine.toml"),
        ("tasks", "keys.toml"),
        ("tasks", "gone.toml"),
        ("tasks", f"{EVIL}.toml"),
        ("data", "verify", "mine.toml"),
        ("data", "verify", "gone.toml"),
        ("data", "verify", f"no{EVIL}task"),
        ("suites", f"no{EVIL}suite"),
        ("plan", "tiny.toml", "--set", f"schedule.{EVIL}=1"),
        ("transfer", "--snapshot", f"no{EVIL}where", "--task", "digits"),
        ("transfer", "--snapshot", "timm:resnet10t", "--task", "digits", "--protocol", EVIL),
        ("snapshots", "add", f"{EVIL}.pth", "--architecture", EVIL),
        ("snapshots", f"{EVIL}"),
        ("leaderboard", f"{EVIL}"),
    ],
)
def test_no_control_characters_are_printed(lrbench, hostile, arguments):
    outcome = lrbench(*arguments)
    assert not UNSAFE.search(outcome.out + outcome.err)
    assert "\\x1b[2J" in outcome.out + outcome.err or "\\u001b[2J" in outcome.out + outcome.err


def test_json_with_escape_sequences_stays_json(lrbench, hostile):
    shown = lrbench("tasks", "mine.toml", "--json").out
    assert not UNSAFE.search(shown) and json.loads(shown)["about"]["notes"] == [f"note{EVIL}"]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_prints_no_control_characters(monkeypatch, capfd, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    # Rich draws nothing on a dumb terminal.
    monkeypatch.setenv("TERM", "dumb")
    job = SimpleNamespace(name=f"job{EVIL}")
    with Display(1) as display:
        display.started(job)
        display.reported(f"said{EVIL}")
        display.progressed(job, 1, 2, "images")
        display.finished(job, f"line{EVIL}")
    with showing_progress(f"title{EVIL}") as control:
        control.say(f"words{EVIL}")
        control.progress(1, 2, "images")
    shown = capfd.readouterr().err
    assert shown.count("\\x1b[2J") >= 3 and not UNSAFE.search(shown.replace("\r", ""))


def test_tracebacks_print_no_control_characters(lrbench, monkeypatch):
    def breaks(*_):
        raise ValueError(EVIL)

    monkeypatch.setattr("lrbench.config.find_tasks", breaks)
    outcome = lrbench("tasks", "--debug")
    assert "Traceback" in outcome.err and "\\x1b[2J" in outcome.err and not UNSAFE.search(outcome.err)


def test_an_ascii_terminal_gets_escapes_instead_of_an_error(lrbench, home, monkeypatch):
    (home / "mine.toml").write_text('name = "mine"\ntitle = "é\U0001f600"\n[files]\nlayout = "folders"\nroot = "x"\n')
    with open(sys.stdout.fileno(), "w", encoding="ascii", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert "\\xe9\\U0001f600" in lrbench("tasks", "mine.toml").out


@pytest.fixture
def terminal(monkeypatch):
    """Make stdout a terminal of a given width."""

    def of(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(common.shutil, "get_terminal_size", lambda: SimpleNamespace(columns=columns))

    return of


ROWS = [
    {"name": "a", "kind": "of a long kind", "title": "a title of many words that is wrapped"},
    {"name": "b", "kind": "short", "title": "short"},
]


@pytest.mark.parametrize("columns", [35, 55, 80])
def test_a_table_is_no_wider_than_the_terminal(terminal, columns):
    terminal(columns)
    drawn = common.table(ROWS, wrapped="title", spare=["kind"])
    assert max(map(len, drawn.splitlines())) <= columns
    assert ("kind" in drawn) == (columns > 35) and (drawn.count("\n") == 3) == (columns == 80)
    assert {"a", "title", "of", "many", "words", "that", "is", "wrapped"} <= set(drawn.split())


def test_a_table_in_a_pipe_is_whole():
    assert "of a long kind  a title of many words that is wrapped" in common.table(
        ROWS, wrapped="title", spare=["kind"]
    )


@pytest.mark.parametrize("command", ["tasks", "suites"])
def test_lists_fit_80_columns(lrbench, home, terminal, command):
    terminal(80)
    outcome = lrbench(command)
    assert outcome.status == 0 and max(map(len, outcome.out.splitlines())) <= 80


def test_help_cuts_no_description(lrbench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in ((), ("data",), ("snapshots",)):
        shown = lrbench(*words, "--help").out
        assert "..." not in shown.partition("Commands:")[2]
    assert "unpack them into the data root." in " ".join(lrbench("data", "--help").out.split())


def test_an_early_interrupt_is_one_line():
    """Ctrl-C during the imports of the command line must not print a traceback."""
    code = (
        "import os, signal, sys\n"
        # Background processes ignore Ctrl-C unless the handler is restored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from lrbench.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "tasks"], capture_output=True, text=True)
    assert done.returncode == 130 and not done.stdout
    assert done.stderr == "lrbench: interrupted. Run the same command again to continue.\n"


def test_interrupt_wrapped_by_a_library_is_an_interrupt(lrbench, monkeypatch):
    def breaks(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("numpy could not be imported") from None

    monkeypatch.setattr("lrbench.config.find_tasks", breaks)
    outcome = lrbench("tasks")
    assert outcome.status == 130 and outcome.err.splitlines() == [
        "lrbench: interrupted. Run the same command again to continue."
    ]


def test_closed_pipe_is_no_error(home):
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *command("suites")], capture_output=True
    )
    assert done.returncode == 0 and not done.stderr
