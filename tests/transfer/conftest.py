"""Fixtures of the tests of transfer."""

import pytest

from lrbench.config.arms import SnapshotKey
from lrbench.core.control import Control
from lrbench.pretrain.segments import make_snapshot
from lrbench.store.references import Reference
from lrbench.store.snapshots import snapshot_path
from tests.transfer.helpers import KEY


@pytest.fixture
def reference(tiny, place):
    for stage in (0, 1):
        make_snapshot(tiny, SnapshotKey(arm="step", seed=0, stage=stage), place, Control())
    path = snapshot_path(place.workspace.checkpoints, "tiny", KEY)
    return Reference(text=f"tiny/{KEY}", path=path, suite=tiny, key=KEY)
