"""Helpers that tests share: the tiny suite, a workspace, the command line, forked processes, and checks of messages."""

import multiprocessing
import os
import signal
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from lrbench.cli import main
from lrbench.config import own_tasks
from lrbench.jobs.job import PRELOADED

TINY_TASKS = {
    "tiny-source": 'generator = "source"\nsize = 32\ntrain = 96\ntest = 40\n'
    "options = { classes = 4, templates = 2, complex = 0.5, wrong = 0.1 }",
    "tiny-objects": 'generator = "objects"\nsize = 32\ntrain = 48\ntest = 40\noptions = { classes = 4 }',
    "tiny-indoor": 'generator = "indoor"\nsize = 32\ntrain = 50\ntest = 40',
}

TINY_SUITE = """
name = "tiny"
source = "tiny-source"
targets = ["tiny-objects", "tiny-indoor"]
arms = ["step", "hold", "constant", "average"]
protocols = ["probe", "knn"]
seeds = [0, 1]

[model]
architecture = "resnet18"
arguments = { layers = [1, 1, 1, 1], channels = [8, 8, 16, 16], stem_type = "deep", stem_width = 8 }

[input]
size = 32
crop_fraction = 1.0

[schedule]
epochs = 6
boundaries = [3, 5]
rates = [0.1, 0.01, 0.001]
batch = 32
weight_decay = 5e-4
augmentation = "flip"

[batchnorm]
images = 64

[probe]
strengths = 3

[finetune]
rates = [0.01, 0.05]
decays = [0.0]
updates = 6
batch = 16
"""


def tiny_suite_toml(**changes: Any) -> str:
    """Return the tiny suite with other values; a table is merged into the suite's table of that name."""
    suite = tomllib.loads(TINY_SUITE)
    for key, value in changes.items():
        suite[key] = suite.get(key, {}) | value if isinstance(value, dict) else value
    return tomli_w.dumps(suite)


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a workspace with the tiny suite and tasks, and change into it."""
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, files in TINY_TASKS.items():
        (tasks / f"{name}.toml").write_text(f'name = "{name}"\n\n[files]\nlayout = "synthetic"\n{files}\n')
    root = folder / "home"
    root.mkdir()
    (root / "tiny.toml").write_text(TINY_SUITE)
    monkeypatch.setenv("LRBENCH_TASKS", str(tasks))
    monkeypatch.setenv("LRBENCH_HOME", str(root))
    monkeypatch.delenv("LRBENCH_DATA", raising=False)
    monkeypatch.delenv("LRBENCH_DEBUG", raising=False)
    monkeypatch.delenv("LRBENCH_QUIET", raising=False)
    monkeypatch.setattr(own_tasks, "_paths", {})
    monkeypatch.chdir(root)
    return root


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


def command(*arguments: str | Path) -> list[str]:
    """Return the arguments that start lrbench in a new process."""
    return [sys.executable, "-c", "from lrbench.cli import main; main()", *map(str, arguments)]


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run lrbench in this process and return its exit status; for fixtures of a module, to which `lrbench` is not available."""
    monkeypatch.setattr(sys, "argv", ["lrbench", *map(str, arguments)])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def forkserver() -> ForkServerContext:
    """Return the context whose processes are forked where torch is imported; importing it takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


class Forked:
    """A call in a forked process, the leader of a session, which has this process's folder and environment.

    Attributes:
        process: The process.
        out: What it prints.
        err: What it writes to stderr.
    """

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        context = forkserver()
        pipes = [context.Pipe(duplex=False) for _ in range(2)]
        ends = [theirs for _, theirs in pipes]
        self.process = context.Process(target=_redirected, args=(ends, dict(os.environ), function, arguments))
        self.process.start()
        self.out, self.err = (os.fdopen(os.dup(ours.fileno())) for ours, _ in pipes)
        for connections in pipes:
            for connection in connections:
                connection.close()

    def finished(self, timeout: float = 180) -> Outcome:
        """Wait for the end."""
        with ThreadPoolExecutor(2) as readers, self.out, self.err:
            out, err = readers.map(lambda stream: stream.read(), (self.out, self.err))
        self.process.join(timeout)
        assert self.process.exitcode is not None, err
        return Outcome(self.process.exitcode, out, err)


def _redirected(
    ends: list[Connection], environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, end in enumerate(ends, 1):
        os.dup2(end.fileno(), number)
        end.close()
    # The server of forks may ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    function(*arguments)


def run_with_forks(*arguments: str | Path) -> None:
    """Run lrbench in a forked process; its workers are forks, too."""
    whole = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: whole("fork")  # type: ignore[assignment]
    sys.argv = ["lrbench", *map(str, arguments)]
    main()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (self.path, "w"))


def one_paragraph(text: str) -> bool:
    """Return whether an error is one paragraph without a traceback."""
    return "Traceback" not in text and len([line for line in text.strip().splitlines() if line.strip()]) == 1
