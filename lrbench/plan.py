"""A suite's plan: its snapshots and cells, which are done, and what the rest will cost. Imports no torch."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lrbench.arms import SnapshotKey, segment, snapshot_keys
from lrbench.cells import Cell, TransferSettings, done_result
from lrbench.effective import is_made
from lrbench.engines.jobs import Job, PretrainJob, TransferJob
from lrbench.leaderboard.index import load_index
from lrbench.references import Reference, partner_of
from lrbench.registry import Suite, load_task
from lrbench.registry.task import SyntheticFiles
from lrbench.snapshots import snapshot_path
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

    def summary(self) -> str:
        """One line: what is there and what is to do."""
        made = sum(each.made for each in self.snapshots)
        done = sum(each.done for each in self.cells)
        return (
            f"suite {self.suite.name}: {made:,} of {len(self.snapshots):,} snapshots and {done:,} of {len(self.cells):,} "
            "cells are there"
        )

    def _partner(self, key: SnapshotKey) -> SnapshotKey:
        """Whose features `concat` sets beside a snapshot's; the snapshot itself where they are no suite's."""
        reference = Reference(text=f"{self.suite.name}/{key}", suite=self.suite, key=key)
        return partner_of(reference, self.suite.concat.partner, Workspace(root=Path())).key or key

    def jobs(self, *, transfer: bool = True) -> list[Job]:
        """The jobs that are missing, parents before children."""
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
                    if any(cell.protocol == "concat" for cell in cells):
                        keys.add(self._partner(each.key))
                    missing = tuple(f"pretrain {key}" for key in sorted(keys - made))
                    jobs.append(
                        TransferJob(name=f"transfer {each.key}", needs=missing, weight=0.5, key=each.key, cells=cells)
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
    for name in (suite.source, *suite.targets):
        load_task(name)
    settings = TransferSettings.of(suite)
    snapshots, cells = [], []
    for key in snapshot_keys(suite, arm=arm, seed=seed):
        stretch = segment(suite.schedule, key)
        made = is_made(suite, key, workspace)
        epochs = 0 if stretch.derived else stretch.last_epoch - stretch.first_epoch
        snapshots.append(PlannedSnapshot(key=key, parent=stretch.parent, made=made, epochs=epochs))
        path = snapshot_path(workspace.checkpoints, suite.name, key)
        reference = Reference(text=f"{suite.name}/{key}", path=path, suite=suite, key=key)
        protocols = [protocol for protocol in suite.protocols if suite.uses(protocol, key.arm)]
        for name, protocol, transfer_seed in product(suite.targets, protocols, suite.transfer_seeds):
            cell = Cell(task=name, protocol=protocol, seed=transfer_seed)
            done = made and done_result(workspace, reference, cell, settings, partial=partial) is not None
            cells.append(PlannedCell(snapshot=key, cell=cell, done=done))
    return Plan(suite=suite, snapshots=tuple(snapshots), cells=tuple(cells))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan's missing work will cost in compute, from what the same suite has taken here so far.

    Attributes:
        updates: SGD updates that are missing; None where the source's size is not known before it is read.
        cells: Cells that are missing.
        pretraining_seconds: Estimate for the updates, on one process; None where none has been timed.
        transfer_seconds: Estimate for the cells, on one process; None where none has been timed.
    """

    updates: int | None
    cells: int
    pretraining_seconds: float | None
    transfer_seconds: float | None

    @property
    def seconds(self) -> float | None:
        """Both together; None where a part is not known."""
        if self.pretraining_seconds is None or self.transfer_seconds is None:
            return None
        return self.pretraining_seconds + self.transfer_seconds

    def words(self) -> str:
        """The cost in one line."""
        updates = "an unknown number of" if self.updates is None else f"{self.updates:,}"
        line = f"missing: {updates} updates of pretraining{_time(self.pretraining_seconds)}, {self.cells:,} cells"
        return f"{line}{_time(self.transfer_seconds)}; times are of one process, from what this suite took here so far"


def estimate_cost(plan: Plan, workspace: Workspace) -> Cost:
    """What the missing work of a plan will cost, from `timings.jsonl` and the results' timings."""
    task = load_task(plan.suite.source)
    files = task.files
    images = files.train if isinstance(files, SyntheticFiles) else task.counts.get("train")
    updates = None if images is None else plan.missing_epochs * (images // plan.suite.schedule.batch)
    missing = sum(not cell.done for cell in plan.cells)
    pace = _update_seconds(workspace.checkpoints / plan.suite.name)
    cell = _cell_seconds(workspace, plan.suite.name)
    return Cost(
        updates=updates,
        cells=missing,
        pretraining_seconds=0.0 if updates == 0 else None if pace is None or updates is None else pace * updates,
        transfer_seconds=0.0 if missing == 0 else None if cell is None else cell * missing,
    )


def _update_seconds(folder: Path) -> float | None:
    updates, seconds = 0, 0.0
    for path in folder.glob("*/seed*/timings.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                updates, seconds = updates + int(record["updates"]), seconds + float(record["seconds"])
            except (ValueError, KeyError, TypeError):
                # A line that a killed process left half-written tells nothing.
                continue
    return seconds / updates if updates else None


def _cell_seconds(workspace: Workspace, suite: str) -> float | None:
    seconds = [entry.seconds for entry in load_index(workspace.results, suite, workspace.cache).entries]
    return sum(seconds) / len(seconds) if seconds else None


def _time(seconds: float | None) -> str:
    if seconds is None:
        return " (not timed here yet)"
    if seconds < 90:
        return f" (about {seconds:.0f} s)"
    return f" (about {seconds / 60:.0f} min)" if seconds < 5400 else f" (about {seconds / 3600:.1f} h)"
