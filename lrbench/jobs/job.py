"""Jobs, the units of a suite's work: pretraining one snapshot, or transferring one snapshot to one task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrbench.config import Suite
from lrbench.config.protocols import RESERVED, source_splits
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.workspace import Place
from lrbench.store.cells import Cell, Overwrite, TransferSettings
from lrbench.store.references import SuiteSnapshot
from lrbench.store.snapshots import identity

if TYPE_CHECKING:
    from lrbench.data.examples import SplitName
    from lrbench.transfer.cell import Transfer

PRELOADED = "lrbench.transfer.preloaded"
"""Module that imports what jobs need."""


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One unit of work, run by one process.

    Attributes:
        name: Unique name, for messages.
        needs: Names of the jobs that must be done before.
        weight: Amount of work in image-updates, relative to other jobs. The longest chain of jobs starts first.
    """

    name: str
    needs: tuple[str, ...] = ()
    weight: float = 1.0

    @abstractmethod
    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Run the job and return a one-line report of its outcome."""

    @abstractmethod
    def task_of(self, suite: Suite) -> str:
        """Return the task whose data the job reads."""

    def splits_read(self) -> "tuple[SplitName, ...] | None":
        """Return the splits of the task that the job reads; None for all."""
        return None

    def reuse(self, last: "Job") -> int:
        """Return how much of what `last` left in its process this job can use; larger is more."""
        return 0


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Job):
    """Pretrain one snapshot."""

    key: SnapshotKey

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Pretrain the snapshot and return a line with its source accuracy."""
        return self.run_together(suite, place, control, SINGLE_PROCESS)

    def task_of(self, suite: Suite) -> str:
        """Return the source of the snapshot's seed."""
        return suite.source_of(self.key.seed)

    def splits_read(self) -> "tuple[SplitName, ...]":
        """Return the splits on which a network is trained and evaluated."""
        return ("train", "test", "conflict")

    def run_together(self, suite: Suite, place: Place, control: Control, ranks: ProcessGroup) -> str:
        """Pretrain the snapshot together with other processes."""
        from lrbench.pretraining.segments import make_snapshot

        # Its memory may be needed.
        _opened.clear()
        metadata = make_snapshot(suite, self.key, place, control, ranks)
        accuracy = f"source accuracy {100 * (metadata.source_accuracy or 0):.1f} %"
        report = ", ".join(f"{name} {100 * value:.1f} %" for name, value in metadata.source_report.items())
        return f"{self.key}: {accuracy}" + (f" ({report})" if report else "")


@dataclass(frozen=True, kw_only=True)
class TransferJob(Job):
    """Transfer one snapshot to the missing cells of one task, or predict its source's test images."""

    key: SnapshotKey
    task: str
    cells: tuple[Cell, ...]

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Compute the missing cells one by one; each result is written as soon as it is complete."""
        reference = SuiteSnapshot(suite=suite, key=self.key, checkpoints=place.workspace.checkpoints)
        transfer = _open_transfer(reference, TransferSettings.of(suite), place, control)
        # The plan is older than this job: another process may have computed some of the cells since.
        missing = [cell for cell in self.cells if transfer.status(cell).existing_result(Overwrite.STALE) is None]
        for cell in missing:
            transfer.run(cell)
        if any(cell.protocol in RESERVED for cell in self.cells):
            return f"{self.key}: images of {self.task} predicted"
        return f"{self.key} to {self.task}: {len(missing)} {'cell' if len(missing) == 1 else 'cells'} transferred"

    def task_of(self, suite: Suite) -> str:
        """Return the task."""
        return self.task

    def splits_read(self) -> "tuple[SplitName, ...] | None":
        """Return the splits of the source that are predicted; None for a transfer, which reads all."""
        names = [cell.protocol for cell in self.cells]
        if not names or not RESERVED.keys() >= set(names):
            return None
        return tuple(sorted({split for name in names for split in source_splits(name)}))

    def reuse(self, last: Job) -> int:
        """Return 2 for the same snapshot, whose network is loaded, and 1 for the same task, whose images are."""
        if not isinstance(last, TransferJob):
            return 0
        return 2 if last.key == self.key else int(last.task == self.task)


# The latest transfer of this process, after what it was opened with.
_opened: "list[tuple[object, Transfer]]" = []


def _open_transfer(reference: SuiteSnapshot, settings: TransferSettings, place: Place, control: Control) -> "Transfer":
    """Return the transfer of a snapshot. The process keeps the latest one, whose network is loaded, for its next job.

    Raises:
        InputError: The snapshot is missing or damaged.
    """
    from lrbench.transfer.cell import Transfer

    opened_with = (reference, identity(reference.path), settings, place, control)
    if not _opened or _opened[0][0] != opened_with:
        # The other network is freed first.
        _opened.clear()
        _opened.append((opened_with, Transfer(reference, settings, place, control)))
    return _opened[0][1]
