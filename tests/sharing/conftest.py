"""A stand-in for the Hub, a login to it, and a collection."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from lrbench.config import Suite
from lrbench.core.workspace import Place
from tests.helpers import Outcome
from tests.leaderboard.fake import put
from tests.sharing.collections import TASKS
from tests.sharing.fake_hub import FakeHub


@pytest.fixture
def sent(lrbench: Callable[..., Outcome], place: Place, tiny: Suite, tmp_path: Path) -> Path:
    """A folder with two results, of which the workspace keeps none."""
    put(place.workspace, tiny)
    put(place.workspace, tiny, stage=2, wrong=4)
    assert lrbench("results", "push", tmp_path / "sent", *TASKS).status == 0
    shutil.rmtree(place.workspace.results)
    return tmp_path / "sent"


@pytest.fixture
def fake(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, home: Path) -> FakeHub:
    """The Hub that huggingface_hub talks to, with the token `hf_sesame`."""
    from huggingface_hub import constants

    fake = FakeHub()
    address = fake.serve(httpserver)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    # It holds the address of the time of import.
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    return fake
