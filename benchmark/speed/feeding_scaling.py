"""How feeding a GPU from prepared JPEG scales: `python benchmark/speed/feeding_scaling.py [--most N] [--seconds S]`.

Runs on any machine, and without a GPU except for the last two stages. It writes photographs of 500 by 375 pixels, prepares them
as JPEG for 224 px, and measures the stages of feeding in 1, 2, 4, 8 and 16 threads, and in as many processes. Threads and
processes are measured in alternation; the table shows medians. It prints for each stage

- images per second, and the ratio of threads to processes, below 1 where threads wait for the interpreter lock or for memory;
- the processor time and the waiting time per image of a thread.

A stage stops scaling where n workers are less than 0.7 n times as fast as one. A second table replaces decoding by a wait of
the same length, which needs no core. It shows how many images per second the interpreter lock allows at least with many cores:
waiting itself takes 50 us of processor time.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from lrbench.config import load_task
from lrbench.config.suite import Input
from lrbench.core.machine import available_cores
from lrbench.data.batches import Batches, augmentation_numbers, crop_box
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import Bytes
from lrbench.data.prepare import prepare
from lrbench.data.shards import map_shard

SIZE, BATCH, IMAGES = 224, 64, 256
COUNTS = (1, 2, 4, 8, 16)
ENOUGH = 0.7
Stage = Callable[[int], object]
"""Processes one batch, given its number."""


class Speed(NamedTuple):
    """Speed of one stage: images per second of all workers; processor and waiting time per image in seconds."""

    rate: float
    computing: float
    waiting: float


@dataclass(eq=False)
class Decoded:
    """Images that were decoded before, each handed out after a wait in seconds."""

    images: Sequence[Bytes]
    wait: float = 0.0
    plain: None = None

    def __len__(self) -> int:
        return len(self.images)

    def resized(self, index: int) -> Bytes:
        """Return one image."""
        if self.wait:
            time.sleep(self.wait)
        # A few images, which stay in the processor's cache as a decoded one does.
        return self.images[index % 2]


_THREAD = threading.local()


def allocate_again(count: int) -> torch.Tensor:
    """Return the thread's memory of the last batch, as torch does for pinned memory."""
    if len(getattr(_THREAD, "memory", ())) < count:
        _THREAD.memory = torch.empty(count, dtype=torch.uint8)
    memory: torch.Tensor = _THREAD.memory
    return memory


def write_photographs(root: Path) -> None:
    """Write the JPEG files and the task `photographs`."""
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        path = root / "photographs" / "train" / f"class{number % 10}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    (root / "photographs.toml").write_text(
        'name = "photographs"\n[files]\nlayout = "split-folders"\nroot = "photographs"\ntest = "train"\n'
        '[prepare]\nformat = "jpeg"\n'
    )


def make_batches(root: Path) -> Batches:
    """Return batches of the photographs, which the first call prepares."""
    data = load_task_data(load_task(str(root / "photographs.toml")), [root])
    pixels = prepare(data, "train", EvaluationTransform.of(Input(size=SIZE)), cache=root)
    return batches_of(pixels)


def batches_of(pixels: Any) -> Batches:
    """Return batches of images."""
    labels = np.arange(len(pixels)) % 10
    return Batches(pixels=pixels, labels=labels, seed=0, batch=BATCH, size=SIZE, augmentation="crop-flip")


