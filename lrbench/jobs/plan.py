"""Plan of a suite: its snapshots and cells, and which of them exist."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

from lrbench.config import Suite, load_task
from lrbench.config.arms import ARMS
from lrbench.config.protocols import RESERVED, find_protocol
from lrbench.config.relatives import related_keys
from lrbench.config.schedule import SnapshotKey, find_segment, snapshot_keys
from lrbench.core.errors import InputError
from lrbench.core.workspace import Place, Workspace
from lrbench.jobs.job import Job, PretrainJob, TransferJob
from lrbench.store.cells import Cell, TransferSettings, cell_path, source_cells, status_before_loading
from lrbench.store.lineage import check_intermediate_weights, resolve_segment, snapshot_exists
from lrbench.store.references import SuiteSnapshot, resolve_partner
from lrbench.store.suites import SuiteMismatch, write_effective


@dataclass(frozen=True, kw_only=True)
class PlannedSnapshot:
    """One snapshot of a plan.

    Attributes:
        key: Arm, seed and stage.
        parent: The snapshot that it starts from.
        exists: Whether its file exists.
        epochs: Epochs of training; 0 for the initialisation and for averages. Stages of arms with a pace of their own train for
            at most this number of epochs altogether.
    """

    key: SnapshotKey
    parent: SnapshotKey | None
    exists: bool
    epochs: int


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a plan.

    Attributes:
        snapshot: The snapshot that is transferred.
        cell: Task, protocol and transfer seed.
        done: Whether its result exists.
        replaces: How the result of the same weights that a run will replace differs; None if there is none.
        orphaned: Whether a result exists without its snapshot: from another machine, or of a deleted snapshot.
    """

    snapshot: SnapshotKey
    cell: Cell
    done: bool
    replaces: str | None = None
    orphaned: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The snapshots and cells of a suite in a workspace.

    Attributes:
        suite: The suite.
        workspace: The workspace.
        snapshots: Parents before children.
        cells: Transfers to the targets.
        source_cells: Predictions of images of the source, `store.cells.source_cells` of each snapshot.
    """

    suite: Suite
    workspace: Workspace
    snapshots: tuple[PlannedSnapshot, ...]
    cells: tuple[PlannedCell, ...]
    source_cells: tuple[PlannedCell, ...]

    @property
    def required_tasks(self) -> tuple[str, ...]:
        """Tasks whose data the missing work reads: the source first, then targets."""
        missing = {snapshot.key.seed for snapshot in self.snapshots if not snapshot.exists}
        missing |= {planned.snapshot.seed for planned in self.source_cells if not planned.done}
        source = [self.suite.source_of(seed) for seed in sorted(missing)]
        targets = [planned.cell.task for planned in self.cells if not planned.done]
        return tuple(dict.fromkeys([*source, *targets]))

    def missing_data(self, place: Place) -> dict[str, str]:
        """Return the errors for required tasks whose data is missing, by task; no data is read."""
        from lrbench.data.loading import find_task_data

        errors = {}
        for name in self.required_tasks:
            try:
                find_task_data(load_task(name), place.roots)
            except InputError as error:
                errors[name] = str(error)
        return errors

    @property
    def trains(self) -> bool:
        """Whether snapshots are missing."""
        return any(not snapshot.exists for snapshot in self.snapshots)

    def without_source_cells(self) -> "Plan":
        """Return the plan without predictions of the source's test images."""
        return replace(self, source_cells=())

    @property
    def missing_epochs(self) -> int:
        """Epochs of pretraining that are still to be trained."""
        return sum(snapshot.epochs for snapshot in self.snapshots if not snapshot.exists)

    def summary(self) -> str:
        """Return the number of snapshots and cells that are done, as one line."""
        existing = sum(snapshot.exists for snapshot in self.snapshots)
        done = sum(planned.done for planned in self.cells)
        missing = len({planned.snapshot for planned in self.source_cells if not planned.done})
        cells = f" and {done:,} of {len(self.cells):,} cells" if self.cells else ""
        return (
            f"suite {self.suite.name}: {existing:,} of {len(self.snapshots):,} snapshots{cells} are done"
            f"{f'; predictions of the source are missing for {missing:,} snapshots' if missing else ''}"
        )

    def pace_note(self) -> str | None:
        """Return that arms may train for fewer epochs than planned, or None if the suite has no such arm."""
        arms = " and ".join(arm for arm in self.suite.arms if ARMS[arm].has_own_pace)
        return f"epochs of {arms} are at most these, in total: a rule may end stages early" if arms else None

    def replacement_warning(self) -> str | None:
        """Return which results a run will replace and how to keep them, or None if it replaces none."""
        planned_cells = (*self.cells, *self.source_cells)
        differences = [planned.replaces for planned in planned_cells if planned.replaces is not None]
        if not differences:
            return None
        return (
            f"{len(differences):,} results of suite {self.suite.name} were computed with different settings or images and "
            f"will be replaced: {'; '.join(dict.fromkeys(differences))}. To keep them, copy "
            f"leaderboard/results/{self.suite.name} first, or undo the change."
        )

    def orphan_note(self) -> str | None:
        """Return how many results a run will replace because their snapshots are missing, or None if there are none."""
        count = sum(planned.orphaned for planned in (*self.cells, *self.source_cells))
        if not count:
            return None
        return (
            f"{count:,} results of suite {self.suite.name} have no snapshots here, as in a fresh clone. A run computes the "
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
        existing = {snapshot.key for snapshot in self.snapshots if snapshot.exists}
        planned_keys = {snapshot.key for snapshot in self.snapshots}
        for snapshot in self.snapshots:
            if not snapshot.exists:
                key, required = snapshot.key, find_segment(self.suite.schedule, snapshot.key).needs
                needs = tuple(f"pretrain {needed}" for needed in required if needed not in existing)
                weight = 1.0 + self.suite.schedule.batch_of(1) * snapshot.epochs
                jobs.append(PretrainJob(name=f"pretrain {key}", needs=needs, weight=weight, key=key))
        if transfer:
            missing_cells: dict[tuple[SnapshotKey, str, bool], list[Cell]] = {}
            # The source comes last, so that its errors do not keep transfers from being computed.
            for planned in (*self.cells, *self.source_cells):
                if not planned.done:
                    # Predictions of the source are a job of their own, also where the source is a target.
                    predicts = planned.cell.protocol in RESERVED
                    missing_cells.setdefault((planned.snapshot, planned.cell.task, predicts), []).append(planned.cell)
            for (key, task, predicts), cells in missing_cells.items():
                keys = {key}
                has_partner = any(find_protocol(cell.protocol).features == "partner" for cell in cells)
                if has_partner and (partner := self._partner(key)):
                    keys.add(partner)
                if any(find_protocol(cell.protocol).compares for cell in cells):
                    # A plan of one arm may lack the controls, which are then not compared with.
                    keys |= planned_keys.intersection(related_keys(self.suite, key).values())
                needs = tuple(f"pretrain {needed}" for needed in sorted(keys - existing))
                # All weigh less than pretraining; training ones take longest, so they start first.
                weight = 0.75 if any(find_protocol(cell.protocol).trains for cell in cells) else 0.5
                name = f"predict {task} with {key}" if predicts else f"transfer {key} to {task}"
                jobs.append(TransferJob(name=name, needs=needs, weight=weight, key=key, task=task, cells=tuple(cells)))
        return jobs


@contextmanager
def _unknown_model_first(suite: Suite) -> Iterator[None]:
    """Report an unknown model as such, not as a mismatch with existing snapshots.

    Raises:
        InputError: timm has no such model, or the suite does not match existing snapshots.
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
        place: Holds snapshots, results and data, and says whether results from partial data count as done.
        arm: Plan only the snapshots of this arm and those that they start from.
        seed: Plan only this pretraining seed.

    Raises:
        InputError: An unknown arm, seed or task, or a snapshot that is damaged or was made with other settings.
    """
    sources = {name: load_task(name, f"suite {suite.name}, source") for name in suite.sources}
    if suite.source_hits and not all(source.has_known_evidence for source in sources.values()):
        raise InputError(
            f"suite {suite.name} has source_hits = true, but wrong labels and evidence of its source {suite.source} are not "
            "known. Remove source_hits, or choose a generated source such as ps10-k4-wrong20."
        )
    tasks = {**sources, **{name: load_task(name, f"suite {suite.name}, targets") for name in suite.targets}}
    for task in tasks.values():
        task.require_training_images(f"suite {suite.name}: ")
    settings = TransferSettings.of(suite)
    snapshots: list[PlannedSnapshot] = []
    cells: list[PlannedCell] = []
    of_source: list[PlannedCell] = []

    def planned(key: SnapshotKey, cell: Cell, *, exists: bool) -> PlannedCell:
        reference = SuiteSnapshot(suite=suite, key=key, checkpoints=place.workspace.checkpoints)
        status = status_before_loading(place, reference, cell, settings) if exists else None
        # The name of a suite's result does not depend on the snapshot's hash.
        orphaned = not exists and cell_path(place.workspace, reference, "", cell, tasks[cell.task]).is_file()
        return PlannedCell(
            snapshot=key,
            cell=cell,
            done=status is not None and status.is_done,
            replaces=None if status is None else status.stale_reason,
            orphaned=orphaned,
        )

    for key in snapshot_keys(suite, arm=arm, seed=seed):
        part = resolve_segment(suite, key, place.workspace)
        with _unknown_model_first(suite):
            exists = snapshot_exists(suite, key, place.workspace)
        epochs = 0 if part.derived else part.last_epoch - part.first_epoch
        snapshots.append(PlannedSnapshot(key=key, parent=part.parent, exists=exists, epochs=epochs))
        protocols = [protocol for protocol in suite.protocols if suite.uses(protocol, key.arm)]
        for name, protocol, transfer_seed in product(suite.targets, protocols, suite.transfer_seeds):
            cells.append(planned(key, Cell(task=name, protocol=protocol, seed=transfer_seed), exists=exists))
        of_source.extend(planned(key, cell, exists=exists) for cell in source_cells(suite, key.seed))
    check_intermediate_weights(suite, [snapshot.key for snapshot in snapshots if not snapshot.exists], place.workspace)
    return Plan(
        suite=suite,
        workspace=place.workspace,
        snapshots=tuple(snapshots),
        cells=tuple(cells),
        source_cells=tuple(of_source),
    )
