"""Fixtures of the tests of transfer."""

import pytest

from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.references import SuiteSnapshot
from tests.transfer.helpers import KEY


@pytest.fixture
def reference(tiny, place):
    for stage in (0, 1):
        make_snapshot(tiny, SnapshotKey(arm="step", seed=0, stage=stage), place, Control())
    return SuiteSnapshot(suite=tiny, key=KEY, checkpoints=place.workspace.checkpoints)
