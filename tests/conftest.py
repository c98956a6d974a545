"""Fixtures: a workspace of its own for each test, a tiny suite, and the command line in this process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests compare bits with what a CPU gave, and start more processes than a machine has GPUs. tests/test_gpu.py is for those.
if os.environ.get("LRBENCH_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import torch

from lrbench.cli import main
from lrbench.config import Suite, load_suite
from lrbench.core.control import Control
from lrbench.core.workspace import Place, Workspace
from tests.helpers import Outcome, make_home


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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


@pytest.fixture
def snapshot(tiny: Suite, place: Place) -> Path:
    """Path of the tiny suite's initialisation."""
    from lrbench.config.arms import SnapshotKey
    from lrbench.pretrain.segments import make_snapshot
    from lrbench.store.snapshots import snapshot_path
    from lrbench.store.suites import write_effective

    key = SnapshotKey(arm="step", seed=0, stage=0)
    write_effective(place.workspace, tiny)
    make_snapshot(tiny, key, place, Control())
    return snapshot_path(place.workspace.checkpoints, "tiny", key)
