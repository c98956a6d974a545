"""Speed of the pretraining engine against plain loops: on data in memory, with timm's loader and with torchvision's."""

import os
import statistics
import time

import numpy as np
import pytest
import timm.data
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lrbench.config import load_suite, load_task
from lrbench.config.pretraining import Schedule, Training
from lrbench.config.schedule import SnapshotKey, find_segment
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.data.batches import Batches
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.models.devices import pick_device
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining.loop import Trainer
from lrbench.pretraining.saver import Saver
from lrbench.pretraining.state import Progress, save

_CORES = len(os.sched_getaffinity(0))
_ON_GPU = torch.cuda.is_available()
_PRECISION = "bfloat16" if _ON_GPU else "float32"


def _trainer(batches, schedule, model, device, *, compiled=False, precision=_PRECISION):
    normalise = InputNormalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), device)
    model = model.to(device, memory_format=torch.channels_last)
    training = Training(precision=precision, compile=compiled)
    return Trainer(
        model, find_segment(schedule, SnapshotKey(arm="step", seed=0, stage=1)), schedule, training, batches, normalise,
        Progress(update=0, weights=model.state_dict()),
        micro_batch=None, means=(), epochs_to_keep={}, updates=1, device=device, say=print,
    )  # fmt: skip


def _wait():
    if _ON_GPU:
        torch.cuda.synchronize()


def _bare(model, batches, device, precision=_PRECISION):
    """Train with a plain loop over batches on any device."""
    model = model.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    for images, targets in batches:
        inputs = images.to(device, non_blocking=True).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = nn.functional.cross_entropy(model(inputs), targets.to(device, non_blocking=True))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    _wait()


def test_pretraining_against_a_bare_loop(against, tmp_path):
    """Train the network of `quick` on its images, held in memory."""
    suite, device, epochs = load_suite("quick"), pick_device(), 2
    data = load_task_data(load_task("toy-source"), [])
    pixels = prepare(data, "train", EvaluationTransform.of(suite.input), cache=tmp_path, control=Control())
    labels = data.splits["train"].labels
    schedule = suite.schedule.model_copy(update={"epochs": epochs + 2, "boundaries": (epochs, epochs + 1)})
    normalise = InputNormalisation(suite.input.mean, suite.input.std, device)
    images = torch.from_numpy(pixels.evaluation(np.arange(len(pixels)))).to(device)
    targets = torch.from_numpy(labels).to(device)

    def network():
        return create_model(suite.model.architecture, suite.model.arguments, classes=len(data.classes), seed=0)

    def ours():
        batches = Batches(
            pixels=pixels, labels=labels, seed=0, batch=schedule.batch, size=suite.input.size, augmentation="none"
        )
        _trainer(batches, schedule, network(), device).train(Control(), lambda progress: None, lambda: None)

    def bare():
        _bare(
            network(),
            (
                (normalise(images[chosen]), targets[chosen])
                for _ in range(epochs)
                for chosen in torch.randperm(len(targets), device=device).split(schedule.batch)
                if len(chosen) == schedule.batch
            ),
            device,
        )

    against("pretraining, against a bare loop", ours, bare, rounds=15)


def _timm(tree, size, batch, device):
    data = timm.data.create_dataset("", root=str(tree / "photographs" / "train"))
    return timm.data.create_loader(
        data, input_size=(3, size, size), batch_size=batch, is_training=True, scale=(0.08, 1.0), color_jitter=None,
        interpolation="bilinear", num_workers=_CORES, use_prefetcher=_ON_GPU, device=device, persistent_workers=True,
        pin_memory=_ON_GPU,
    )  # fmt: skip


def _torchvision(tree, size, batch, device):
    steps = [
        v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]  # fmt: skip
    data = ImageFolder(str(tree / "photographs" / "train"), v2.Compose(steps))
    return DataLoader(
        data, batch, shuffle=True, num_workers=_CORES, drop_last=True, pin_memory=_ON_GPU, persistent_workers=True
    )


_QUICK = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 16}


