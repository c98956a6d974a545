"""What only a GPU can show: `LRBENCH_TEST_GPU=1 pytest tests/test_gpu.py`. All other tests hide the GPUs and use the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from lrbench.config import load_suite
from lrbench.config.pretraining import Schedule, Training
from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.machine import set_cublas_workspace
from lrbench.core.workspace import Place, Workspace
from lrbench.data.batches import Batches
from lrbench.data.device_images import DeviceImages, crop_layout, resize_crops
from lrbench.data.pixels import Shard, StoredPixels
from lrbench.models.devices import pick_device, to_device
from lrbench.models.graphs import capture
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining import loop
from lrbench.pretraining.batchnorm import reestimate
from lrbench.pretraining.setup import arithmetic
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.references import SuiteSnapshot
from lrbench.store.results import read_result
from lrbench.store.snapshots import read_metadata
from lrbench.transfer.blocks import add_by_class
from lrbench.transfer.cell import Transfer
from lrbench.transfer.protocols import finetune_run
from tests.helpers import make_home
from tests.pretraining.helpers import StopsAfter, key, make, train, trainer

pytestmark = pytest.mark.skipif(
    os.environ.get("LRBENCH_TEST_GPU") != "1", reason="needs a GPU: LRBENCH_TEST_GPU=1 pytest tests/test_gpu.py"
)
# Before the first product of matrices.
set_cublas_workspace()
DEVICE = pick_device()
CPU = torch.device("cpu")
SIZE, COUNT = 32, 40


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the GPU raises."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def pinned(*parts):
    return [part.pin_memory() if DEVICE.type == "cuda" else part for part in parts]


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """The tiny suite with stages 0 and 1 of `step`, and its workspace."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_home(tmp_path_factory.mktemp("snapshots"), monkeypatch)
        # Weaker penalties need many iterations, which are slow on a GPU for so small a problem.
        suite = load_suite("tiny.toml").model_copy(update={"probe": Probe(strengths=3, weakest=1.0)})
        place = Place(workspace=Workspace(root=root), roots=(root / "data",))
        for stage in (0, 1):
            make(suite, key("step", stage), place)
        yield suite, place


def images(height, width, count=COUNT):
    values = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    size = values[0].size
    index = np.array([[number * size, size, height, width] for number in range(count)])
    return StoredPixels([Shard(content=values.reshape(-1), index=index)], SIZE, encoded=False)


def batches(pixels, augmentation):
    return Batches(
        pixels=pixels, labels=np.arange(len(pixels)) % 5, seed=1, batch=8, size=SIZE, augmentation=augmentation
    )


def network():
    arguments = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    return create_model("resnet18", arguments, classes=5, seed=0)


def trainer_of(model, schedule, source, precision=torch.float32, micro_batch=None, **training):
    """A trainer on the device whose weights and inputs have a precision."""
    normalise = InputNormalisation((0.5,) * 3, (0.25,) * 3, DEVICE)
    return trainer(
        to_device(model, DEVICE).to(precision), schedule, source, training=Training(**training), device=DEVICE,
        normalise=lambda batch: normalise(batch).to(precision), micro_batch=micro_batch, say=pytest.fail,
    )  # fmt: skip


