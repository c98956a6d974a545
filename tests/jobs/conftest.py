"""Fixtures of tests with real clusters: a workspace for the cluster, and the same suite on the local engine meanwhile."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import command, make_home


@pytest.fixture(scope="module")
def shared_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with the module's `SUITE`, in whose folder the tests of a module run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_home(tmp_path_factory.mktemp("cluster"), monkeypatch)
        (root / "tiny.toml").write_text(request.module.SUITE)
        yield root


@pytest.fixture(scope="module")
def local_home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Path]]:
    """A function that waits for the module's `SUITE` on the local engine, which runs meanwhile, and returns its workspace."""
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryFile("w+") as log:
        root = make_home(tmp_path_factory.mktemp("local"), monkeypatch)
        (root / "tiny.toml").write_text(request.module.SUITE)
        process = subprocess.Popen(command("run", "tiny.toml", "--workers", "1"), stdout=log, stderr=log)

        def finished() -> Path:
            status = process.wait(900)
            log.seek(0)
            assert status == 0, log.read()
            return root

        try:
            yield finished
        finally:
            process.kill()
            process.wait()
