import threading
import time
from contextlib import closing

import pytest
import torch

from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.data.prefetch import prefetch, prefetch_threads
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.snapshots import snapshot_path


class NumberedBatches:
    """Batches that contain their number; of four consecutive ones, the earlier take longer."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.requested = []

    def at(self, update):
        self.requested.append(update)
        if update == self.fails_at:
            raise OSError("an image is missing")
        time.sleep(0.004 * (3 - update % 4))
        return torch.full((2,), update), torch.tensor(update)


def test_batches_are_in_order_for_any_number_of_threads():
    for threads in (0, 1, 3):
        taken = [int(labels) for _, labels in prefetch(NumberedBatches().at, 5, 30, threads=threads)]
        assert taken == list(range(5, 30))
    assert list(prefetch(NumberedBatches().at, 7, 7, threads=2)) == []


def test_at_most_two_batches_per_thread_are_prefetched():
    batches = NumberedBatches()
    with closing(prefetch(batches.at, 0, 100, threads=2)) as fed:
        next(fed)
        time.sleep(0.1)
        assert set(batches.requested) == {0, 1, 2, 3}


def test_error_is_raised_when_its_batch_is_due():
    fed = prefetch(NumberedBatches(fails_at=4).at, 0, 10, threads=3)
    assert [int(labels) for _, labels in (next(fed) for _ in range(4))] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="an image is missing"):
        next(fed)


def test_closing_ends_the_threads():
    fed = prefetch(NumberedBatches().at, 0, 1000, threads=3)
    next(fed)
    fed.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_no_prefetch_threads_on_a_cpu():
    assert prefetch_threads(torch.device("cpu")) == 0 and prefetch_threads(torch.device("cuda")) >= 1


def test_pretraining_with_threads_is_bit_identical(tiny, place, monkeypatch):
    tiny = tiny.model_copy(update={"schedule": tiny.schedule.model_copy(update={"augmentation": "crop-flip"})})
    path = snapshot_path(place.workspace.checkpoints, "tiny", SnapshotKey(arm="step", seed=0, stage=1))
    snapshots = []
    for threads in (0, 3):
        monkeypatch.setattr("lrbench.data.prefetch.prefetch_threads", lambda device, n=threads: n)
        for stage in (0, 1):
            make_snapshot(tiny, SnapshotKey(arm="step", seed=0, stage=stage), place, Control())
        snapshots.append(path.read_bytes())
        path.unlink()
    assert snapshots[0] == snapshots[1]
