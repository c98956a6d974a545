"""The GPUs of a machine, and how many workers share one."""

import pytest

from lrbench.core.control import waiting_for
from lrbench.jobs.gpus import Load, more_workers, visible_gpus
from lrbench.jobs.worker import _WaitingShare

GIB = 1 << 30
IDLE = Load(waiting=0.1, reserved=GIB, free=100 * GIB)
BUSY = Load(waiting=0.8, reserved=GIB, free=100 * GIB)


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("", ()),
        ("-1", ()),
        ("0,2", ("0", "2")),
        ("1,-1,2", ("1",)),
        (" GPU-a , MIG-b", ("GPU-a", "MIG-b")),
        ("3,3", ("3",)),
    ],
)
def test_visible_gpus_are_those_of_the_environment(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("loads", "most", "more"),
    [
        ([IDLE], 8, 1),
        ([IDLE] * 2, 8, 2),
        ([IDLE] * 4, 6, 2),
        ([IDLE] * 8, 8, 0),
        # One of them waits for the GPU, or has not been measured.
        ([IDLE, BUSY], 8, 0),
        ([IDLE, None], 8, 0),
        ([None], 8, 0),
        # Room for one more, and for none.
        ([Load(waiting=0.1, reserved=4 * GIB, free=8 * GIB)] * 2, 8, 1),
        ([Load(waiting=0.1, reserved=8 * GIB, free=8 * GIB)], 8, 0),
    ],
)
def test_workers_are_doubled_while_all_leave_the_gpu_idle(loads, most, more):
    assert more_workers(loads, most) == more


def test_waiting_share_is_of_training_time_alone(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    share = _WaitingShare()

    def updates(done, *, launching, waiting):
        nonlocal now
        now += launching
        with share:
            now += waiting
        return share.share(done, 1_000, "updates", now)

    # The time before the first update, of an evaluation and of another job is not training time.
    assert updates(25, launching=50.0, waiting=0.0) is None
    assert updates(50, launching=0.5, waiting=0.5) is None
    assert updates(75, launching=1.0, waiting=0.5) == pytest.approx(0.4)
    assert share.share(10, 100, "images", now) is None
    assert updates(100, launching=50.0, waiting=0.0) is None
    assert updates(25, launching=50.0, waiting=0.0) is None
    assert updates(50, launching=2.0, waiting=0.0) == 0.0


def test_waiting_for_items_includes_every_item_and_its_time():
    class Counting:
        entered = 0

        def waiting(self):
            return self

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *error):
            pass

    control = Counting()
    assert list(waiting_for([1, 2, 3], control)) == [1, 2, 3]
    assert control.entered == 4
