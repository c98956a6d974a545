"""Cost of a plan's missing work: time, GPU-hours and disk."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lrbench.config import Suite, Task, load_task
from lrbench.config.files import HubFiles, SyntheticFiles, TorchvisionFiles
from lrbench.config.protocols import PROTOCOLS
from lrbench.config.schedule import find_segment, keeps_stage_end, kept_epochs, means_to_keep
from lrbench.core.control import rounded_duration
from lrbench.core.errors import InputError
from lrbench.core.files import parse_json, read_bytes
from lrbench.core.workspace import Place, Workspace
from lrbench.data.examples import EvaluationTransform, SplitName
from lrbench.data.loading import load_task_data
from lrbench.jobs.plan import Plan, PlannedSnapshot
from lrbench.store.index import load_index
from lrbench.store.results import cell_key, suite_slug

# NVIDIA's published rate for ResNet-50 at 224 px in mixed precision on one A100, in images a second.
_REFERENCE = ("resnet50", 224, 2470)
# Launching the kernels of an update takes a GPU's process at least this long for each trainable tensor: 12 ms for a ResNet-18,
# measured on an H200 with 16 cores (docs/performance.md).
_LAUNCH_SECONDS = 0.012 / 62
# JPEG at quality 90 takes about half a byte a pixel; photographs are about 4:3.
_JPEG_BYTES, _PHOTOGRAPH = 0.5, 4 / 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimated cost of a plan's missing work, from this suite's earlier timings and from operation counts.

    Attributes:
        updates: Missing SGD updates; None if the source's size is unknown before it is read.
        cells: Missing cells.
        pretraining_seconds: Time of the updates in one process; None if none has been timed.
        transfer_seconds: Time of the cells in one process; None if a protocol has not been timed.
        pretraining_gpu_hours: Hours of one A100-class GPU, from operation counts; None if `updates` is.
        finetuning_gpu_hours: The same for fine-tuning.
        snapshot_bytes: Disk space of the missing snapshots and training states.
        pixel_bytes: Disk space of the prepared images of all tasks of known size, including those prepared already.
        unknown: Tasks of unknown size.
        source_images: Training images of the source if they are fewer than one batch, else None.
    """

    updates: int | None
    cells: int
    pretraining_seconds: float | None
    transfer_seconds: float | None
    pretraining_gpu_hours: float | None
    finetuning_gpu_hours: float
    snapshot_bytes: int
    pixel_bytes: int
    unknown: tuple[str, ...] = ()
    source_images: int | None = None

    @property
    def seconds(self) -> float | None:
        """Time of all missing work in one process; None if a part is unknown."""
        if self.pretraining_seconds is None or self.transfer_seconds is None:
            return None
        return self.pretraining_seconds + self.transfer_seconds

    def words(self) -> str:
        """Return the cost as text of one to three lines."""
        updates = "an unknown number of" if self.updates is None else f"{self.updates:,}"
        lines = [
            f"missing: {updates} updates of pretraining{_time(self.pretraining_seconds)}, {self.cells:,} cells"
            f"{_time(self.transfer_seconds)}; times are for one process, from earlier timings of this suite"
        ]
        if not self.updates and not self.cells:
            return lines[0]
        hours = "an unknown number of" if self.pretraining_gpu_hours is None else _hours(self.pretraining_gpu_hours)
        finetuning = f" and {_hours(self.finetuning_gpu_hours)} of fine-tuning" if self.finetuning_gpu_hours else ""
        architecture, size, rate = _REFERENCE
        lines.append(
            f"on one A100-class GPU: {hours} GPU-hours of pretraining{finetuning}, scaled by operation counts from NVIDIA's "
            f"published {architecture} training ({rate:,} images a second at {size} px in mixed precision), and at least "
            "the time that launches of kernels took on an H200. float32 takes longer, and protocols on frozen features come on "
            "top."
        )
        without = f"; the size of {', '.join(self.unknown)} is unknown" if self.unknown else ""
        lines.append(
            f"disk: about {_size(self.snapshot_bytes)} of snapshots and training states, {_size(self.pixel_bytes)} of "
            f"prepared images (0 with --no-cache; images prepared already are included{without})"
        )
        return "\n".join(lines)


