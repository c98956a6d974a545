"""Profile one update of pretraining: `python benchmark/speed/step_profile.py [ARCHITECTURE …]`.

The default architectures are ResNet-18 and ResNet-50. On a GPU: 224 px, batch 256, bfloat16, with and without compilation. On a
CPU: 64 px, batch 32, float32. For each architecture the script prints

- the images per second of a bare loop on one resident batch, of the engine's step on the same batch, and of the whole engine on
  synthetic photographs prepared as pixels and as JPEG;
- whether arithmetic or memory traffic limits the step, compared with a large matrix product and a large copy in the same run;
- the kernels that take the most time.
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
from lrbench.models.networks import count_operations, create_model
from lrbench.pretraining import loop
from lrbench.pretraining.loop import Trainer
from lrbench.pretraining.setup import arithmetic
from lrbench.pretraining.state import Progress

DEVICE = pick_device()
ON_GPU = DEVICE.type == "cuda"
SIZE, BATCH, PRECISION = (224, 256, "bfloat16") if ON_GPU else (64, 32, "float32")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
UPDATES, ROUNDS = (30, 3) if ON_GPU else (8, 3)
# For the whole engine. On a GPU one epoch ends before its loader threads reach a steady state.
EPOCHS = 8 if ON_GPU else 1
NORMALISE = InputNormalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), DEVICE)
SCHEDULE = Schedule(epochs=EPOCHS + 1, boundaries=(EPOCHS,), rates=(0.01, 0.001), batch=BATCH)


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median time of `work` over `rounds` runs, after one warm-up run."""
    durations = []
    for number in range(rounds + 1):
        _wait()
        started = time.perf_counter()
        work()
        _wait()
        if number:
            durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def network(architecture: str) -> nn.Module:
    """Return a new network on the device, in training mode."""
    model = create_model(architecture, {}, classes=1000, seed=0)
    return model.to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def trainer_of(model: nn.Module, batches: Any, compiled: bool) -> Trainer:
    """Return the engine on `batches`, at update 0."""
    return Trainer(
        model, find_segment(SCHEDULE, SnapshotKey(arm="step", seed=0, stage=1)), SCHEDULE,
        Training(precision=PRECISION, compile=compiled), batches, NORMALISE,
        Progress(update=0, weights=model.state_dict()),
        micro_batch=None, means=(), epochs_to_keep={}, updates=1, device=DEVICE, say=print,
    )  # fmt: skip


def updates(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    compiled: bool,
    count: int,
    watch: AbstractContextManager[Any] | None = None,
) -> None:
    """Run `count` updates of the engine on one resident batch, the last of them inside `watch`."""

    def repeated(*_: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(count):
            with watch if watch is not None and number == count - 1 else nullcontext():
                yield images, labels

    batches = SimpleNamespace(seed=0, batch=len(labels), updates_per_epoch=UPDATES)
    with mock.patch.object(loop, "training_batches", repeated):
        trainer_of(model, batches, compiled).train(Control(), lambda progress: None, lambda: None)


def bare(architecture: str, inputs: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Return a function that runs the updates of a plain loop on one batch of inputs."""
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
    """Return a function that trains the whole engine on the photographs, prepared as `form`."""
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
    """Write one epoch of JPEG files of 500 by 375 pixels and return their number.

    Files after the first 512 are hard links to these.
    """
    draw = np.random.default_rng(0)
    originals: list[Path] = []
    for number in range(UPDATES * BATCH):
        target = root / "photographs" / "train" / f"class{number % 10}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        if number >= 512:
            target.hardlink_to(originals[number % 512])
            continue
        small = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(target, quality=90)
        originals.append(target)
    return UPDATES * BATCH


class Traffic(TorchDispatchMode):
    """Sum the bytes of the inputs and outputs of all operations: a lower bound on the traffic of an uncompiled step."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        # Views move no data.
        if not function.is_view:
            self.bytes += sum(
                leaf.numel() * leaf.element_size()
                for leaf in tree_leaves((args, kwargs, outputs))
                if isinstance(leaf, torch.Tensor)
            )
        return outputs


def machine_rates() -> tuple[float, float]:
    """Return the device's peak rates per second: operations of a matrix product, and bytes of a copy (read and written)."""
    side = 8192 if ON_GPU else 2048
    left, right = (torch.randn(side, side, device=DEVICE, dtype=DTYPE) for _ in range(2))
    product = seconds(lambda: left @ right)
    source = torch.empty((1 << 30) if ON_GPU else (1 << 28), dtype=torch.uint8, device=DEVICE)
    goal = torch.empty_like(source)
    copying = seconds(lambda: goal.copy_(source))
    return 2 * side**3 / product, 2 * len(source) / copying


def examine(architecture: str, root: Path, peak: float, bandwidth: float) -> None:
    """Measure one network and print the results."""
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8, device=DEVICE)
    labels = torch.arange(BATCH, device=DEVICE) % 1000
    baseline = seconds(bare(architecture, NORMALISE(images), labels)) / UPDATES
    print(f"\n{architecture}, {SIZE} px, batch {BATCH}, {PRECISION}")
    print(f"  bare loop on one resident batch: {BATCH / baseline:,.0f} images/s, {baseline * 1e3:.1f} ms per update")
    for compiled in (False, True) if ON_GPU else (False,):
        kind = "compiled" if compiled else "not compiled"
        model = network(architecture)
        step = seconds(partial(updates, model, images, labels, compiled, UPDATES)) / UPDATES
        print(f"  the engine's step, {kind}: {BATCH / step:,.0f} images/s, {baseline / step:.2f} times the bare loop's")
        for form in ("pixels", "jpeg"):
            whole = seconds(engine(architecture, root, form, compiled), rounds=2) / (EPOCHS * UPDATES)
            print(
                f"  the engine on prepared {form}, {kind}: {BATCH / whole:,.0f} images/s, {baseline / whole:.2f} times"
            )
    model = network(architecture)
    traffic = Traffic()
    updates(model, images, labels, False, 2, traffic)
    # The backward pass takes two products for each product of the forward pass.
    computing = 3 * BATCH * count_operations(create_model(architecture, {}, classes=1000), SIZE) / peak
    moving = traffic.bytes / bandwidth
    limit = "memory traffic" if moving > computing else "arithmetic"
    print(
        f"  at this machine's peak rates the arithmetic of an update takes {computing * 1e3:.1f} ms and its memory traffic "
        f"{moving * 1e3:.1f} ms ({traffic.bytes / 1e9:.1f} GB): the limit is {limit}"
    )
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if ON_GPU else [])]
    with torch.profiler.profile(activities=activities) as profile:
        updates(model, images, labels, False, 1)
        _wait()
    self_time = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    # On a GPU the entries of operators and annotated ranges would count the time of their kernels twice.
    kernels = [
        event
        for event in profile.key_averages()
        if not ON_GPU or (event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation)
    ]
    kernels.sort(key=lambda kernel: getattr(kernel, self_time), reverse=True)
    total = sum(getattr(kernel, self_time) for kernel in kernels) or 1.0
    for kernel in kernels[:8]:
        print(f"    {100 * getattr(kernel, self_time) / total:4.1f} %  {kernel.count:4d} times  {kernel.key[:90]}")


def main() -> None:
    """Profile the named networks, or ResNet-18 and ResNet-50."""
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
