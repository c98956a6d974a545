"""Jobs, the units of a suite's work: pretraining one snapshot, or transferring one snapshot to all missing cells."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lrbench.config import Suite
from lrbench.config.protocols import RESERVED
from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.workspace import Place
from lrbench.store.cells import Cell, Overwrite, TransferSettings
from lrbench.store.references import SuiteSnapshot


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


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Job):
    """Pretrain one snapshot."""

    key: SnapshotKey

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Pretrain the snapshot and return a line with its source accuracy."""
        return self.run_together(suite, place, control, SINGLE_PROCESS)

    def run_together(self, suite: Suite, place: Place, control: Control, ranks: ProcessGroup) -> str:
        """Pretrain the snapshot together with other processes."""
        from lrbench.pretrain.segments import make_snapshot

        metadata = make_snapshot(suite, self.key, place, control, ranks)
        accuracy = f"source accuracy {100 * (metadata.source_accuracy or 0):.1f} %"
        report = ", ".join(f"{name} {100 * value:.1f} %" for name, value in metadata.source_report.items())
        return f"{self.key}: {accuracy}" + (f" ({report})" if report else "")


@dataclass(frozen=True, kw_only=True)
class TransferJob(Job):
    """Transfer one snapshot to its missing cells, and predict its source's test images if that is one of them."""

    key: SnapshotKey
    cells: tuple[Cell, ...]

    def run(self, suite: Suite, place: Place, control: Control) -> str:
        """Compute the missing cells one by one; each result is written as soon as it is complete."""
        from lrbench.transfer.cell import Transfer

        reference = SuiteSnapshot(suite=suite, key=self.key, checkpoints=place.workspace.checkpoints)
        transfer = Transfer(reference, TransferSettings.of(suite), place, control)
        # The plan is older than this job: another process may have computed some of the cells since.
        missing = [cell for cell in self.cells if transfer.status(cell).existing_result(Overwrite.STALE) is None]
        for cell in missing:
            transfer.run(cell)
        transferred = sum(cell.protocol not in RESERVED for cell in missing)
        source = ", source images predicted" if transferred < len(missing) else ""
        return f"{self.key}: {transferred} cells transferred{source}"
