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
    some,
    warn,
)
from lrbench.cli.outcome import show_result
from lrbench.config.protocols import PROTOCOLS, SOURCE, SOURCE_FIT, SOURCE_HITS
from lrbench.core.control import Control

if TYPE_CHECKING:
    from lrbench.config.protocols import Finetune
    from lrbench.core.errors import LrbenchError
    from lrbench.core.workspace import Place, Workspace
    from lrbench.store.cells import Cell, Overwrite, TransferSettings
    from lrbench.store.references import Reference
    from lrbench.store.results import StoredResult
    from lrbench.transfer.cell import Transfer


# With more updates than this, a grid takes hours on a CPU.
_MANY_UPDATES = 20_000


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
        if name not in PROTOCOLS:
            if (problem := PROTOCOLS.broken(name)) is not None:
                raise typer.BadParameter(f"{problem}.")
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, PROTOCOLS))}.")
    return names


def transfer(
    snapshots: Annotated[
        list[str],
        typer.Option(
            "--snapshot",
            metavar="REF",
            help="stage2, arm/stage2, suite/arm/seed1/stage2, a .safetensors file, a folder of such files, timm:NAME, "
            "hf-hub:OWNER/NAME or python:MODULE:FUNCTION (returns a torch.nn.Module). timm:NAME without a tag has random "
            "weights. Repeatable.",
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
            help=" ".join(f"{known.name}: {known.help}." for known in PROTOCOLS.values())
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
    json_: JsonOption = False,
) -> None:
    """Transfer snapshots to tasks: select on validation, refit, and read the test labels once.

    Repeat --snapshot, --task or --protocol to compute every combination; a failure does not stop the others. --tasks also
    prints a table with the mean over the tasks and its interval. Results are stored in leaderboard/results/;
    `lrbench leaderboard` adds them to the tables. --json prints one result, or a list for several.
    """
    from lrbench.cli.register import warn_if_changed
    from lrbench.cli.task_table import show_means
    from lrbench.config import load_task
    from lrbench.config.registry import tasks_named
    from lrbench.core.errors import FailureError, InputError, InterruptedWork, as_user_error
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.store.cells import Cell, Overwrite
    from lrbench.store.references import SuiteSnapshot, snapshot_folder

    workspace = Workspace.for_writing()
    # Wrong names are reported before any work.
    tasks = list(dict.fromkeys([*(task or []), *tasks_named(tasks_ or [])]))
    if not tasks:
        raise typer.BadParameter("name a task, as in --task cub200, or a group, as in --tasks paper.")
    protocols = list(dict.fromkeys(protocol or ["probe"]))
    task_names = [load_task(name).name for name in tasks]
    references = _references(snapshots, workspace, suite, arm)
    suites = {reference.suite.name: reference.suite for reference in references if isinstance(reference, SuiteSnapshot)}
    for named in suites.values():
        warn_if_changed(workspace, named)
    settings = [_settings(reference, workspace, suite) for reference in references]
    settings = [(chosen.with_changes(protocols, set_ or ()), default_seed) for chosen, default_seed in settings]
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    asked = len(references) * len(tasks) * len(protocols)
    alone = asked == 1 and snapshot_folder(snapshots[0], workspace) is None
    results: list[StoredResult] = []
    failed: list[_Failed] = []
    try:
        for reference, (chosen, default_seed) in zip(references, settings, strict=True):
            snapshot = _Snapshot(reference, chosen, place)
            for name, kind in product(tasks, protocols):
                cell = Cell(task=name, protocol=kind, seed=default_seed if seed is None else seed)
                try:
                    stored = snapshot.result(cell, Overwrite.ALWAYS if again else Overwrite.NEVER)
                except InterruptedWork:
                    if failed:
                        warn(_summary(failed, asked, of_one_kind=len(tasks) == len(protocols) == 1))
                    raise
                except Exception as error:
                    if alone:
                        raise
                    failed.append(_Failed(reference.text, cell, as_user_error(error)))
                    continue
                results.append(stored)
                show_result(stored, name, as_json=json_)
    finally:
        # Results are printed also after an interruption.
        if json_ and (results or failed):
            records = [stored.result.model_dump(by_alias=True, mode="json") for stored in results]
            emit_json(records[0] if alone else records)
        elif tasks_ and not json_:
            show_means(task_names, results)
    if failed:
        error_kind = InputError if all(isinstance(failure.error, InputError) for failure in failed) else FailureError
        raise error_kind(_summary(failed, asked, of_one_kind=len(tasks) == len(protocols) == 1))


@dataclass(frozen=True)
class _Failed:
    snapshot: str
    cell: "Cell"
    error: "LrbenchError"


def _summary(failed: Sequence[_Failed], asked: int, *, of_one_kind: bool) -> str:
    """Return a paragraph on failed transfers, grouped by reason.

    Args:
        failed: The failed transfers.
        asked: Number of transfers requested.
        of_one_kind: Whether all have the same task and protocol, which are then not named.
    """
    from lrbench.core.errors import as_sentence

    names: dict[str, list[str]] = {}
    for failure in failed:
        cell = failure.cell
        name = failure.snapshot if of_one_kind else f"{failure.snapshot} → {cell.task} ({cell.protocol})"
        names.setdefault(as_sentence(str(failure.error)), []).append(name)
    reasons = " ".join(f"{some(group)}: {reason}" for reason, group in names.items())
    return f"{len(failed)} of {asked} transfers failed. {reasons}"


def _references(named: Sequence[str], workspace: "Workspace", suite: str | None, arm: str | None) -> "list[Reference]":
    """Return the named snapshots without repetition; a folder is replaced by its snapshots."""
    from lrbench.store.references import references_in, resolve_reference, snapshot_folder

    references: dict[str, Reference] = {}
    for text in named:
        folder = snapshot_folder(text, workspace)
        if folder is not None:
            references |= {inner.text: inner for inner in references_in(folder, workspace)}
            continue
        reference = resolve_reference(text, workspace, suite=suite, arm=arm)
        _note_shared_stage(reference, text, arm)
        references[reference.text] = reference
    return list(references.values())


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


class _Forward(Control):
    """Forwards progress to the display of the current cell; one snapshot's network serves several cells."""

    display = Control()

    def stop_requested(self) -> bool:
        return self.display.stop_requested()

    def progress(self, done: int, total: int, unit: str) -> None:
        self.display.progress(done, total, unit)

    def say(self, text: str) -> None:
        self.display.say(text)


class _Snapshot:
    """A snapshot whose network is loaded when the first of its cells is computed."""

    def __init__(self, reference: "Reference", settings: "TransferSettings", place: "Place") -> None:
        self._reference, self._settings, self._place = reference, settings, place
        self._control = _Forward()
        self._transfer: Transfer | None = None

    def result(self, cell: "Cell", overwrite: "Overwrite") -> "StoredResult":
        """Return the result of a cell, which is computed unless the policy keeps the existing one."""
        from lrbench.cli.progress import showing_progress
        from lrbench.config import load_task
        from lrbench.data.loading import find_task_data
        from lrbench.store.cells import status_before_loading
        from lrbench.store.results import StoredResult, read_result

        status = status_before_loading(self._place, self._reference, cell, self._settings)
        existing = None if status is None else status.existing_result(overwrite)
        if existing is None:
            # Missing data is reported before a network is loaded.
            find_task_data(load_task(cell.task), self._place.roots)
            # Loading is not under the progress display, so that Ctrl-C ends it at once.
            transfer = self._loaded()
            if status is None:
                existing = transfer.status(cell).existing_result(overwrite)
        if existing is not None:
            note(f"{existing.path} exists, so nothing was computed (--again recomputes it)")
            return existing
        if PROTOCOLS[cell.protocol].trains:
            _note_grid_cost(self._settings.finetune)
        with showing_progress(f"{cell.protocol} {cell.task}") as self._control.display:
            path = transfer.run(cell)
        return StoredResult(result=read_result(path), path=path)

    def _loaded(self) -> "Transfer":
        from lrbench.store.references import SuiteSnapshot
        from lrbench.store.suites import write_suite_with_results
        from lrbench.transfer.cell import Transfer

        if self._transfer is None:
            self._transfer = Transfer(self._reference, self._settings, self._place, self._control)
            text = self._reference.text
            if self._transfer.record.random:
                warn(
                    f"{text} has no tag, so its weights are random. Add a tag to load pretrained weights, as in "
                    f"{text}.a1_in1k."
                )
            if isinstance(self._reference, SuiteSnapshot):
                write_suite_with_results(self._place.workspace, self._reference.suite)
        return self._transfer


def _note_grid_cost(chosen: "Finetune") -> None:
    """Print a note before a long fine-tuning on a CPU, where the default grid may take days."""
    from lrbench.models.devices import pick_device

    points = len(chosen.rates) * len(chosen.decays)
    if pick_device().type != "cpu" or points * chosen.updates < _MANY_UPDATES:
        return
    note(
        f"fine-tuning {points} grid points on a CPU, for {chosen.updates:,} updates of {chosen.batch} images each, takes long; "
        "Ctrl-C saves. For a first look use --set finetune.updates=500 --set 'finetune.rates=[0.01]' "
        "--set 'finetune.decays=[1e-4]', or --set finetune.halving=true. Different settings are not ranked together."
    )
