"""A suite's plan: its snapshots and cells, which are done, and what the rest will cost. Imports no torch."""

from dataclasses import dataclass

from lrbench.arms import SnapshotKey, segment, snapshot_keys
from lrbench.cells import Cell, TransferSettings, is_done
from lrbench.effective import is_made
from lrbench.engines.jobs import Job, PretrainJob, TransferJob
from lrbench.registry import Suite, Task, load_task
from lrbench.results import cell_key
from lrbench.snapshots import identity, snapshot_path
from lrbench.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class PlannedSnapshot:
    """One snapshot of a plan.

    Attributes:
        key: Which one.
        parent: The snapshot that it starts from.
        made: Whether it is there.
        epochs: Epochs that making it trains for; 0 for the initialisation and for averages.
    """

    key: SnapshotKey
    parent: SnapshotKey | None
    made: bool
    epochs: int


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a plan."""

    snapshot: SnapshotKey
    cell: Cell
    done: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite is made of, and how much of it is there."""

    suite: Suite
    snapshots: tuple[PlannedSnapshot, ...]
    cells: tuple[PlannedCell, ...]

    @property
    def missing_epochs(self) -> int:
        """Epochs of pretraining that are still to be trained."""
        return sum(each.epochs for each in self.snapshots if not each.made)

    def jobs(self, *, transfer: bool = True) -> list[Job]:
        """The jobs that are missing, parents before children."""
        jobs: list[Job] = []
        made = {each.key for each in self.snapshots if each.made}
        batch = self.suite.schedule.batch
        for each in self.snapshots:
            if not each.made:
                needs = () if each.parent is None or each.parent in made else (f"pretrain {each.parent}",)
                jobs.append(
                    PretrainJob(name=f"pretrain {each.key}", needs=needs, weight=1.0 + batch * each.epochs, key=each.key)
                )
        if transfer:
            for each in self.snapshots:
                cells = tuple(cell.cell for cell in self.cells if cell.snapshot == each.key and not cell.done)
                if cells:
                    needs = () if each.key in made else (f"pretrain {each.key}",)
                    jobs.append(
                        TransferJob(name=f"transfer {each.key}", needs=needs, weight=0.5, key=each.key, cells=cells)
                    )
        return jobs


def make_plan(
    suite: Suite, workspace: Workspace, *, arm: str | None = None, seed: int | None = None, partial: bool = False
) -> Plan:
    """A suite's plan here.

    Args:
        suite: The suite.
        workspace: Where its snapshots and results lie.
        arm: Only what this arm needs.
        seed: Only this pretraining seed.
        partial: Whether results from partial data count as done.

    Raises:
        InputError: An unknown arm, seed or task, or a snapshot that is damaged or was made with other settings.
    """
    tasks = {name: load_task(name) for name in suite.targets}
    load_task(suite.source)
    settings = TransferSettings.of(suite)
    snapshots, cells = [], []
    for key in snapshot_keys(suite, arm=arm, seed=seed):
        stretch = segment(suite.schedule, key)
        made = is_made(suite, key, workspace)
        epochs = 0 if stretch.averaged else stretch.last_epoch - stretch.first_epoch
        snapshots.append(PlannedSnapshot(key=key, parent=stretch.parent, made=made, epochs=epochs))
        sha256 = identity(snapshot_path(workspace.checkpoints, suite.name, key)) if made else None
        for name, task in tasks.items():
            for protocol in suite.protocols:
                for transfer_seed in suite.transfer_seeds:
                    cell = Cell(task=name, protocol=protocol, seed=transfer_seed)
                    done = _done(suite, settings, workspace, key, cell, task, sha256, partial)
                    cells.append(PlannedCell(snapshot=key, cell=cell, done=done))
    return Plan(suite=suite, snapshots=tuple(snapshots), cells=tuple(cells))


def _done(
    suite: Suite,
    settings: TransferSettings,
    workspace: Workspace,
    key: SnapshotKey,
    cell: Cell,
    task: Task,
    sha256: str | None,
    partial: bool,
) -> bool:
    slug = f"{key.arm}-seed{key.seed}-stage{key.stage}"
    name = cell_key(snapshot=slug, task=task.name, protocol=cell.protocol, seed=cell.seed)
    return is_done(
        workspace,
        suite.name,
        name,
        sha256=sha256,
        settings=settings.record(cell.protocol, task),
        protocol=cell.protocol,
        partial=partial,
    )
