"""The plan of a suite: its snapshots and cells, and which are done. Imports no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

from lrbench.config import Suite, load_task
from lrbench.config.protocols import PROTOCOLS
from lrbench.config.schedule import SnapshotKey, segment, snapshot_keys
from lrbench.core.errors import InputError
from lrbench.core.workspace import Place, Workspace
from lrbench.jobs.job import Job, PretrainJob, TransferJob
from lrbench.store.cells import Cell, TransferSettings, cell_path, status_before_loading
from lrbench.store.lineage import check_intermediate_weights, snapshot_exists
from lrbench.store.references import SuiteSnapshot, resolve_partner
from lrbench.store.suites import SuiteMismatch, write_effective


@dataclass(frozen=True, kw_only=True)
class PlannedSnapshot:
    """One snapshot of a plan.

    Attributes:
        key: Which one.
        parent: The snapshot that it starts from.
        made: Whether its file exists.
        epochs: Epochs of training that it takes; 0 for the initialisation and for averages.
    """

    key: SnapshotKey
    parent: SnapshotKey | None
    made: bool
    epochs: int


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a plan.

    Attributes:
        snapshot: Which snapshot is transferred.
        cell: How.
        done: Whether its result exists.
        replaces: What differs in a result of the same weights that will be replaced; None where none will be.
        of_others: Whether a result exists without its snapshot: from another machine, or of a snapshot deleted since.
    """

    snapshot: SnapshotKey
    cell: Cell
    done: bool
    replaces: str | None = None
    of_others: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The snapshots and cells of a suite in a workspace."""

    suite: Suite
    workspace: Workspace
    snapshots: tuple[PlannedSnapshot, ...]
    cells: tuple[PlannedCell, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Tasks whose data the missing work reads: the source first, then targets."""
        trains = any(not each.made for each in self.snapshots)
        targets = dict.fromkeys(each.cell.task for each in self.cells if not each.done)
        return tuple(dict.fromkeys([*([self.suite.source] if trains else []), *targets]))

    def without_data(self, place: Place) -> dict[str, str]:
        """Tasks of `reads` whose data was not found, each with the error that says so; no data is read."""
        from lrbench.data.loading import find_task_data

        absent = {}
        for name in self.reads:
            try:
                find_task_data(load_task(name), place.roots)
            except InputError as error:
                absent[name] = str(error)
        return absent

    @property
    def missing_epochs(self) -> int:
        """Epochs of pretraining that are still to be trained."""
        return sum(each.epochs for each in self.snapshots if not each.made)

    def summary(self) -> str:
        """Return one line: how many snapshots and cells are done."""
        made = sum(each.made for each in self.snapshots)
        done = sum(each.done for each in self.cells)
        return (
            f"suite {self.suite.name}: {made:,} of {len(self.snapshots):,} snapshots and {done:,} of {len(self.cells):,} "
            "cells are done"
        )

    def replaced(self) -> str | None:
        """Return what a run will replace and how to keep it, or None where it replaces nothing."""
        differences = [each.replaces for each in self.cells if each.replaces is not None]
        if not differences:
            return None
        return (
            f"{len(differences):,} results of suite {self.suite.name} were computed with different settings or images and "
            f"will be replaced: {'; '.join(dict.fromkeys(differences))}. To keep them, copy "
            f"leaderboard/results/{self.suite.name} first, or undo the change."
        )

    def of_others(self) -> str | None:
        """Return how many results a run will replace because their snapshots are missing, or None where there are none."""
        count = sum(each.of_others for each in self.cells)
        if not count:
            return None
        return (
            f"{count:,} results of suite {self.suite.name} have no snapshots here, as in a clone: a run computes the "
            "snapshots, these results and the pages again. To keep them unchanged, work in another folder (LRBENCH_HOME=DIR)."
        )

    def _partner(self, key: SnapshotKey) -> SnapshotKey | None:
        """Return the snapshot whose features `concat` adds, or None if it is not one of this suite."""
        reference = SuiteSnapshot(suite=self.suite, key=key, checkpoints=self.workspace.checkpoints)
        partner = resolve_partner(reference, self.suite.concat.partner, self.workspace)
        if isinstance(partner, SuiteSnapshot) and partner.suite.name == self.suite.name:
            return partner.key
        return None

    def jobs(self, *, transfer: bool = True) -> list[Job]:
        """Return the missing jobs, parents before children."""
        jobs: list[Job] = []
        made = {each.key for each in self.snapshots if each.made}
        batch = self.suite.schedule.batch
        for each in self.snapshots:
            if not each.made:
                needs = () if each.parent is None or each.parent in made else (f"pretrain {each.parent}",)
                jobs.append(
                    PretrainJob(
                        name=f"pretrain {each.key}", needs=needs, weight=1.0 + batch * each.epochs, key=each.key
                    )
                )
        if transfer:
            for each in self.snapshots:
                cells = tuple(cell.cell for cell in self.cells if cell.snapshot == each.key and not cell.done)
                if cells:
                    keys = {each.key}
                    has_partner = any(PROTOCOLS[cell.protocol].features == "partner" for cell in cells)
                    if has_partner and (partner := self._partner(each.key)):
                        keys.add(partner)
                    missing = tuple(f"pretrain {key}" for key in sorted(keys - made))
                    jobs.append(
                        TransferJob(name=f"transfer {each.key}", needs=missing, weight=0.5, key=each.key, cells=cells)
                    )
        return jobs


