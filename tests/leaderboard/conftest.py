"""Fixtures of the leaderboard's tests. Figures are drawn only for tests that request `drawn`, because drawing is slow."""

import pytest

from lrbench.core.workspace import Place, Workspace
from lrbench.leaderboard.figures import Figure


@pytest.fixture
def workspace(place: Place) -> Workspace:
    """The workspace of the test."""
    return place.workspace


@pytest.fixture
def drawn() -> None:
    """Request that figures are drawn."""


@pytest.fixture(autouse=True)
def _no_drawings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Figure, "drawings", lambda self, salt, endings: dict.fromkeys(endings, b"not drawn"))
