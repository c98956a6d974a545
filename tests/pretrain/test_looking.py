"""Losses that are looked at some updates later, as on a GPU, which each look would have to wait for."""

from types import SimpleNamespace

import pytest
import torch

from lrbench.config import load_suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError
from lrbench.pretrain import trainer
from lrbench.pretrain.segments import make_snapshot
from lrbench.store.snapshots import batchnorm_path, snapshot_path, state_path
from tests.pretrain.helpers import breaks_at, key, make

CPU = torch.device("cpu")


@pytest.fixture
def looks_every(monkeypatch):
    """Look at losses as on an accelerator, every so many updates, though all else is on the CPU."""

    def patch(updates):
        train, fed = trainer.Trainer.train, trainer.training_batches

        def elsewhere(self, *given):
            self._device = SimpleNamespace(type="accelerator")
            return train(self, *given)

        monkeypatch.setattr(trainer, "_LOOK_EVERY", updates)
        monkeypatch.setattr(trainer.Trainer, "train", elsewhere)
        monkeypatch.setattr(trainer, "training_batches", lambda batches, first, last, _: fed(batches, first, last, CPU))

    return patch


# Of 96 images in batches of 16 an epoch has six updates; the rate rises over the first two epochs.
WARMING = ["schedule.batch=16", "schedule.warmup=2", 'name="warming"']


@pytest.mark.parametrize(
    ("every", "bad", "looked_at"),
    [
        (4, 2, 4),
        (4, 4, 4),
        # The end of an epoch is looked at as well.
        (4, 5, 6),
        (25, 1, 6),
        (25, 8, 12),
        (1, 3, 3),
    ],
)
def test_a_loss_found_late_is_told_of_the_update_that_it_was_of(
    place, home, monkeypatch, looks_every, every, bad, looked_at
):
    suite = load_suite("tiny.toml", WARMING)
    make(suite, key("step", 0), place)
    looks_every(every)
    calls = breaks_at(monkeypatch, bad)
    with pytest.raises(FailureError) as failed:
        make_snapshot(suite, key("step", 1), place, Control())
    rate, epoch = 0.1 * bad / 12, 1 + (bad - 1) // 6
    message = str(failed.value)
    assert f"nan at update {bad} (epoch {epoch}), at learning rate {rate:g}." in message
    assert "its parent step/seed0/stage0" in message and len(calls) == looked_at
    assert not snapshot_path(place.workspace.checkpoints, "warming", key("step", 1)).exists()


def test_the_state_that_was_good_is_the_stage_before(tiny, place, home, monkeypatch, looks_every):
    good = make(tiny, key("step", 1), place).read_bytes()
    looks_every(25)
    breaks_at(monkeypatch, 2)
    with pytest.raises(
        FailureError,
        match=r"nan at update 11 \(epoch 4\), at learning rate 0\.01\. The last good state is "
        "its parent step/seed0/stage1",
    ):
        make_snapshot(tiny, key("step", 2), place, Control())
    assert snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1)).read_bytes() == good


def test_how_often_losses_are_looked_at_changes_nothing_of_the_snapshot_or_its_log(tiny, place, home, looks_every):
    path = make(tiny, key("step", 1), place)
    log = path.with_name("log.jsonl")
    whole = path.read_bytes(), log.read_bytes()
    for each in (path, batchnorm_path(path), state_path(path), log):
        each.unlink()
    looks_every(2)
    assert (make(tiny, key("step", 1), place).read_bytes(), log.read_bytes()) == whole
