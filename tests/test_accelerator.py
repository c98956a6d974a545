"""Training on an accelerator waits for nothing: a look at a value on the device is a stop of everything behind it.

Tensors of torch's device `meta` have no values. Whatever would copy one to the CPU, ask for a number of it, or mix it with the
CPU's raises, as it would stop (or fail) on a GPU; so what runs through on `meta` queues its work without a look.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lrbench.config.pretraining import Schedule, Training
from lrbench.config.protocols import Finetune
from lrbench.config.schedule import SnapshotKey, find_segment
from lrbench.core.control import Control
from lrbench.data.batches import Batches
from lrbench.data.device_images import DeviceImages, crop_layout, resize_crops
from lrbench.data.pixels import Shard
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model, penultimate, stages
from lrbench.pretraining.loop import Trainer
from lrbench.pretraining.state import Progress
from lrbench.transfer.protocols.finetune_run import FinetuneContext, TrainingRun, UpdateProgress
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.target import Development, JoinedPixels

DEVICE = torch.device("meta")
NORMALISE = InputNormalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), DEVICE)
SCHEDULE = Schedule(epochs=4, boundaries=(2,), rates=(0.1, 0.01), batch=8)
SIZE, COUNT = 32, 50
LABELS = np.arange(COUNT) % 5


@pytest.fixture(autouse=True)
def _as_far_as_meta_goes(monkeypatch):
    # torch has no autocast and no fused optimiser for this device.
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    plain = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *arguments, fused, **options: plain(*arguments, **options))


class Plain:
    """Images of 40 by 36 pixels, all in one shard."""

    def __init__(self):
        values = np.zeros((COUNT, 40, 36, 3), dtype=np.uint8)
        size = values[0].size
        index = np.array([[number * size, size, 40, 36] for number in range(COUNT)])
        self.plain = [Shard(content=values.reshape(-1), index=index)]

    def __len__(self):
        return COUNT

    def evaluation(self, indices):
        return np.zeros((len(indices), SIZE, SIZE, 3), dtype=np.uint8)

    def resized(self, index):
        return np.zeros((40, 36, 3), dtype=np.uint8)


def network():
    arguments = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    return create_model("resnet18", arguments, classes=5).to(DEVICE, memory_format=torch.channels_last)


class Counts(Control):
    """Counts updates."""

    done = 0

    def progress(self, done, total, unit):
        self.done = done


def test_the_device_of_these_tests_notices_a_look():
    values = torch.zeros(3, device=DEVICE)
    for look in (values.sum().item, values.cpu, values.tolist, lambda: bool(values.all()), values.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            look()
    with pytest.raises(RuntimeError):
        values + torch.zeros(3)


def trainer_of(model, micro_batch=None):
    batches = Batches(
        pixels=Plain(), labels=LABELS, seed=0, batch=8, size=SIZE, augmentation="crop-flip",
    )  # fmt: skip
    return Trainer(
        model, find_segment(SCHEDULE, SnapshotKey(arm="step", seed=0, stage=1)), SCHEDULE, Training(compile=False), batches,
        NORMALISE, Progress(update=0, weights=model.state_dict()), micro_batch=micro_batch, means=(),
        epochs_to_keep={}, updates=1, device=DEVICE,
    )  # fmt: skip


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_an_update_waits_for_nothing(micro_batch, monkeypatch):
    checked = []
    monkeypatch.setattr(
        Trainer, "_check", lambda self, pending, stop, due, wait: (checked.extend(pending), (stop, due))[1]
    )
    trainer_of(network(), micro_batch=micro_batch).train(Control(), lambda progress: None, lambda: None)
    assert len(checked) > 0 and all(loss.device == correct.device == DEVICE for loss, correct in checked)


def test_between_two_looks_training_waits_for_nothing(monkeypatch):
    monkeypatch.setattr("lrbench.pretraining.loop.CHECK_EVERY", 4)
    looks = []
    monkeypatch.setattr(
        Trainer,
        "_check",
        lambda self, pending, stop, due, wait: looks.append(len(pending)) or pending.clear() or (stop, due),
    )
    end = trainer_of(network()).train(Counts(), lambda progress: None, lambda: None)
    # Six updates an epoch: after the fourth, and at the end of the epoch.
    assert end.update == 12 and looks == [4, 2, 4, 2]
    assert {tensor.device for tensor in end.weights.values()} == {DEVICE}


def test_finetuning_looks_once_after_its_last_update(monkeypatch):
    # The new classifier is drawn on the CPU, before the first update.
    monkeypatch.setattr(FinetuneContext, "new_model", lambda self: network())
    pixels = Plain()
    context = FinetuneContext(
        model=network(),
        development=Development(
            pixels=JoinedPixels([pixels]), labels=LABELS, ids=[""] * COUNT, given=np.array([], dtype=np.int64)
        ),
        classes=7, size=SIZE, normalise=NORMALISE, settings=Finetune(updates=9, batch=8), seed=0, device=DEVICE,
        points=Points(None),
    )  # fmt: skip
    control = Counts()
    with pytest.raises(RuntimeError, match="meta"):
        TrainingRun(context, UpdateProgress((9,), 0), np.arange(COUNT), 0.01, 1e-4).train(9, control)
    assert control.done == 9


@pytest.mark.parametrize("read", [penultimate, stages])
def test_a_batch_of_features_waits_for_nothing(read):
    with torch.inference_mode():
        features = read(network().eval(), NORMALISE(torch.zeros(4, SIZE, SIZE, 3, dtype=torch.uint8)))
    assert all(tensor.device == DEVICE for tensor in ([features] if isinstance(features, torch.Tensor) else features))


def test_cutting_a_batch_on_the_device_waits_for_nothing():
    batches = Batches(pixels=Plain(), labels=LABELS, seed=0, batch=8, size=SIZE, augmentation="crop-flip")
    here = DeviceImages(batches.pixels.plain, SIZE, DEVICE)
    assert here.batch(*here.layout(*batches.recipe(3)[:3])).shape == (8, SIZE, SIZE, 3)
    content, extents, flips, _ = batches.patches(3)
    crops = resize_crops(content, *crop_layout(extents, flips), SIZE, DEVICE)
    assert crops.shape == (8, SIZE, SIZE, 3)
