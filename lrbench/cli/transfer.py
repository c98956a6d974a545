"""`lrbench transfer`: transfer of snapshots to tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import (
    DataRootOption,
    JsonOption,
    NoCacheOption,
    PartialOption,
    SetOption,
    emit_json,
    note,
    show,
    table,
    warn,
    warn_of_random_weights,
)
from lrbench.cli.many import SEVERAL_HELP, Sort, SortOption, cost_order, failures_text, note_grid_cost, raise_failures
from lrbench.cli.outcome import describe_result, note_remarks
from lrbench.cli.work import TrackOption
from lrbench.config.protocols import (
    PROTOCOLS,
    SOURCE,
    SOURCE_FIT,
    SOURCE_HITS,
    find_protocol,
    requested_protocols,
)
from lrbench.core.control import Control, stopping_on_signals

if TYPE_CHECKING:
    from lrbench.core.errors import LrbenchError
    from lrbench.core.workspace import Place, Workspace
    from lrbench.models.network_cost import NetworkCost
    from lrbench.store.cells import Cell, Overwrite, TransferSettings
    from lrbench.store.references import Reference
    from lrbench.store.results import StoredResult
    from lrbench.transfer.cell import Transfer


def _check_protocols(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name == SOURCE.name:
            raise typer.BadParameter(
                f"{name!r} is not a transfer protocol; `lrbench run SUITE` computes it for every suite."
            )
        if name == SOURCE_HITS.name:
            raise typer.BadParameter(
                f"{name!r} is not a transfer protocol; `lrbench run SUITE` computes it for suites with source_hits = true."
            )
        if name == SOURCE_FIT.name:
            raise typer.BadParameter(
                f"{name!r} is not a transfer protocol; `lrbench run SUITE` computes it for suites with source_fit.images."
            )
        if name not in requested_protocols():
            if (problem := PROTOCOLS.broken(name)) is not None:
                raise typer.BadParameter(f"{problem}.")
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, requested_protocols()))}.")
    return names


def transfer(
    snapshots: Annotated[
        list[str],
        typer.Option(
            "--snapshot",
            metavar="REF",
            help="stage2, arm/stage2, suite/arm/seed1/stage2, a .safetensors file, timm:NAME, hf-hub:OWNER/NAME or "
            "python:MODULE:FUNCTION (returns a torch.nn.Module). timm:NAME without a tag has random weights. "
            f"{SEVERAL_HELP} Repeatable.",
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="A task's name, or the path of a task TOML. Repeatable."),
    ] = None,
    tasks_: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="GROUP",
            help="Tasks of a group (`lrbench tasks` lists the groups), or tasks separated by commas. Repeatable.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            callback=_check_protocols,
            help=" ".join(f"{name}: {find_protocol(name).help}." for name in requested_protocols())
            + " Repeatable. [default: probe]",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="Suite of the snapshot and the settings. [default: the one pretrained last]",
        ),
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", metavar="ARM", help="Arm of a snapshot named without one. [default: step]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="K", min=0, max=2**63 - 1, help="Transfer seed. [default: the suite's first, or 0]"
        ),
    ] = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    again: Annotated[bool, typer.Option("--again", help="Compute and replace existing results.")] = False,
    sort: SortOption = "score",
    track: TrackOption = None,
    json_: JsonOption = False,
) -> None:
    """Transfer snapshots to tasks: select on validation, refit, and read the test labels once.

    Several snapshots, tasks or protocols compute every combination and print a table, with the cost of several snapshots; a
    failure does not stop the others, and failures are listed at the end. --tasks also prints a table with the mean over the
    tasks and its interval. Results are stored in leaderboard/results/;
    `lrbench leaderboard` adds them to the tables. --json prints one result, or a list for several.
    """
    from lrbench.cli.progress import progress_view
    from lrbench.cli.register import warn_if_changed
    from lrbench.cli.task_table import show_means
    from lrbench.config import load_task
    from lrbench.config.registry import tasks_named
    from lrbench.core.errors import InputError, InterruptedWork, as_user_error
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.pretraining.tracking import check_trackers
    from lrbench.store.cells import Cell, Overwrite
    from lrbench.store.reference_lists import is_several, resolve_references
    from lrbench.store.references import SuiteSnapshot

    workspace = Workspace.for_writing()
    # Wrong names are reported before any work.
    tasks = list(dict.fromkeys([*(task or []), *tasks_named(tasks_ or [])]))
    if not tasks:
        raise typer.BadParameter("name a task, as in --task cub200, or a group, as in --tasks paper.")
    protocols = list(dict.fromkeys(protocol or ["probe"]))
    task_names = [load_task(name).name for name in tasks]
    if twice := [name for name in dict.fromkeys(task_names) if task_names.count(name) > 1]:
        texts = [text for text, name in zip(tasks, task_names, strict=True) if name == twice[0]]
        raise InputError(
            f"{' and '.join(texts)} are both called {twice[0]}, so their results would be mixed. Name one of them."
        )
    named = resolve_references(snapshots, workspace, suite=suite, arm=arm)
    for text, reference in named.items():
        _note_shared_stage(reference, text, arm)
    references = list(named.values())
    suites = {reference.suite.name: reference.suite for reference in references if isinstance(reference, SuiteSnapshot)}
    for known in suites.values():
        warn_if_changed(workspace, known)
    settings = [_settings(reference, workspace, suite) for reference in references]
    settings = [(chosen.with_changes(protocols, set_ or ()), default_seed) for chosen, default_seed in settings]
    trackers = tuple(track or ())
    check_trackers(trackers)
    place = Place(
        workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache, trackers=trackers
    )
    cells = list(product(zip(references, settings, strict=True), tasks, protocols))
    alone = len(cells) == 1 and not is_several(snapshots[0], workspace)
    done: list[_Done] = []
    failed: list[tuple[str, LrbenchError]] = []
    try:
        with progress_view(f"{protocols[0]} {tasks[0]}" if alone else "transfer") as control:
            snapshot: _Snapshot | None = None
            for number, ((reference, (chosen, default_seed)), target, kind) in enumerate(cells, start=1):
                if snapshot is None or snapshot.reference is not reference:
                    snapshot = _Snapshot(reference, chosen, place, control)
                cell = Cell(task=target, protocol=kind, seed=default_seed if seed is None else seed)
                name = f"{reference.text} → {target} ({kind})"
                if not alone:
                    control.part(number, len(cells), name)
                try:
                    stored, is_new = snapshot.result(cell, Overwrite.ALWAYS if again else Overwrite.NEVER)
                    cost = snapshot.cost() if len(references) > 1 else None
                except InterruptedWork:
                    if failed:
                        warn(failures_text(failed, len(cells), "transfers"))
                    raise
                except Exception as error:
                    if alone:
                        raise
                    failed.append((reference.text if len(tasks) == len(protocols) == 1 else name, as_user_error(error)))
                    continue
                done.append(_Done(stored, cost, is_new))
                if not alone:
                    describe_result(stored, target, None if json_ else note)
        if alone:
            describe_result(done[0].stored, tasks[0], None if json_ else show)
        for name in dict.fromkeys(tasks) if done else ():
            note_remarks(name)
    finally:
        # Results are printed also after an interruption.
        if json_:
            records = [item.stored.result.model_dump(by_alias=True, mode="json") for item in done]
            if done or failed:
                emit_json(records[0] if alone else records)
        else:
            if done and not alone and (len(references) > 1 or not tasks_):
                _show_table(done, sort)
            if tasks_:
                show_means(task_names, [item.stored for item in done])
    raise_failures(failed, len(cells), "transfers")


@dataclass(frozen=True)
class _Done:
    """A result, the cost of its network if several are compared, and whether it was computed now."""

    stored: "StoredResult"
    cost: "NetworkCost | None"
    is_new: bool


def _show_table(done: Sequence[_Done], sort: Sort) -> None:
    """Print results for each task and protocol in the order asked, with the cost of the networks if there are several."""
    from lrbench.config.task import METRIC_NAMES
    from lrbench.transfer.recommend import images_per_second
    from lrbench.transfer.recommendation_text import cost_cells, cost_text

    results = [(item, item.stored.result, images_per_second(item.stored.result)) for item in done]
    groups = list(dict.fromkeys((result.task.name, result.protocol) for _, result, _ in results))
    metrics = {METRIC_NAMES[result.task.metric] for _, result, _ in results}
    accuracy = f"{metrics.pop() if len(metrics) == 1 else 'headline metric'} %"
    rows = []
    for group in groups:
        members = [entry for entry in results if (entry[1].task.name, entry[1].protocol) == group]
        members.sort(key=lambda entry: -entry[1].headline)
        if sort != "score":
            members.sort(key=lambda entry: cost_order(entry[0].cost, entry[2], sort))
        for item, result, speed in members:
            names = {"task": result.task.name, "protocol": result.protocol} if len(groups) > 1 else {}
            costs = {} if item.cost is None else cost_cells(item.cost, speed)
            cells = {accuracy: f"{100 * result.headline:.2f}", **costs}
            rows.append({"snapshot": result.snapshot.reference, **names, **cells})
    show(table(rows, wrapped="snapshot", spare=["multiply-adds"]))
    timed = [item.is_new for item, _, speed in results if item.cost is not None and speed is not None]
    if timed:
        note(cost_text(stored=timed.count(False), measured=timed.count(True)))


def _note_shared_stage(reference: "Reference", named: str, arm: str | None) -> None:
    """Print a note if the named arm shares its stage with the arm that trained it."""
    from lrbench.store.references import SuiteSnapshot

    if not isinstance(reference, SuiteSnapshot):
        return
    asked = next((part for part in named.split("/")[:-1] if part in reference.suite.arms), arm)
    if asked not in (None, reference.key.arm):
        note(f"{asked} shares stage{reference.key.stage} with {reference.key.arm}; using {reference.text}")


def _settings(reference: "Reference", workspace: "Workspace", suite: str | None) -> "tuple[TransferSettings, int]":
    from lrbench.store.cells import TransferSettings
    from lrbench.store.references import SuiteSnapshot
    from lrbench.store.suites import suite_in_use

    if isinstance(reference, SuiteSnapshot):
        return TransferSettings.of(reference.suite), reference.suite.transfer_seeds[0]
    if suite is not None:
        chosen = suite_in_use(workspace, suite)
        return TransferSettings.of(chosen), chosen.transfer_seeds[0]
    return TransferSettings(), 0


class _Snapshot:
    """A snapshot whose network is loaded when the first of its cells is computed."""

    def __init__(self, reference: "Reference", settings: "TransferSettings", place: "Place", control: Control) -> None:
        self.reference = reference
        self._settings, self._place, self._control = settings, place, control
        self._transfer: Transfer | None = None

    def result(self, cell: "Cell", overwrite: "Overwrite") -> "tuple[StoredResult, bool]":
        """Return the result of a cell, which is computed unless the policy keeps the existing one, and whether it is new."""
        from lrbench.config import load_task
        from lrbench.data.loading import find_task_data
        from lrbench.store.cells import status_before_loading
        from lrbench.store.results import StoredResult, read_result

        status = status_before_loading(self._place, self.reference, cell, self._settings)
        existing = None if status is None else status.existing_result(overwrite)
        if existing is None:
            # Missing data is reported before a network is loaded.
            find_task_data(load_task(cell.task), self._place.roots)
            # Signals are not caught while it loads, so that Ctrl-C ends a download at once.
            transfer = self._loaded()
            if status is None:
                existing = transfer.status(cell).existing_result(overwrite)
        if existing is not None:
            note(f"{existing.path} exists, so nothing was computed (--again recomputes it)")
            return existing, False
        if find_protocol(cell.protocol).trains:
            note_grid_cost(self._settings.finetune)
        with stopping_on_signals(self._control):
            path = transfer.run(cell)
        return StoredResult(result=read_result(path), path=path), True

    def cost(self) -> "NetworkCost":
        """Return the cost of the network."""
        from lrbench.models.network_cost import skeleton_cost

        return skeleton_cost(self.reference) or self._loaded().cost()

    def _loaded(self) -> "Transfer":
        from lrbench.store.references import SuiteSnapshot
        from lrbench.store.suites import write_suite_with_results
        from lrbench.transfer.cell import Transfer

        if self._transfer is None:
            self._transfer = Transfer(self.reference, self._settings, self._place, self._control)
            if self._transfer.record.random:
                warn_of_random_weights(self.reference.text)
            if isinstance(self.reference, SuiteSnapshot):
                write_suite_with_results(self._place.workspace, self.reference.suite)
        return self._transfer
