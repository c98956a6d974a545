"""Measure how computing time grows with the size of a suite: `python benchmark/speed/growth.py`, about five minutes.

Processor time of this process at several sizes, each the median of three runs, and the slope of log time over log size. A slope
of 1 means that twice the size takes twice the time. Fixed costs lower it at small sizes, so the last two sizes count most: the
table shows their slope as well.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lrbench.config import load_suite, load_task
from lrbench.config.protocols import Knn, Probe
from lrbench.core.control import Control
from lrbench.core.workspace import Place, Workspace
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.jobs.plan import make_plan
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.networks import create_model, penultimate
from lrbench.transfer.protocols import knn
from lrbench.transfer.protocols.logistic import Standardiser, solve
from lrbench.transfer.selection import LabelledFeatures

_RUNS = 3


def slope(what: str, sizes: Sequence[int], prepared: Callable[[int], Callable[[], object]]) -> None:
    """Print the slopes of log time over log size.

    Args:
        what: What grows.
        sizes: Rising sizes.
        prepared: Returns the work of a size; preparing it is not timed.
    """
    times = []
    for size in sizes:
        seconds = []
        for _ in range(_RUNS):
            work = prepared(size)
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        times.append(statistics.median(seconds))
    whole = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    last = float(np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2]))
    shown = ", ".join(f"{size:,}: {seconds:.2f} s" for size, seconds in zip(sizes, times, strict=True))
    print(f"{what:<50} slope {whole:.2f}, of the last two {last:.2f}   ({shown})", flush=True)


def separable(images: int, width: int, classes: int) -> LabelledFeatures:
    """Return features of images whose classes overlap."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    centres = torch.randn(classes, width, generator=draw)
    return LabelledFeatures(features=torch.randn(images, width, generator=draw) + centres[labels], labels=labels)


def probing(images: int, width: int = 128, classes: int = 10, strengths: int = 9) -> Callable[[], object]:
    """Return the work of solving the probe's path of strengths."""
    data = separable(images, width, classes)
    settings = Probe(strengths=strengths)
    inputs = Standardiser(data.features)(data.features)
    return lambda: solve(inputs, data.labels, settings.grid(), classes=classes, settings=settings)


def neighbours(images: int) -> Callable[[], object]:
    """Return the work of the choice of k for the nearest neighbours of a fifth as many images."""
    train, held_out = separable(images, 128, 10), separable(images // 5, 128, 10)
    return lambda: knn.select(train, held_out, classes=10, metric="top1", settings=Knn())


def preparing(images: int) -> Callable[[], object]:
    """Return the work of drawing and resizing generated images."""
    task = load_task("toy-objects")
    task = task.model_copy(update={"files": task.files.model_copy(update={"train": images})})
    data = load_task_data(task, [])
    transform = EvaluationTransform(size=48, resize=48, interpolation="bilinear")
    return lambda: prepare(data, "train", transform, cache=None, control=Control())


def extracting(images: int) -> Callable[[], object]:
    """Return the work of extracting features."""
    pixels = preparing(images)()
    model = create_model("resnet18", {}, classes=10, seed=0).eval()
    normalise = InputNormalisation((0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    return lambda: forward_all(lambda batch: penultimate(model, batch), pixels, normalise)


def planning(seeds: int) -> Callable[[], object]:
    """Return the work of planning `imagenet` with several seeds, and of listing its jobs."""
    suite = load_suite("imagenet").model_copy(update={"seeds": tuple(range(seeds))})
    place = Place(workspace=Workspace(root=Path(tempfile.gettempdir()) / "none"), roots=())
    return lambda: make_plan(suite, place).jobs()


def main() -> None:
    """Measure all slopes."""
    torch.set_num_threads(1)
    slope("prepared images", (2000, 8000, 32000), preparing)
    slope("features of images", (128, 512, 2048), extracting)
    slope("probe on one CPU core, images", (500, 1000, 2000), probing)
    slope("larger probe, images", (8000, 16000, 32000), probing)
    slope("larger probe, classes", (20, 40, 80), lambda size: probing(images=8000, classes=size))
    slope("larger probe, features", (256, 512, 1024), lambda size: probing(images=8000, width=size))
    slope("larger probe, strengths", (9, 18, 36), lambda size: probing(images=8000, strengths=size))
    slope("knn, images", (2000, 8000, 32000), neighbours)
    slope("plan, pretraining seeds", (12, 48, 192), planning)


if __name__ == "__main__":
    main()
