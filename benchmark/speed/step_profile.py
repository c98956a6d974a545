"""One update of pretraining looked at closely: `python benchmark/speed/step_profile.py [ARCHITECTURE …]`.

By default ResNet-18 and ResNet-50; on a GPU at 224 px, batch 256, bfloat16, compiled and not; on a CPU at 64 px, batch 32, in
single precision. For each: images a second of a bare loop on one batch that is there, of the engine's step on the same, and of
the whole engine on images prepared as pixels and as JPEG (made-up photographs); which kernels take the time; and what limits
the step: its arithmetic against the rate of a large matrix product in the same run, and the bytes that its operations read and
write against the rate of a large copy.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrbench.config import load_task
from lrbench.config.schedule import SnapshotKey, find_segment
from lrbench.config.suite import Input, Schedule, Training
from lrbench.core.control import Control
from lrbench.data.batches import Batches
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.models.devices import pick_device
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import count_operations, create_model
from lrbench.pretrain import loop
from lrbench.pretrain.loop import Trainer
from lrbench.pretrain.setup import arithmetic
from lrbench.pretrain.state import Progress

DEVICE = pick_device()
ON_GPU = DEVICE.type == "cuda"
SIZE, BATCH, PRECISION = (224, 256, "bfloat16") if ON_GPU else (64, 32, "float32")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
UPDATES, ROUNDS = (30, 3) if ON_GPU else (8, 3)
# Of the whole engine: on a GPU one is over before its threads are in step.
EPOCHS = 8 if ON_GPU else 1
NORMALISE = InputNormalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), DEVICE)
SCHEDULE = Schedule(epochs=EPOCHS + 1, boundaries=(EPOCHS,), rates=(0.01, 0.001), batch=BATCH)


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """The median time of some work, after a first round that does not count."""
    found = []
    for number in range(rounds + 1):
        _wait()
        started = time.perf_counter()
        work()
        _wait()
        if number:
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def network(architecture: str) -> nn.Module:
    """A fresh network on the device, in training mode."""
    model = create_model(architecture, {}, classes=1000, seed=0)
    return model.to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def trainer_of(model: nn.Module, batches: Any, compiled: bool) -> Trainer:
    """The engine on some batches, from update 0."""
    return Trainer(
        model, find_segment(SCHEDULE, SnapshotKey(arm="step", seed=0, stage=1)), SCHEDULE,
        Training(precision=PRECISION, compile=compiled), batches, NORMALISE,
        Progress(update=0, weights=model.state_dict()),
        micro_batch=None, needs_mean=False, epochs_to_keep={}, updates=1, device=DEVICE, say=print,
    )  # fmt: skip


def updates(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    compiled: bool,
    count: int,
    watch: AbstractContextManager[Any] | None = None,
) -> None:
    """Updates of the engine on one batch that is on the device, the last of them within `watch`."""

    def repeated(*_: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(count):
            with watch if watch is not None and number == count - 1 else nullcontext():
                yield images, labels

    batches = SimpleNamespace(seed=0, batch=len(labels), updates_per_epoch=UPDATES)
    with mock.patch.object(loop, "training_batches", repeated):
        trainer_of(model, batches, compiled).train(Control(), lambda progress: None, lambda: None)


def bare(architecture: str, inputs: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Updates of a plain loop on one batch of inputs."""
    model = network(architecture)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)

    def run() -> None:
        for _ in range(UPDATES):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bfloat16"):
                loss = nn.functional.cross_entropy(model(inputs), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return run


def engine(architecture: str, root: Path, form: str, compiled: bool) -> Callable[[], Any]:
    """Epochs of the whole engine on made-up photographs, prepared in a form."""
    path = root / f"{form}.toml"
    path.write_text(
        f'name = "photographs-{form}"\n[files]\nlayout = "split-folders"\nroot = "photographs"\ntest = "train"\n'
        f'[prepare]\nformat = "{form}"\n'
    )
    data = load_task_data(load_task(str(path)), [root])
    pixels = prepare(data, "train", EvaluationTransform.of(Input(size=SIZE)), cache=root, control=Control())
    labels = data.splits["train"].labels
    batches = Batches(pixels=pixels, labels=labels, seed=0, batch=BATCH, size=SIZE, augmentation="crop-flip")
    model = network(architecture)

    def run() -> None:
        trainer_of(model, batches, compiled).train(Control(), lambda progress: None, lambda: None)

    return run


def photographs(root: Path) -> int:
    """As many JPEG files of 500 by 375 pixels as an epoch of the measurement takes; gives their number.

    All beyond the first 512 are these under other names: writing them is no part of the measurement.
    """
    draw = np.random.default_rng(0)
    made: list[Path] = []
    for number in range(UPDATES * BATCH):
        target = root / "photographs" / "train" / f"class{number % 10}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        if number >= 512:
            target.hardlink_to(made[number % 512])
            continue
        small = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(target, quality=90)
        made.append(target)
    return UPDATES * BATCH


class Traffic(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations take and give: what an uncompiled step reads and writes at least."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        # Views move nothing.
        if not function.is_view:
            self.bytes += sum(
                each.numel() * each.element_size()
                for each in tree_leaves((args, kwargs, given))
                if isinstance(each, torch.Tensor)
            )
        return given


def machine_rates() -> tuple[float, float]:
    """What this device does at best in a second: operations of a matrix product, and bytes of a copy (read and written)."""
    side = 8192 if ON_GPU else 2048
    left, right = (torch.randn(side, side, device=DEVICE, dtype=DTYPE) for _ in range(2))
    product = seconds(lambda: left @ right)
    source = torch.empty((1 << 30) if ON_GPU else (1 << 28), dtype=torch.uint8, device=DEVICE)
    goal = torch.empty_like(source)
    copying = seconds(lambda: goal.copy_(source))
    return 2 * side**3 / product, 2 * len(source) / copying


def examine(architecture: str, root: Path, peak: float, bandwidth: float) -> None:
    """Measure one network and print what was found."""
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8, device=DEVICE)
    labels = torch.arange(BATCH, device=DEVICE) % 1000
    loop = seconds(bare(architecture, NORMALISE(images), labels)) / UPDATES
    print(f"\n{architecture}, {SIZE} px, batch {BATCH}, {PRECISION}")
    print(f"  bare loop on one batch that is there: {BATCH / loop:,.0f} images/s, {loop * 1e3:.1f} ms an update")
    for compiled in (False, True) if ON_GPU else (False,):
        kind = "compiled" if compiled else "not compiled"
        model = network(architecture)
        mine = seconds(partial(updates, model, images, labels, compiled, UPDATES)) / UPDATES
        print(f"  the engine's step, {kind}: {BATCH / mine:,.0f} images/s, {loop / mine:.2f} times the bare loop's")
        for form in ("pixels", "jpeg"):
            whole = seconds(engine(architecture, root, form, compiled), rounds=2) / (EPOCHS * UPDATES)
            print(f"  the engine on prepared {form}, {kind}: {BATCH / whole:,.0f} images/s, {loop / whole:.2f} times")
    model = network(architecture)
    traffic = Traffic()
    updates(model, images, labels, False, 2, traffic)
    # Backward takes two products for each of forward's.
    computing = 3 * BATCH * count_operations(create_model(architecture, {}, classes=1000), SIZE) / peak
    moving = traffic.bytes / bandwidth
    limit = "bytes" if moving > computing else "arithmetic"
    print(
        f"  at this machine's best rates an update's arithmetic takes {computing * 1e3:.1f} ms and its bytes "
        f"{moving * 1e3:.1f} ms ({traffic.bytes / 1e9:.1f} GB): the limit is {limit}"
    )
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if ON_GPU else [])]
    with torch.profiler.profile(activities=activities) as profile:
        updates(model, images, labels, False, 1)
        _wait()
    own = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    # On a GPU the operators' entries, and ranges with names of their own, hold their kernels' time once more.
    kernels = [
        each
        for each in profile.key_averages()
        if not ON_GPU or (each.device_type == torch.autograd.DeviceType.CUDA and not each.is_user_annotation)
    ]
    every = sorted(kernels, key=lambda each: getattr(each, own), reverse=True)
    total = sum(getattr(each, own) for each in every) or 1.0
    for each in every[:8]:
        print(f"    {100 * getattr(each, own) / total:4.1f} %  {each.count:4d} times  {each.key[:90]}")


def main() -> None:
    """Examine the networks named, or ResNet-18 and ResNet-50."""
    name = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory() as folder, arithmetic(DEVICE, deterministic=False):
        root = Path(folder)
        count = photographs(root)
        peak, bandwidth = machine_rates()
        print(f"{name}: {peak / 1e12:.2f} T operations/s ({DTYPE}), {bandwidth / 1e9:.1f} GB/s; {count:,} photographs")
        for architecture in sys.argv[1:] or ("resnet18", "resnet50"):
            examine(architecture, root, peak, bandwidth)


if __name__ == "__main__":
    main()
