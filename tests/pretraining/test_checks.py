"""Losses that are checked some updates later, as on a GPU, which each check would have to wait for."""

import pytest

from lrbench.config import load_suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError
from lrbench.pretraining import loop
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.snapshots import batchnorm_path, snapshot_path, state_path
from tests.pretraining.helpers import key, make, nan_loss_at


@pytest.fixture
def checks_every(monkeypatch):
    """Check losses as on an accelerator, every so many updates, though all else is on the CPU."""

    def patch(updates):
        train = loop.Trainer.train

        def rarely_checked(self, *given):
            self.check_every = updates
            return train(self, *given)

        monkeypatch.setattr(loop.Trainer, "train", rarely_checked)

    return patch


# Of 96 images in batches of 16 an epoch has six updates; the rate rises over the first two epochs.
WARMING = ["schedule.batch=16", "schedule.warmup=2", 'name="warming"']


@pytest.mark.parametrize(
    ("every", "bad", "checked_at"),
    [
        (4, 2, 4),
        (4, 4, 4),
        # The end of an epoch is checked as well.
        (4, 5, 6),
        (25, 1, 6),
        (25, 8, 12),
        (1, 3, 3),
    ],
)
def test_late_check_reports_the_update_of_the_loss(place, home, monkeypatch, checks_every, every, bad, checked_at):
    suite = load_suite("tiny.toml", WARMING)
    make(suite, key("step", 0), place)
    checks_every(every)
    calls = nan_loss_at(monkeypatch, bad)
    with pytest.raises(FailureError) as failed:
        make_snapshot(suite, key("step", 1), place, Control())
    rate, epoch = 0.1 * bad / 12, 1 + (bad - 1) // 6
    message = str(failed.value)
    assert f"nan at update {bad} (epoch {epoch}), at learning rate {rate:g}." in message
    assert "its parent step/seed0/stage0" in message and len(calls) == checked_at
    assert not snapshot_path(place.workspace.checkpoints, "warming", key("step", 1)).exists()


def test_last_good_state_is_the_stage_before(tiny, place, home, monkeypatch, checks_every):
    good = make(tiny, key("step", 1), place).read_bytes()
    checks_every(25)
    nan_loss_at(monkeypatch, 2)
    with pytest.raises(
        FailureError,
        match=r"nan at update 11 \(epoch 4\), at learning rate 0\.01\. The last good state is "
        "its parent step/seed0/stage1",
    ):
        make_snapshot(tiny, key("step", 2), place, Control())
    assert snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1)).read_bytes() == good


def test_check_interval_does_not_change_snapshot_or_log(tiny, place, home, checks_every):
    path = make(tiny, key("step", 1), place)
    log = path.with_name("log.jsonl")
    whole = path.read_bytes(), log.read_bytes()
    for file in (path, batchnorm_path(path), state_path(path), log):
        file.unlink()
    checks_every(2)
    assert (make(tiny, key("step", 1), place).read_bytes(), log.read_bytes()) == whole