@pytest.mark.parametrize("loader", [_timm, _torchvision])
@pytest.mark.parametrize(
    ("title", "arguments", "size", "form"),
    # Data that does not fit on the GPU, such as ImageNet, is stored as JPEG and cropped by CPU threads.
    [
        ("ResNet-18", {}, 224, "pixels"),
        ("ResNet-18, ours compiled,", {}, 224, "pixels"),
        ("ResNet-18 from prepared JPEG, ours compiled,", {}, 224, "jpeg"),
    ]
    if _ON_GPU
    # On a CPU an epoch at 224 px takes a minute of computation, so the loader would not show.
    else [
        ("the network of quick", _QUICK, 64, "pixels"),
        ("ResNet-18", {}, 64, "pixels"),
        # The baseline loop uses bfloat16 too.
        ("ResNet-18 in bfloat16", {}, 64, "pixels"),
    ],
)
def test_an_epoch_of_training_against_a_plain_loop(
    against, report, request, tmp_path, loader, title, arguments, size, form
):
    """One epoch of 1,000 photographs at batch 50 (on a GPU 16,000 at 250) with random-resized crops and flips.

    The time to prepare the data is not included.
    """
    tree, batch = request.getfixturevalue("long_tree" if _ON_GPU else "tree"), 250 if _ON_GPU else 50
    (tree / "plain.toml").write_text(
        'name = "photographs"\n[files]\nlayout = "split-folders"\nroot = "photographs"\ntest = "train"\n'
        f'[prepare]\nformat = "{form}"\n'
    )
    data, device = load_task_data(load_task(str(tree / "plain.toml")), [tree]), pick_device()
    pixels = prepare(data, "train", EvaluationTransform.of(Input(size=size)), cache=tmp_path, control=Control())
    schedule = Schedule(epochs=2, boundaries=(1,), rates=(0.1, 0.01), batch=batch)
    batches = Batches(
        pixels=pixels, labels=data.splits["train"].labels, seed=0, batch=batch, size=size, augmentation="crop-flip"
    )

    precision = "bfloat16" if "bfloat16" in title else _PRECISION

    def network():
        return create_model("resnet18", arguments, classes=10, seed=0)

    def ours():
        trainer = _trainer(batches, schedule, network(), device, compiled="compiled" in title, precision=precision)
        trainer.train(Control(), lambda progress: None, lambda: None)

    # The loader's processes persist between epochs, as in a long run; the warm-up epoch starts them.
    feed = loader(tree, size, batch, device)

    def theirs():
        _bare(network(), feed, device, precision)

    name = "timm's create_loader" if loader is _timm else "ImageFolder and DataLoader"
    ratio = against(f"an epoch of {title} at {size} px, against {name}", ours, theirs, rounds=3)
    feeding = []
    for _ in range(1 if _ON_GPU else 3):
        started = time.perf_counter()
        for _ in feed:
            pass
        feeding.append(time.perf_counter() - started)
    report(
        f"  {1 / ratio:.2f} times the images per second; their loader alone takes {statistics.median(feeding):.2f} s"
    )


def test_saving_against_a_step(report, tmp_path):
    """Cost of saving the state of a ResNet-18, in steps: the copy, and the slowdown while the file is written."""
    # On a GPU the trainer reports progress every 25 updates.
    device, batch, size, steps = pick_device(), 64, 64, 100 if _ON_GPU else 24
    draw = np.random.default_rng(0)

    class Images:
        plain = None
        values = draw.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)

        def __len__(self):
            return len(self.values)

        def evaluation(self, indices):
            return self.values[indices]

    schedule = Schedule(epochs=2, boundaries=(1,), rates=(0.1, 0.01), batch=batch)
    batches = Batches(
        pixels=Images(), labels=np.arange(batch * steps) % 100, seed=0, batch=batch, size=size, augmentation="none"
    )
    # One save on a GPU: a second would wait for the first, unlike in a real run. Three on a CPU reduce noise.
    saving_steps = {steps // 2} if _ON_GPU else {steps // 4, steps // 2, 3 * steps // 4}
    copies, losses = [], []
    for _ in range(7 if _ON_GPU else 3):
        seconds = {}
        for saving in (False, True):
            trainer = _trainer(batches, schedule, create_model("resnet18", {}, classes=100, seed=0), device)
            saver = Saver(lambda progress: save(tmp_path / "progress.pt", vars(progress)), device)

            class Saves(Control):
                def progress(self, done, total, unit, saving=saving, saver=saver, trainer=trainer):
                    if saving and done in saving_steps:
                        started = time.perf_counter()
                        saver.save(trainer.copy_progress())
                        copies.append(time.perf_counter() - started)

            started = time.perf_counter()
            trainer.train(Saves(), lambda progress: None, lambda: None)
            _wait()
            seconds[saving] = time.perf_counter() - started
            saver.close()
        losses.append((seconds[True] - seconds[False]) / len(saving_steps) / (seconds[False] / steps))
    stall, step = statistics.median(copies), seconds[False] / steps
    report(
        f"saving the state of a ResNet-18: training waits {stall * 1e3:.0f} ms, {stall / step:.2f} of a step; "
        f"the slowdown while writing included, it loses {statistics.median(losses):.2f} steps"
    )
