"""Fixtures of the leaderboard's tests."""

import pytest

from lrbench.core.workspace import Place, Workspace


@pytest.fixture
def workspace(place: Place) -> Workspace:
    """The workspace of the test."""
    return place.workspace
