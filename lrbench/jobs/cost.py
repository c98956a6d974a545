"""What a plan's missing work will cost: time, GPU-hours and disk."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lrbench.config import Suite, Task, load_task
from lrbench.config.arms import ARMS
from lrbench.config.protocols import PROTOCOLS
from lrbench.config.schedule import kept_epochs, segment
from lrbench.config.task import HubFiles, SyntheticFiles, TorchvisionFiles
from lrbench.core.control import rounded_duration
from lrbench.core.errors import InputError
from lrbench.core.files import parse_json, read_bytes
from lrbench.core.workspace import Place, Workspace
from lrbench.data.examples import EvaluationTransform, SplitName
from lrbench.data.loading import load_task_data
from lrbench.jobs.plan import Plan, PlannedSnapshot
from lrbench.store.index import load_index
from lrbench.store.results import cell_key, suite_slug

# NVIDIA's published rate for ResNet-50 at 224 px in mixed precision on one A100: the yardstick for GPUs that were not timed.
_REFERENCE = ("resnet50", 224, 2470)
# JPEG at quality 90 takes about half a byte a pixel; photographs are about four by three.
_JPEG_BYTES, _PHOTOGRAPH = 0.5, 4 / 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan's missing work will cost, from what the same suite has taken here so far and from arithmetic.

    Attributes:
        updates: SGD updates that are missing; None where the source's size is not known before it is read.
        cells: Cells that are missing.
        pretraining_seconds: Estimate for the updates, on one process; None where none has been timed.
        transfer_seconds: Estimate for the cells, on one process; None where none has been timed.
        pretraining_gpu_hours: Of one A100-class GPU, by the network's arithmetic; None where `updates` is.
        finetuning_gpu_hours: The same for fine-tuning.
        snapshot_bytes: Disk for the missing snapshots and the states that training goes on from.
        pixel_bytes: Disk for the prepared images of all tasks whose size is known, whether they are prepared or not.
        unknown: Tasks whose size is not known.
        source_images: Training images of the source, where they are too few for a batch; None where they are enough or their
            number is not known.
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
        """Time here for everything; None where a part is not known."""
        if self.pretraining_seconds is None or self.transfer_seconds is None:
            return None
        return self.pretraining_seconds + self.transfer_seconds

    def words(self) -> str:
        """The cost in a few lines."""
        updates = "an unknown number of" if self.updates is None else f"{self.updates:,}"
        lines = [
            f"missing: {updates} updates of pretraining{_time(self.pretraining_seconds)}, {self.cells:,} cells"
            f"{_time(self.transfer_seconds)}; times are of one process, from what this suite took here so far"
        ]
        if not self.updates and not self.cells:
            return lines[0]
        hours = "an unknown number of" if self.pretraining_gpu_hours is None else _hours(self.pretraining_gpu_hours)
        finetuning = f" and {_hours(self.finetuning_gpu_hours)} of fine-tuning" if self.finetuning_gpu_hours else ""
        architecture, size, rate = _REFERENCE
        lines.append(
            f"on one A100-class GPU: {hours} GPU-hours of pretraining{finetuning}, at the arithmetic rate of NVIDIA's "
            f"published {architecture} training: {rate:,} images a second at {size} px in mixed precision. Single "
            "precision and small networks take longer."
        )
        without = f", without {', '.join(self.unknown)}, whose size is not known" if self.unknown else ""
        lines.append(
            f"disk: about {_size(self.snapshot_bytes)} of snapshots and training states, {_size(self.pixel_bytes)} of "
            f"prepared images (none with --no-cache; what is prepared already is in it{without})"
        )
        return "\n".join(lines)


def estimate_cost(plan: Plan, place: Place) -> Cost:
    """What the missing work of a plan will cost.

    Args:
        plan: The plan.
        place: Where its suite has worked so far, and where the source is looked for if its size is not known otherwise.

    Raises:
        InputError: timm does not make the suite's network.
    """
    suite, workspace = plan.suite, place.workspace
    batch = suite.schedule.batch
    updates: int | None = 0
    sizes = {name: _Size.of(load_task(name), place) for name in dict.fromkeys((suite.source, *suite.targets))}
    images: int | None = None
    classes: int | None = None
    if plan.missing_epochs:
        images, classes = sizes[suite.source].images.get("train"), sizes[suite.source].classes
        updates = None if images is None else plan.missing_epochs * (images // batch)
    missing = sum(not cell.done for cell in plan.cells)
    pace = _update_seconds(workspace.checkpoints / suite.name)
    network = _Network.of(suite, classes or 1000) if updates or missing else None
    grid = suite.finetune
    tuned = sum(not cell.done for cell in plan.cells if PROTOCOLS[cell.cell.protocol].trains)
    # Every grid point, then once more on all training images.
    tuning_images = tuned * (len(grid.rates) * len(grid.decays) + 1) * grid.updates * grid.batch
    pixels = {
        name: None if size.whole is None else _pixel_bytes(suite, load_task(name), size.whole)
        for name, size in sizes.items()
    }
    return Cost(
        updates=updates,
        cells=missing,
        pretraining_seconds=0.0 if updates == 0 else None if pace is None or updates is None else pace * updates,
        transfer_seconds=_transfer_seconds(workspace, plan),
        pretraining_gpu_hours=None if updates is None else network.gpu_hours(updates * batch) if network else 0.0,
        finetuning_gpu_hours=network.gpu_hours(tuning_images) if network else 0.0,
        snapshot_bytes=network.snapshot_bytes(suite, plan.snapshots) if network else 0,
        pixel_bytes=sum(size for size in pixels.values() if size is not None),
        unknown=tuple(name for name, size in pixels.items() if size is None),
        source_images=images if images is not None and images < batch else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A network's size and arithmetic, found without weights.

    Attributes:
        weights: Bytes of its state dict.
        parameters: Bytes of what is trained.
        operations: Multiplications and additions of one image's forward pass.
        reference: The same of the yardstick.
    """

    weights: int
    parameters: int
    operations: int
    reference: int

    @classmethod
    def of(cls, suite: Suite, classes: int) -> "_Network":
        import torch

        from lrbench.models.limits import refuse_misfit
        from lrbench.models.networks import create_model, operations

        refuse_misfit(suite.model.architecture, suite.model.arguments, classes=classes, size=suite.input.size)
        with torch.device("meta"):
            model = create_model(suite.model.architecture, suite.model.arguments, classes=classes)
            yardstick = create_model(_REFERENCE[0], {}, classes=1000)
        return cls(
            weights=sum(tensor.nbytes for tensor in model.state_dict().values()),
            parameters=sum(parameter.nbytes for parameter in model.parameters()),
            operations=operations(model, suite.input.size),
            reference=operations(yardstick, _REFERENCE[1]),
        )

    def gpu_hours(self, images: int) -> float:
        """For so many images forward and back."""
        return images * self.operations / (_REFERENCE[2] * self.reference) / 3600

    def snapshot_bytes(self, suite: Suite, snapshots: Sequence[PlannedSnapshot]) -> int:
        """What the missing ones of these take on the disk, with the states beside them."""
        total = 0
        for each in snapshots:
            if each.made:
                continue
            stretch = segment(suite.schedule, each.key)
            total += self.weights
            if stretch.derived:
                total += self.parameters if stretch.branches else 0
                continue
            total += self.parameters if each.key.stage else 0
            # The sum of epoch-end weights is kept in double precision.
            total += 2 * self.weights if ARMS[each.key.arm].is_averaged else 0
            total += sum(
                self.weights + (self.parameters if momentum else 0) for momentum in kept_epochs(suite, stretch).values()
            )
        return total


