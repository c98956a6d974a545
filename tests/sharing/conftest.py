"""A stand-in for the Hub, and a login to it."""

from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from tests.sharing.fake_hub import FakeHub


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
