"""Speed of the data layer against torchvision's `ImageFolder` and `DataLoader` on the same files and cores; memory use."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lrbench.config import load_suite, load_task
from lrbench.config.suite import Input
from lrbench.data.batches import Batches
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prefetch import prefetch, training_batches
from lrbench.data.prepare import prepare
from lrbench.models.devices import pick_device
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model

_IMAGES, _BATCH = 1000, 50
_CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _one_thread_each():
    # Both sides parallelise over images, not within an image.
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(_CORES)


def _data(tree, form):
    (tree / f"{form}.toml").write_text(
        f'name = "photographs-{form}"\n[files]\nlayout = "split-folders"\nroot = "photographs"\ntest = "train"\n'
        f'[prepare]\nformat = "{form}"\n'
    )
    return load_task_data(load_task(str(tree / f"{form}.toml")), [tree])


def _their_epoch(tree, size):
    steps = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    data = ImageFolder(str(tree / "photographs" / "train"), v2.Compose(steps))
    for _ in DataLoader(data, batch_size=_BATCH, shuffle=True, num_workers=_CORES):
        pass


@pytest.mark.parametrize(("form", "size"), [("pixels", 64), ("pixels", 224), ("jpeg", 224)])
def test_feeding_a_prepared_task_against_imagefolder(against, tree, tmp_path, form, size):
    """One epoch of random-resized crops and flips."""
    data = _data(tree, form)
    pixels = prepare(data, "train", EvaluationTransform.of(Input(size=size)), cache=tmp_path)
    batches = Batches(
        pixels=pixels,
        labels=data.splits["train"].labels,
        seed=0,
        batch=_BATCH,
        size=size,
        augmentation="crop-flip",
    )
    # Cropping raw pixels takes less time than handing batches between threads; decoding JPEG uses all cores.
    threads = _CORES if form == "jpeg" else 0
    against(
        f"an epoch of {_IMAGES:,} crops of {size} px from prepared {form}, against ImageFolder and DataLoader",
        lambda: [None for _ in prefetch(batches.at, 0, batches.updates_per_epoch, threads=threads)],
        lambda: _their_epoch(tree, size),
    )


@pytest.mark.parametrize(("form", "size"), [("pixels", 64), ("pixels", 224), ("jpeg", 224)])
def test_preparing_against_one_epoch_of_imagefolder(against, tree, tmp_path, form, size):
    """Decode, resize and write the whole cache, which is removed between rounds."""
    against(
        f"preparing {_IMAGES:,} images for {size} px as {form}, against an epoch of ImageFolder and DataLoader",
        lambda: prepare(_data(tree, form), "train", EvaluationTransform.of(Input(size=size)), cache=tmp_path / "cache"),
        lambda: _their_epoch(tree, size),
        rounds=9,
        between=lambda: shutil.rmtree(tmp_path / "cache", ignore_errors=True),
    )


@pytest.mark.parametrize("form", ["pixels", "jpeg"])
@pytest.mark.parametrize(
    ("architecture", "size", "batch", "steps"),
    [("resnet18", 64, _BATCH, 8), ("resnet18", 224, 16, 3), ("quick", 64, _BATCH, 20)],
)
def test_training_from_the_cache_against_one_resident_batch(
    against, tree, tmp_path, form, architecture, size, batch, steps
):
    """Equal steps, fed from the cache or with one resident batch: ResNet-18, and the tiny network of `quick`."""
    torch.set_num_threads(_CORES)
    suite, device = load_suite("quick"), pick_device()
    data = _data(tree, form)
    pixels = prepare(data, "train", EvaluationTransform.of(Input(size=size)), cache=tmp_path)
    labels = data.splits["train"].labels
    batches = Batches(pixels=pixels, labels=labels, seed=0, batch=batch, size=size, augmentation="crop-flip")
    chosen = (suite.model.architecture, suite.model.arguments) if architecture == "quick" else (architecture, {})
    model = create_model(*chosen, classes=10, seed=0)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    normalise = InputNormalisation(suite.input.mean, suite.input.std, device)

    def train(batches):
        for images, targets in batches:
            loss = nn.functional.cross_entropy(model(normalise(images)), targets.to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    resident = batches.at(0)
    against(
        f"{steps} training steps of {architecture} at {size} px fed from prepared {form}, against one resident batch",
        lambda: train(training_batches(batches, 0, steps, device)),
        lambda: train([resident] * steps),
        # On a shared machine the time of a few steps varies by more than the cost of feeding them.
        rounds=15,
    )


_MEMORY = """
import sys, threading, time
from pathlib import Path
import numpy as np
from lrbench.data.batches import Batches
from lrbench.data.examples import EvaluationTransform
from lrbench.data.prefetch import prefetch
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.config import load_task
from lrbench.config.suite import Input

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

root, workers = Path(sys.argv[1]), int(sys.argv[2])
data = load_task_data(load_task(str(root / "pixels.toml")), [root])
before, peak, going = anonymous(), [0], [True]

def watch():
    while going[0]:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.01)

watcher = threading.Thread(target=watch)
watcher.start()
pixels = prepare(data, "train", EvaluationTransform.of(Input(size=64)), cache=root / "cache", workers=workers)
batches = Batches(
    pixels=pixels, labels=data.splits["train"].labels, seed=0, batch=min(100, len(pixels)), size=64,
    augmentation="crop-flip",
)
for _ in prefetch(batches.at, 0, batches.updates_per_epoch, threads=2):
    pass
going[0] = False
watcher.join()
print(len(pixels), before, peak[0])
"""


def test_memory_does_not_grow_with_the_data_set(tree, tmp_path, report):
    """Prepare and feed 50,000 files; count anonymous memory only, without the mapped pages of the cache."""
    originals = sorted((tree / "photographs" / "train").rglob("*.jpg"))[:50]
    small = tmp_path / "photographs" / "train"
    contents = []
    for path in originals:
        with Image.open(path) as image:
            image.resize((160, 120)).save(tmp_path / "small.jpg", quality=90)
        contents.append((tmp_path / "small.jpg").read_bytes())
    for number in range(50_000):
        folder = small / f"class{number % 50}"
        if number < 50:
            folder.mkdir(parents=True)
        (folder / f"{number}.jpg").write_bytes(contents[number % 50])
    _data(tmp_path, "pixels")
    count, before, peak = _memory(tmp_path, workers=2)
    report(f"preparing and feeding {count:,} files: {before} MiB before, at most {peak} MiB during")
    assert count == 50_000 and peak < 1024


def test_memory_does_not_grow_with_the_photographs(tmp_path, report):
    """Decode photographs of 48 megapixels (144 MB each) in 32 threads."""
    grain = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(grain).resize((8000, 6000)).save(tmp_path / "large.jpg", quality=80)
    content = (tmp_path / "large.jpg").read_bytes()
    for number in range(64):
        folder = tmp_path / "photographs" / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(content)
    _data(tmp_path, "pixels")
    count, before, peak = _memory(tmp_path, workers=32)
    report(
        f"preparing {count} photographs of 48 megapixels in 32 threads: {before} MiB before, at most {peak} MiB during"
    )
    assert count == 64 and peak - before < 1024


def _memory(root, *, workers):
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(root), str(workers)], capture_output=True, text=True, check=True
    )
    return map(int, done.stdout.split())