def make_stages(root: Path, batches: Batches) -> dict[str, Stage]:
    """Return the stages by name. `whole batch` is what feeding does; the stages above it are its parts."""
    shards = [map_shard(path) for path in sorted((root / "pixels").glob("*/shard-*.arrow"))]
    stored = [(shard.content, *row[:2]) for shard in shards for row in shard.index.tolist()]
    decoded = batches_of(Decoded([batches.pixels.resized(index) for index in range(len(batches.pixels))]))

    def read(update: int) -> None:
        for sample in batches.indices(update).tolist():
            content, offset, length = stored[sample]
            content[offset : offset + length].copy()

    def decode(update: int) -> None:
        for sample in batches.indices(update).tolist():
            batches.pixels.resized(sample)

    def draw_crops(update: int) -> None:
        for numbers in augmentation_numbers(0, update, batches.indices(update)).tolist():
            crop_box(SIZE, SIZE * 4 // 3, numbers)

    stages: dict[str, Stage] = {
        "reading": read,
        "decoding": decode,
        "cropping (drawing boxes)": draw_crops,
        "assembling (boxes and cuts)": partial(decoded.patches, allocate=allocate_again),
        "whole batch": partial(batches.patches, allocate=allocate_again),
    }
    if torch.cuda.is_available():
        content = batches.patches(0)[0]
        pinned = content.pin_memory()

        def copy_to_device(update: int) -> None:
            pinned.to("cuda", non_blocking=True)
            torch.cuda.current_stream().synchronize()

        stages["page-locking"] = lambda update: content.pin_memory()
        stages["copying to the device"] = copy_to_device
    return stages


def work(stage: Stage, seconds: float, first: int) -> tuple[int, float, float]:
    """Run a stage for some time. Return the number of images, and the seconds that passed and that were computed."""
    images, started, computed = 0, time.perf_counter(), time.thread_time()
    while (passed := time.perf_counter() - started) < seconds:
        stage(first + images // BATCH)
        images += BATCH
    return images, passed, time.thread_time() - computed


def summary(parts: Sequence[tuple[int, float, float]]) -> Speed:
    """Return the speed of all workers together."""
    images, passed, computed = map(sum, zip(*parts, strict=True))
    return Speed(sum(part[0] / part[1] for part in parts), computed / images, (passed - computed) / images)


def in_threads(stage: Stage, count: int, seconds: float) -> Speed:
    """Run a stage in threads."""
    parts: list[tuple[int, float, float]] = []
    threads = [
        threading.Thread(target=lambda first=1000 * number: parts.append(work(stage, seconds, first)))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summary(parts)


def serve(root: Path, connection: Connection) -> None:
    """Run the stages that are requested, in a process; return at an empty name."""
    torch.set_num_threads(1)
    stages = make_stages(root, make_batches(root))
    connection.send(None)
    while name := connection.recv():
        connection.send(work(stages[name], *connection.recv()))


def in_processes(connections: Sequence[Connection], name: str, seconds: float) -> Speed:
    """Run a stage in processes."""
    for number, connection in enumerate(connections):
        connection.send(name)
        connection.send((seconds, 1000 * number))
    return summary([connection.recv() for connection in connections])


def medians(speeds: Sequence[Speed]) -> Speed:
    """Return the medians of repeated measurements."""
    return Speed(*map(statistics.median, zip(*speeds, strict=True)))


def print_stages(
    stages: dict[str, Stage], counts: Sequence[int], connections: Sequence[Connection], seconds: float, rounds: int
) -> None:
    """Measure and print the stages, and name those that stop scaling."""
    print(f"{'stage':28}{'workers':>8}{'threads':>12}{'processes':>12}{'ratio':>7}{'computing':>12}{'waiting':>12}")
    stops: dict[str, list[str]] = {"threads": [], "processes": []}
    for name, stage in stages.items():
        alone: dict[str, float] = {}
        for count in counts:
            speeds: dict[str, list[Speed]] = {"threads": [], "processes": []}
            for _ in range(rounds):
                speeds["threads"].append(in_threads(stage, count, seconds))
                speeds["processes"].append(in_processes(connections[:count], name, seconds))
            middle = {kind: medians(measured) for kind, measured in speeds.items()}
            thread, rates = middle["threads"], {kind: speed.rate for kind, speed in middle.items()}
            alone = alone or rates
            print(
                f"{name:28}{count:8}{rates['threads']:10,.0f}/s{rates['processes']:10,.0f}/s"
                f"{rates['threads'] / rates['processes']:7.2f}{1e6 * thread.computing:9.1f} us{1e6 * thread.waiting:9.1f} us",
                flush=True,
            )
            for kind, rate in rates.items():
                if count <= available_cores() and rate < ENOUGH * count * alone[kind]:
                    stops[kind].append(f"{name} at {count}")
    if not torch.cuda.is_available():
        print("page-locking, copying to the device: no GPU")
    for kind, names in stops.items():
        print(f"stop scaling in {kind}: {', '.join(names) or 'none up to the number of cores'}")


def print_lock(batches: Batches, seconds: float, rounds: int) -> None:
    """Measure and print whole batches whose decoding needs no core."""
    images = [batches.pixels.resized(index) for index in range(len(batches.pixels))]
    started = time.thread_time()
    for index in range(len(images)):
        batches.pixels.resized(index)
    wait = (time.thread_time() - started) / len(images)
    waiting = batches_of(Decoded(images, wait))
    print(f"\nwhole batches in threads, decoding replaced by a wait of {1e6 * wait:.0f} us per image")
    for count in COUNTS:
        speeds = [in_threads(partial(waiting.patches, allocate=allocate_again), count, seconds) for _ in range(rounds)]
        rate, computing, pause = medians(speeds)
        print(f"{count:8}{rate:10,.0f}/s{1e6 * computing:9.1f} us computing{1e6 * pause:9.1f} us waiting", flush=True)


def main() -> None:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description="How feeding a GPU from prepared JPEG scales.")
    parser.add_argument("--most", type=int, default=available_cores(), help="most workers (default: the cores)")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the median is printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = [count for count in COUNTS if count <= options.most] or [1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photographs(root)
        batches = make_batches(root)
        pipes = [context.Pipe() for _ in range(counts[-1])]
        processes = [context.Process(target=serve, args=(root, theirs), daemon=True) for _, theirs in pipes]
        for process in processes:
            process.start()
        connections = [ours for ours, _ in pipes]
        for connection in connections:
            connection.recv()
        print(f"{available_cores()} cores; {SIZE} px, batches of {BATCH}, prepared JPEG of {SIZE * 8 // 7} px")
        print_stages(make_stages(root, batches), counts, connections, options.seconds, options.rounds)
        print_lock(batches, options.seconds, options.rounds)
        for connection, process in zip(connections, processes, strict=True):
            connection.send("")
            process.join()


if __name__ == "__main__":
    main()
