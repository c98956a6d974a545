"""Overhead of the transfer engine: extraction and fine-tuning against bare loops, and the fixed cost of a cell."""

import os
import statistics
import time

import numpy as np
import torch
from torch import nn

from lrbench.config import load_suite, load_task
from lrbench.config.protocols import Finetune
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.workspace import Place, Workspace
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import Shard, StoredPixels
from lrbench.data.prepare import prepare
from lrbench.models.devices import pick_device
from lrbench.models.folding import fold_batchnorm
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.networks import create_model, penultimate
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.references import resolve_reference
from lrbench.transfer.cell import Transfer
from lrbench.transfer.protocols.finetune_run import FinetuneContext, TrainingRun, UpdateProgress
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.target import Development, JoinedPixels

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def test_extraction_against_the_bare_forward(against):
    """Features of 1,024 prepared images at 96 px with ResNet-18, against its forward pass on one resident batch.

    A GPU takes 32,768 images: fewer are finished before the loader threads have started.
    """
    device, size, batch = pick_device(), 96, 256
    count = 1024 if device.type == "cpu" else 32768
    content = np.random.default_rng(0).integers(0, 256, count * size * size * 3, dtype=np.uint8)
    length = size * size * 3
    index = np.array([[number * length, length, size, size] for number in range(count)])
    pixels = StoredPixels([Shard(content=content, index=index)], size, encoded=False)
    model = create_model("resnet18", {}, classes=10, seed=0).to(device, memory_format=torch.channels_last).eval()
    normalise = InputNormalisation(_MEAN, _STD, device)
    resident, folded = normalise(torch.from_numpy(pixels.evaluation(np.arange(batch)))), fold_batchnorm(model)

    def bare():
        with torch.inference_mode():
            for _ in range(count // batch):
                penultimate(model, resident)
        _wait(device)

    against(
        f"features of {count:,} images at {size} px with ResNet-18, against the bare forward pass",
        lambda: forward_all(lambda images: penultimate(folded, images), pixels, normalise),
        bare,
    )


def test_finetuning_against_a_bare_loop(against, tmp_path):
    """A few updates of a ResNet-18 on 64 images at 64 px with random crops, against a bare loop."""
    device, size = pick_device(), 64
    updates = 6 if device.type == "cpu" else 100
    suite, task = load_suite("quick"), load_task("toy-objects")
    data = load_task_data(task, [])
    transform = EvaluationTransform(size=size, resize=size, interpolation="bilinear")
    pixels = prepare(data, "train", transform, cache=tmp_path, control=Control())
    labels = data.splits["train"].labels
    classes = len(data.classes)
    model = create_model("resnet18", {}, classes=classes, seed=0).to(device).eval()
    normalise = InputNormalisation(suite.input.mean, suite.input.std, device)
    development = Development(
        pixels=JoinedPixels([pixels]), labels=labels, ids=data.splits["train"].ids, given=np.arange(0)
    )
    settings = Finetune(updates=updates)
    context = FinetuneContext(
        model=model,
        development=development,
        classes=classes,
        size=size,
        normalise=normalise,
        settings=settings,
        seed=0,
        device=device,
        points=Points(None),
    )
    batch = torch.from_numpy(pixels.evaluation(np.arange(settings.batch))).to(device)
    targets = torch.from_numpy(labels[: settings.batch]).to(device)

    def bare():
        fresh = context.new_model().train()
        optimiser = torch.optim.SGD(fresh.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
        for _ in range(updates):
            loss = nn.functional.cross_entropy(fresh(normalise(batch)), targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        _wait(device)

    against(
        f"{updates} updates of fine-tuning a ResNet-18 at {size} px, against a bare loop on one resident batch",
        lambda: TrainingRun(context, UpdateProgress((updates,), 0), np.arange(len(labels)), 0.01, 0.0).train(
            updates, Control()
        ),
        bare,
        rounds=15,
    )


def test_a_cells_overhead(report, tmp_path, monkeypatch):
    """Time of a cell besides extraction, selection and fit: reading, metrics, predictions and the record."""
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    changes = ["schedule.epochs=3", "schedule.boundaries=[1, 2]", "name=overhead"]
    suite, workspace = load_suite("quick", changes), Workspace.current()
    place = Place(workspace=workspace, roots=())
    make_snapshot(suite, SnapshotKey(arm="step", seed=0, stage=0), place, Control())
    from lrbench.store.suites import write_effective

    write_effective(workspace, suite)
    reference = resolve_reference("overhead/step/seed0/stage0", workspace)
    transfer = Transfer(reference, TransferSettings.of(suite), place, Control())
    spent = []
    for seed in range(21):
        started = time.perf_counter()
        path = transfer.run(Cell(task="toy-birds", protocol="knn", seed=seed))
        whole = time.perf_counter() - started
        from lrbench.store.results import read_result

        timings = read_result(path).timings
        spent.append(whole - timings["selection"] - timings["fit"])
    # The first cell also opens the target and extracts features.
    report(f"a cell's overhead: {1000 * statistics.median(spent[1:]):.1f} ms (median of 20)")