def small_residual_network():
    """A network with BatchNorm, pooling and a residual block that compiles quickly."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2))
    return nn.Sequential(*stem, BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def losses(updates, *, compiled, precision, micro_batch=None):
    """The loss before each update, and the weights and BatchNorm statistics after the last."""
    # An epoch is one update, so that its record holds the loss of one update.
    schedule = Schedule(epochs=updates + 1, boundaries=(updates,), rates=(0.05, 0.01), batch=8)
    source = batches(images(SIZE, SIZE, count=8), "none")
    end = train(trainer_of(small_residual_network(), schedule, source, precision, micro_batch, compile=compiled))
    return [record["loss"] for record in end.records], end.weights


def test_there_is_a_gpu():
    assert torch.cuda.is_available(), "torch sees no GPU, so that the other tests of this file have shown nothing"


def test_crops_that_it_is_given_become_those_of_a_cpu_and_nothing_is_waited_for():
    cpu_batches = batches(images(40, 36), "crop-flip")
    for update in range(3):
        content, extents, flips, _ = cpu_batches.patches(update)
        given = pinned(content, *crop_layout(extents, flips))
        with no_waiting():
            crops = resize_crops(*given, SIZE, DEVICE)
        assert (crops.cpu().int() - cpu_batches.at(update)[0].int()).abs().max() <= 1


@pytest.mark.parametrize("shape", [(40, 36), (SIZE, SIZE)])
@pytest.mark.parametrize("augmentation", ["crop-flip", "flip", "none"])
def test_batches_that_it_cuts_are_those_that_a_cpu_cuts_and_nothing_is_waited_for(shape, augmentation):
    cpu_batches = batches(images(*shape), augmentation)
    gpu_images = DeviceImages(cpu_batches.pixels.plain, SIZE, DEVICE)
    for update in range(3):
        given = pinned(*gpu_images.layout(*cpu_batches.recipe(update)[:3]))
        with no_waiting():
            crops = gpu_images.batch(*given)
        difference = (crops.cpu().int() - cpu_batches.at(update)[0].int()).abs().max()
        assert difference <= (1 if augmentation == "crop-flip" else 0)


def test_an_update_waits_for_nothing(monkeypatch):
    def fed(source, first, last, device):
        shown = [tuple(part.to(DEVICE) for part in source.at(update)) for update in range(first, last)]
        yield shown[0]
        with no_waiting():
            yield shown[1]
        yield from shown[2:]

    monkeypatch.setattr(loop, "training_batches", fed)
    schedule = Schedule(epochs=2, boundaries=(1,), rates=(0.05, 0.01), batch=8)
    assert train(trainer_of(network(), schedule, batches(images(SIZE, SIZE), "none"), compile=False)).update == 5


# In float64, rounding stays far below a wrong gradient, rate or statistic. In float32, it grows from update to update.
@pytest.mark.parametrize(
    ("precision", "updates", "micro_batch", "tolerance"), [(torch.float64, 6, 4, 1e-6), (torch.float32, 2, None, 1e-4)]
)
def test_compiling_changes_nothing_but_the_time(monkeypatch, precision, updates, micro_batch, tolerance):
    # TF32 rounds inputs of convolutions to 10 bits, differently in different kernels.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    eager, compiled = (
        losses(updates, compiled=compiles, precision=precision, micro_batch=micro_batch) for compiles in (False, True)
    )
    assert compiled[0] == pytest.approx(eager[0], rel=tolerance), f"losses compiled {compiled[0]}, eager {eager[0]}"
    for name, tensor in eager[1].items():
        torch.testing.assert_close(compiled[1][name], tensor, rtol=100 * tolerance, atol=tolerance)


def test_statistics_are_a_cpus():
    statistics = []
    for device in (DEVICE, CPU):
        normalise = InputNormalisation((0.5,) * 3, (0.25,) * 3, device)
        statistics.append(
            reestimate(to_device(network(), device), images(SIZE, SIZE), normalise, images=COUNT, seed=0)[0]
        )
    for name, tensor in statistics[0].items():
        torch.testing.assert_close(tensor, statistics[1][name], rtol=1e-2, atol=1e-3)


def test_where_it_is_asked_to_every_bit_is_the_same_also_after_a_stop(tiny, place):
    suite = tiny.model_copy(update={"training": Training(deterministic=True)})
    path = make(suite, key("step", 1), place)
    whole = path.read_bytes()
    assert 0 < read_metadata(path).source_accuracy <= 1
    path.unlink()
    with pytest.raises(InterruptedWork):
        make(suite, key("step", 1), place, StopsAfter(4))
    assert make(suite, key("step", 1), place).read_bytes() == whole


@pytest.mark.parametrize(
    "protocol", ["probe", "knn", "fewshot", "concat", "depth", "logme", "representation", "finetune"]
)
def test_every_protocol_runs_and_frozen_ones_repeat(snapshots, protocol):
    suite, place = snapshots
    reference = SuiteSnapshot(suite=suite, key=key("step", 1), checkpoints=place.workspace.checkpoints)
    results = []
    for _ in range(2):
        transfer = Transfer(reference, TransferSettings.of(suite), place, Control())
        results.append(read_result(transfer.run(Cell(task="tiny-objects", protocol=protocol, seed=0))))
    assert results[0].test_count == 40 and results[0].device == ("cpu" if DEVICE.type == "cpu" else results[0].device)
    if protocol != "finetune":
        assert results[0].metrics == results[1].metrics and results[0].chosen == results[1].chosen


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graphs_change_nothing_but_the_time(snapshots, monkeypatch, precision):
    suite, place = snapshots
    suite = suite.model_copy(update={"finetune": suite.finetune.model_copy(update={"precision": precision})})
    reference = SuiteSnapshot(suite=suite, key=key("step", 1), checkpoints=place.workspace.checkpoints)
    captures = []
    monkeypatch.setattr(finetune_run, "capture", lambda *inputs: captures.append(capture(*inputs)))
    results = []
    for switch in ("0", "1"):
        monkeypatch.setenv("LRBENCH_CUDA_GRAPHS", switch)
        with arithmetic(DEVICE, deterministic=True):
            transfer = Transfer(reference, TransferSettings.of(suite), place, Control())
            cell = Cell(task="tiny-objects", protocol="finetune", seed=0)
            results.append(read_result(transfer.run(cell)))
    assert captures and set(captures) == {None}
    scores = [[point["score"] for point in result.selection["candidates"]] for result in results]
    assert scores[0] == scores[1] and results[0].metrics == results[1].metrics


def test_sums_by_class_are_the_same_each_time_and_a_cpus():
    values = torch.randn(5000, 64, dtype=torch.float64)
    labels = torch.randint(0, 30, (5000,))
    expected = torch.zeros(31, 64, dtype=torch.float64)
    add_by_class(expected, values, labels)
    sums = [torch.zeros(31, 64, dtype=torch.float64, device=DEVICE) for _ in range(5)]
    for into in sums:
        add_by_class(into, values.to(DEVICE), labels.to(DEVICE))
    assert all(torch.equal(into, sums[0]) for into in sums)
    torch.testing.assert_close(sums[0].cpu(), expected, rtol=1e-9, atol=1e-9)


def test_how_it_computes_is_put_back():
    before = torch.backends.cudnn.benchmark
    with arithmetic(DEVICE, deterministic=True):
        pass
    assert torch.backends.cudnn.benchmark == before and not torch.are_deterministic_algorithms_enabled()
