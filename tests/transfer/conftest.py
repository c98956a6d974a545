"""Fixtures of the tests of transfer."""

from collections.abc import Callable

import pytest

from lrbench.store.references import SuiteSnapshot


@pytest.fixture
def reference(make_reference: Callable[[int], SuiteSnapshot]) -> SuiteSnapshot:
    """The snapshot of the tiny suite at the end of its first stage."""
    return make_reference(1)