@dataclass(frozen=True, kw_only=True)
class _Size:
    """A task's images by split, and its classes, as far as they are known."""

    images: Mapping[SplitName, int]
    classes: int | None

    @classmethod
    def of(cls, task: Task, place: Place) -> "_Size":
        """As stated, or else counted where that takes no more than a look at folders."""
        files = task.files
        if isinstance(files, SyntheticFiles):
            classes = files.options.get("classes")
            known = task.classes or (None if classes is None else int(classes))
            return cls(images={"train": files.train, "test": files.test}, classes=known)
        if {"train", "test"} <= task.counts.keys() or isinstance(files, HubFiles | TorchvisionFiles):
            return cls(images=task.counts, classes=task.classes)
        try:
            data = load_task_data(task, place.roots, partial=True)
        except InputError:
            return cls(images=task.counts, classes=task.classes)
        counted = {name: len(split) for name, split in data.splits.items()}
        return cls(images={**counted, **task.counts}, classes=len(data.classes))

    @property
    def whole(self) -> int | None:
        """All images; None where a split's are not known."""
        return sum(self.images.values()) if {"train", "test"} <= self.images.keys() else None


def _pixel_bytes(suite: Suite, task: Task, images: int) -> int:
    files = task.files
    short = EvaluationTransform.of(suite.input).resize
    area = short * short * (1.0 if isinstance(files, SyntheticFiles) else _PHOTOGRAPH)
    return int(images * area * (_JPEG_BYTES if task.prepare.format == "jpeg" else 3))


def _update_seconds(folder: Path) -> float | None:
    updates, seconds = 0, 0.0
    for path in folder.glob("*/seed*/timings.jsonl"):
        with suppress(InputError, FileNotFoundError):
            for line in read_bytes(path, limit=64 << 20).splitlines():
                # A line that a killed process left half-written says nothing.
                with suppress(ValueError, KeyError, TypeError, OverflowError):
                    record = parse_json(line)
                    # As long as one process would have taken.
                    taken = float(record["seconds"]) * int(record.get("processes", 1))
                    if 0 < taken < math.inf and 0 < int(record["updates"]) < 10**12:
                        updates, seconds = updates + int(record["updates"]), seconds + taken
    return seconds / updates if updates else None


def _transfer_seconds(workspace: Workspace, plan: Plan) -> float | None:
    """What the missing cells take, each protocol by what its cells have taken here; None where one has not been timed."""
    # Results whose snapshots are not here, as in a clone, are of another machine.
    here = {
        cell_key(
            snapshot=suite_slug(each.snapshot), task=each.cell.task, protocol=each.cell.protocol, seed=each.cell.seed
        )
        for each in plan.cells
        if each.done
    }
    taken: dict[str, list[float]] = {}
    for entry in load_index(workspace.results, plan.suite.name, workspace.cache).entries:
        if entry.cell in here:
            taken.setdefault(entry.protocol, []).append(entry.seconds)
    missing = Counter(cell.cell.protocol for cell in plan.cells if not cell.done)
    if not missing.keys() <= taken.keys():
        return None
    return sum(count * statistics.median(taken[protocol]) for protocol, count in missing.items())


def _time(seconds: float | None) -> str:
    return " (not timed here yet)" if seconds is None else f" ({rounded_duration(seconds)})"


def _hours(hours: float) -> str:
    return "less than 0.1" if hours < 0.1 else f"about {hours:,.1f}" if hours < 10 else f"about {hours:,.0f}"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