@contextmanager
def _unknown_model_first(suite: Suite) -> Iterator[None]:
    """Report a misspelled model by its name where existing snapshots would be blamed.

    Raises:
        InputError: The suite does not match existing snapshots; where timm has no such model, that is reported instead.
    """
    try:
        yield
    except SuiteMismatch:
        from lrbench.models.limits import refuse_unknown

        refuse_unknown(suite.model.architecture)
        raise


def save_suite(workspace: Workspace, suite: Suite) -> None:
    """Write the suite with its snapshots, where a plan and later commands read it.

    Raises:
        InputError: Snapshots with other pretraining settings exist under the same name, or timm has no such model.
    """
    with _unknown_model_first(suite):
        write_effective(workspace, suite)


def make_plan(suite: Suite, place: Place, *, arm: str | None = None, seed: int | None = None) -> Plan:
    """Plan a suite in a workspace.

    Args:
        suite: The suite.
        place: Where its snapshots, results and data are, and whether results from partial data count as done.
        arm: Only what this arm needs.
        seed: Only this pretraining seed.

    Raises:
        InputError: An unknown arm, seed or task, or a snapshot that is damaged or was made with other settings.
    """
    source = load_task(suite.source, f"suite {suite.name}, source")
    tasks = {suite.source: source, **{name: load_task(name, f"suite {suite.name}, targets") for name in suite.targets}}
    settings = TransferSettings.of(suite)
    snapshots, cells = [], []
    for key in snapshot_keys(suite, arm=arm, seed=seed):
        stretch = segment(suite.schedule, key)
        with _unknown_model_first(suite):
            made = snapshot_exists(suite, key, place.workspace)
        epochs = 0 if stretch.derived else stretch.last_epoch - stretch.first_epoch
        snapshots.append(PlannedSnapshot(key=key, parent=stretch.parent, made=made, epochs=epochs))
        reference = SuiteSnapshot(suite=suite, key=key, checkpoints=place.workspace.checkpoints)
        protocols = [protocol for protocol in suite.protocols if suite.uses(protocol, key.arm)]
        for name, protocol, transfer_seed in product(suite.targets, protocols, suite.transfer_seeds):
            cell = Cell(task=name, protocol=protocol, seed=transfer_seed)
            status = status_before_loading(place, reference, cell, settings) if made else None
            # A suite's results are named by the snapshot's place, whatever its hash.
            lies = not made and cell_path(place.workspace, reference, "", cell, tasks[name]).is_file()
            cells.append(
                PlannedCell(
                    snapshot=key,
                    cell=cell,
                    done=status is not None and status.is_done,
                    replaces=None if status is None else status.stale_reason,
                    of_others=lies,
                )
            )
    check_intermediate_weights(suite, [each.key for each in snapshots if not each.made], place.workspace)
    return Plan(suite=suite, workspace=place.workspace, snapshots=tuple(snapshots), cells=tuple(cells))