def estimate_cost(plan: Plan, place: Place) -> Cost:
    """Estimate the cost of a plan's missing work.

    Args:
        plan: The plan.
        place: Holds the suite's timings and results, and the data of tasks whose size is not stated.

    Raises:
        InputError: timm cannot build the suite's network.
    """
    suite, workspace = plan.suite, place.workspace
    updates: int | None = 0
    sizes = {name: TaskSize.of(load_task(name), place) for name in dict.fromkeys((*suite.sources, *suite.targets))}
    images: int | None = None
    classes: int | None = None
    batch = 1
    if plan.missing_epochs:
        images, classes = sizes[suite.sources[0]].images.get("train"), sizes[suite.sources[0]].classes
        batch = suite.schedule.batch_of(images or 1)
        updates = None if images is None else plan.missing_epochs * (images // batch)
    missing = sum(not cell.done for cell in plan.cells)
    pace = update_seconds(workspace.checkpoints / suite.name)
    network = Network.of(suite, classes or 1000) if updates or missing else None
    grid = suite.finetune
    tuned = sum(not cell.done for cell in plan.cells if PROTOCOLS[cell.cell.protocol].trains)
    # All grid points, then once more on all training images.
    tuning_updates = tuned * (len(grid.rates) * len(grid.decays) + 1) * grid.updates
    pixels = {
        name: None if size.whole is None else _pixel_bytes(suite, load_task(name), size.whole)
        for name, size in sizes.items()
    }
    return Cost(
        updates=updates,
        cells=missing,
        pretraining_seconds=0.0 if updates == 0 else None if pace is None or updates is None else pace * updates,
        transfer_seconds=_transfer_seconds(workspace, plan),
        pretraining_gpu_hours=None if updates is None else network.gpu_hours(updates, batch) if network else 0.0,
        finetuning_gpu_hours=network.gpu_hours(tuning_updates, grid.batch) if network else 0.0,
        snapshot_bytes=network.snapshot_bytes(suite, plan.snapshots) if network else 0,
        pixel_bytes=sum(size for size in pixels.values() if size is not None),
        unknown=tuple(name for name, size in pixels.items() if size is None),
        source_images=images if images is not None and images < batch else None,
    )


@dataclass(frozen=True, kw_only=True)
class Network:
    """Size and operation count of a network.

    Attributes:
        weights: Bytes of its state dict.
        parameters: Bytes of its trainable parameters.
        tensors: Number of trainable parameters, each a tensor.
        operations: Multiplications and additions of one image's forward pass.
        reference: The same of the reference network.
    """

    weights: int
    parameters: int
    tensors: int
    operations: int
    reference: int

    @classmethod
    def of(cls, suite: Suite, classes: int) -> "Network":
        """Measure a suite's network.

        Raises:
            InputError: timm cannot build it.
        """
        import torch

        from lrbench.models.limits import refuse_misfit
        from lrbench.models.networks import count_operations, create_model

        refuse_misfit(suite.model.architecture, suite.model.arguments, classes=classes, size=suite.input.size)
        with torch.device("meta"):
            model = create_model(suite.model.architecture, suite.model.arguments, classes=classes)
            reference = create_model(_REFERENCE[0], {}, classes=1000)
        return cls(
            weights=sum(tensor.nbytes for tensor in model.state_dict().values()),
            parameters=sum(parameter.nbytes for parameter in model.parameters()),
            tensors=len(list(model.parameters())),
            operations=count_operations(model, suite.input.size),
            reference=count_operations(reference, _REFERENCE[1]),
        )

    def image_seconds(self) -> float:
        """Return the time of the forward and backward pass of an image in a large batch."""
        return self.operations / (_REFERENCE[2] * self.reference)

    def update_seconds(self, batch: int) -> float:
        """Return the time of an update: of its operations, or of launching its kernels if that takes longer."""
        return max(batch * self.image_seconds(), self.tensors * _LAUNCH_SECONDS)

    def gpu_hours(self, updates: int, batch: int) -> float:
        """Return the hours of updates."""
        return updates * self.update_seconds(batch) / 3600

    def snapshot_bytes(self, suite: Suite, snapshots: Sequence[PlannedSnapshot]) -> int:
        """Return the disk space of the missing snapshots and their training states."""
        total = 0
        for snapshot in snapshots:
            if snapshot.exists:
                continue
            key, part = snapshot.key, find_segment(suite.schedule, snapshot.key)
            total += self.weights
            if part.derived:
                total += self.parameters if part.branches else 0
                continue
            total += self.parameters if key.stage else 0
            # Means are stored in float64.
            total += 2 * self.weights * len(means_to_keep(suite, part))
            total += (self.weights + self.parameters) * keeps_stage_end(suite, part)
            total += sum(
                self.weights + (self.parameters if momentum else 0) for momentum in kept_epochs(suite, part).values()
            )
        return total


@dataclass(frozen=True, kw_only=True)
class TaskSize:
    """Number of a task's images by split, and of its classes, as far as they are known."""

    images: Mapping[SplitName, int]
    classes: int | None

    @classmethod
    def of(cls, task: Task, place: Place) -> "TaskSize":
        """Return the stated numbers, or count them if listing folders is enough."""
        files = task.files
        if isinstance(files, SyntheticFiles):
            classes = files.options.get("classes")
            known = task.classes or (None if classes is None else int(classes))
            return cls(images={"train": files.train, "test": files.test}, classes=known)
        pinned: dict[SplitName, int] = dict(task.counts.items())
        if {"train", "test"} <= task.counts.keys() or isinstance(files, HubFiles | TorchvisionFiles):
            return cls(images=pinned, classes=task.classes)
        try:
            data = load_task_data(task, place.roots, partial=True)
        except InputError:
            return cls(images=pinned, classes=task.classes)
        counted = {name: len(split) for name, split in data.splits.items()}
        return cls(images={**counted, **pinned}, classes=len(data.classes))

    @property
    def whole(self) -> int | None:
        """Number of all images; None if that of a split is unknown."""
        return sum(self.images.values()) if {"train", "test"} <= self.images.keys() else None


def _pixel_bytes(suite: Suite, task: Task, images: int) -> int:
    files = task.files
    short = EvaluationTransform.of(suite.input).resize
    area = short * short * (1.0 if isinstance(files, SyntheticFiles) else _PHOTOGRAPH)
    return int(images * area * (_JPEG_BYTES if task.prepare.format == "jpeg" else 3))


def update_seconds(folder: Path) -> float | None:
    """Return the time of an update in one process, from the timings of all segments of a suite; None without any."""
    updates, seconds = 0, 0.0
    for path in folder.glob("*/seed*/timings.jsonl"):
        with suppress(InputError, FileNotFoundError):
            for line in read_bytes(path, limit=64 << 20).splitlines():
                # A killed process may leave half a line.
                with suppress(ValueError, KeyError, TypeError, OverflowError):
                    record = parse_json(line)
                    # Time that one process would have taken.
                    taken = float(record["seconds"]) * int(record.get("processes", 1))
                    if 0 < taken < math.inf and 0 < int(record["updates"]) < 10**12:
                        updates, seconds = updates + int(record["updates"]), seconds + taken
    return seconds / updates if updates else None


def _transfer_seconds(workspace: Workspace, plan: Plan) -> float | None:
    """Return the time of the missing cells from the median of each protocol; None if a protocol has not been timed."""
    seconds = protocol_seconds(workspace, plan)
    missing = Counter(planned.cell.protocol for planned in plan.cells if not planned.done)
    if not missing.keys() <= seconds.keys():
        return None
    return sum(count * seconds[protocol] for protocol, count in missing.items())


def protocol_seconds(workspace: Workspace, plan: Plan) -> dict[str, float]:
    """Return the median time of a cell of each protocol that has been timed in this workspace."""
    # Results without snapshots, as in a fresh clone, were timed on another machine.
    done = {
        cell_key(
            snapshot=suite_slug(planned.snapshot),
            task=planned.cell.task,
            protocol=planned.cell.protocol,
            seed=planned.cell.seed,
        )
        for planned in plan.cells
        if planned.done
    }
    seconds: dict[str, list[float]] = {}
    for entry in load_index(workspace.results, plan.suite.name, workspace.cache).entries:
        if entry.cell in done:
            seconds.setdefault(entry.protocol, []).append(entry.seconds)
    return {protocol: statistics.median(values) for protocol, values in seconds.items()}


def _time(seconds: float | None) -> str:
    return " (not timed yet)" if seconds is None else f" ({rounded_duration(seconds)})"


def _hours(hours: float) -> str:
    return "less than 0.1" if hours < 0.1 else f"about {hours:,.1f}" if hours < 10 else f"about {hours:,.0f}"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
