"""Fixtures: a workspace of its own for each test, a tiny suite, and the command line in this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Tests compare bits with what a CPU gave, and start more processes than a machine has GPUs. tests/test_gpu.py is for those.
if os.environ.get("LRBENCH_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import torch

from lrbench.cli import main
from lrbench.config import Suite, load_suite, own_tasks
from lrbench.core.control import Control
from lrbench.core.workspace import Place, Workspace

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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace in `folder`, in which the process then stands; tiny tasks are registered."""
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
    monkeypatch.setattr(own_tasks, "_paths", {})
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the test's own."""
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def tiny(home: Path) -> Suite:
    """The tiny suite."""
    return load_suite("tiny.toml")


@pytest.fixture
def place(home: Path) -> Place:
    """Where the tiny suite reads and writes."""
    return Place(workspace=Workspace(root=home), roots=(home / "data",))


@pytest.fixture
def control() -> Control:
    """Work that nobody watches."""
    return Control()


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def lrbench(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lrbench", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def command(*arguments: str | Path) -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-c", "from lrbench.cli import main; main()", *map(str, arguments)]


def run_process(*arguments: str | Path, timeout: float = 120) -> Outcome:
    """Run a command line in a process of its own."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, env=dict(os.environ))
    return Outcome(done.returncode, done.stdout, done.stderr)


class Trap:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (self.path, "w"))


def one_paragraph(text: str) -> bool:
    """Whether an error is one paragraph without a traceback."""
    return "Traceback" not in text and len([line for line in text.strip().splitlines() if line.strip()]) == 1
