"""A suite's work as jobs: which there are, what each needs, and how one is done.

Two kinds: making one snapshot, and transferring one snapshot to every target and protocol that is missing.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lrbench.config import Suite
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.workspace import Place
from lrbench.store.cells import Cell, Overwrite, TransferSettings
from lrbench.store.references import SuiteSnapshot


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One piece of work, done in one go by one process.

    Attributes:
        name: What it is called in messages; unique.
        needs: Names of the jobs that must be done before.
        weight: How much work it is beside the others, in image-updates; the longest chain is begun first.
    """

    name: str
    needs: tuple[str, ...] = ()
    weight: float = 1.0

    @abstractmethod
    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Run the job and return a one-line report of its outcome."""


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Job):
    """Makes one snapshot."""

    key: SnapshotKey

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Make the snapshot; says its source accuracy."""
        return self.run_together(suite, place, control, SINGLE_PROCESS)

    def run_together(self, suite: Suite, place: Place, control: Control, ranks: ProcessGroup) -> str:
        """The same, with the other processes."""
        from lrbench.pretrain.segments import make_snapshot

        metadata = make_snapshot(suite, self.key, place, control, ranks)
        accuracy = f"source accuracy {100 * (metadata.source_accuracy or 0):.1f} %"
        report = ", ".join(f"{name} {100 * value:.1f} %" for name, value in metadata.source_report.items())
        return f"{self.key}: {accuracy}" + (f" ({report})" if report else "")


@dataclass(frozen=True, kw_only=True)
class TransferJob(Job):
    """Transfers one snapshot to the cells that are missing."""

    key: SnapshotKey
    cells: tuple[Cell, ...]

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Compute the cells one by one; each result is kept as soon as it is there."""
        from lrbench.transfer.cell import Transfer

        reference = SuiteSnapshot(suite=suite, key=self.key, checkpoints=place.workspace.checkpoints)
        transfer = Transfer(reference, TransferSettings.of(suite), place, control)
        # The plan is older than this job: another process may have computed some of the cells since.
        missing = [cell for cell in self.cells if transfer.status(cell).existing_result(Overwrite.STALE) is None]
        for cell in missing:
            transfer.run(cell)
        return f"{self.key}: {len(missing)} cells transferred"
