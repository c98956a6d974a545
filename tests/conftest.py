"""Fixtures: a workspace for each test, a tiny suite, and the command line in this process."""

import functools
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

# Tests compare bits with what a CPU gave, and start more processes than a machine has GPUs. tests/test_gpu.py is for those.
if os.environ.get("LRBENCH_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

# One core for each process of `pytest -n`, where there is no more than one: the processes that tests start share it, and
# their threads do not wait for each other.
if hasattr(os, "sched_setaffinity") and (process := os.environ.get("PYTEST_XDIST_WORKER")):
    cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(cores):
        os.sched_setaffinity(0, {cores[int(process.removeprefix("gw")) % len(cores)]})

import torch
import typer.main

from lrbench.config import Suite, load_suite
from lrbench.config.protocols import Probe
from lrbench.config.schedule import SnapshotKey, snapshot_keys
from lrbench.core.control import Control
from lrbench.core.workspace import Place, Workspace
from lrbench.leaderboard.figures import Figure
from lrbench.store.cells import TransferSettings
from lrbench.store.references import SuiteSnapshot
from lrbench.store.suites import write_effective
from tests.data.archive_server import ArchiveServer
from tests.helpers import Outcome, make_home, run_here


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Run each file in one process, in order, so that fixtures of a module are computed once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


# Building the commands takes longer than most of them.
typer.main.get_command = functools.cache(typer.main.get_command)


def pytest_collection_finish() -> None:
    """Leave out the objects of imported libraries, which stay until the end, when garbage is collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def drawn() -> None:
    """Request that figures are drawn, which is slow. Others are files without content."""


@pytest.fixture(autouse=True)
def _no_drawings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Figure, "drawings", lambda self, salt, endings: dict.fromkeys(endings, b"not drawn"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace for the test."""
    return make_home(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def tiny_snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The snapshots of all arms of the tiny suite, seed 0; and next to it, `step` until the end of each stage."""
    from lrbench.pretraining.segments import make_snapshot

    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_home(tmp_path_factory.mktemp("pretrained"), monkeypatch)
        suite, place = load_suite("tiny.toml"), Place(workspace=Workspace(root=root), roots=(root / "data",))
        torch.set_num_threads(1)
        write_effective(place.workspace, suite)
        for key in snapshot_keys(suite, seed=0):
            make_snapshot(suite, key, place, Control())
            if key.arm == "step":
                shutil.copytree(root / "checkpoints" / "tiny" / "step", root / "checkpoints" / f"stage{key.stage}")
    return root / "checkpoints" / "tiny"


@pytest.fixture
def pretrain_tiny(home: Path, tiny_snapshots: Path) -> Callable[..., None]:
    """Put the tiny suite's snapshots of seed 0 into the workspace, of all arms or of those named."""

    def copy(*arms: str) -> None:
        folder = home / "checkpoints" / "tiny"
        for arm in arms or [path.name for path in tiny_snapshots.iterdir() if path.is_dir()]:
            shutil.copytree(tiny_snapshots / arm, folder / arm)
        shutil.copy2(tiny_snapshots / "suite.toml", folder)

    return copy


@pytest.fixture
def make_reference(tiny: Suite, place: Place, tiny_snapshots: Path) -> Callable[[int], SuiteSnapshot]:
    """Put `step` of the tiny suite, seed 0, into the workspace until the end of a stage, and return that snapshot."""

    def copy(stage: int) -> SuiteSnapshot:
        checkpoints = place.workspace.checkpoints
        shutil.copytree(tiny_snapshots.with_name(f"stage{stage}"), checkpoints / "tiny" / "step")
        return SuiteSnapshot(suite=tiny, key=SnapshotKey(arm="step", seed=0, stage=stage), checkpoints=checkpoints)

    return copy


@pytest.fixture
def small_probe_grid() -> Iterator[None]:
    """Probe snapshots of no suite at 4 strengths instead of 45, which saves most of a test's time."""
    field = TransferSettings.model_fields["probe"]
    field.default, default = Probe(strengths=4), field.default
    TransferSettings.model_rebuild(force=True)
    yield
    field.default = default
    TransferSettings.model_rebuild(force=True)


@pytest.fixture
def tiny(home: Path) -> Suite:
    """The tiny suite."""
    return load_suite("tiny.toml")


@pytest.fixture
def place(home: Path) -> Place:
    """Workspace and data roots of the tiny suite."""
    return Place(workspace=Workspace(root=home), roots=(home / "data",))


@pytest.fixture
def control() -> Control:
    """A control that never stops work."""
    return Control()


@pytest.fixture
def lrbench(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        status = run_here(monkeypatch, *arguments)
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def snapshot(tiny: Suite, place: Place, make_reference: Callable[[int], SuiteSnapshot]) -> Path:
    """Path of the tiny suite's initialisation."""
    write_effective(place.workspace, tiny)
    return make_reference(0).path


@pytest.fixture(scope="session")
def make_httpserver() -> Iterator[HTTPServer]:
    """The server behind pytest-httpserver's `httpserver`, with a thread per request: a stopped download leaves one open."""
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def server(httpserver: HTTPServer) -> ArchiveServer:
    """A server of archives."""
    return ArchiveServer.on(httpserver)
