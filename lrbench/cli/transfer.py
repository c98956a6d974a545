"""`lrbench transfer`: one snapshot, or each in a folder, to one task with one protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    warn,
)

if TYPE_CHECKING:
    from lrbench.cells import Cell, TransferSettings
    from lrbench.errors import LrbenchError
    from lrbench.references import Reference
    from lrbench.registry.protocols import Finetune
    from lrbench.results import Result
    from lrbench.workspace import Place, Workspace


# From here on a grid on a CPU is no matter of minutes.
_MANY_UPDATES = 20_000


def transfer(
    snapshot: Annotated[
        str,
        typer.Option(
            "--snapshot",
            metavar="REF",
            help="stage2, arm/stage2, suite/arm/seed1/stage2, a .safetensors path, a folder of such files, timm:NAME or "
            "hf-hub:OWNER/NAME. timm:NAME without a tag means random weights.",
        ),
    ],
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A task's name, or the path of a task TOML.")],
    protocol: Annotated[
        Literal["probe", "knn", "finetune", "fewshot", "concat", "depth", "logme"],
        typer.Option(
            "--protocol",
            help="probe: logistic regression on frozen features. knn. finetune. fewshot: a probe on a few images a class. "
            "concat: a probe on two snapshots' features together. depth: a probe after each stage. logme: evidence, untuned.",
        ),
    ] = "probe",
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="Suite of the snapshot and of the settings. [default: the one pretrained last]",
        ),
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", metavar="ARM", help="Arm of a snapshot that names none. [default: step]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="K", min=0, help="Transfer seed. [default: the suite's first, or 0]"),
    ] = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    again: Annotated[bool, typer.Option("--again", help="Compute it also when the result is there.")] = False,
    json_: JsonOption = False,
) -> None:
    """Transfer a snapshot to a task: select on validation, refit, and read the test labels once.

    The result is kept under leaderboard/results/; `lrbench leaderboard` puts it into the tables.
    """
    from lrbench.cells import Cell
    from lrbench.errors import FailureError, InputError, InterruptedWork, LrbenchError, reported
    from lrbench.references import parse_reference, references_in
    from lrbench.registry import load_task
    from lrbench.results import read_result
    from lrbench.workspace import Place, Workspace, data_roots

    workspace = Workspace.current()
    load_task(task)
    folder = Path(snapshot).expanduser()
    if folder.is_dir():
        references = references_in(folder, workspace)
    else:
        references = [parse_reference(snapshot, workspace, suite=suite, arm=arm)]
        _say_whose_it_is(references[0], snapshot, arm)
    settings, default_seed = _settings(references[0], workspace, suite)
    settings = settings.changed(protocol, set_ or ())
    cell = Cell(task=task, protocol=protocol, seed=default_seed if seed is None else seed)
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    paths: list[Path] = []
    failed: list[tuple[Reference, LrbenchError]] = []
    try:
        for reference in references:
            try:
                path = _result(reference, cell, settings, place, again=again)
            except InterruptedWork:
                if failed:
                    warn(_told_together(failed, folder, task))
                raise
            except Exception as error:
                # One bad file must not stand in the way of the others, nor a network of a strange kind.
                if not folder.is_dir():
                    raise
                failed.append((reference, reported(error)))
                continue
            paths.append(path)
            _show(path, task, json_)
            _warn_of_an_unlikely_result(path, task)
    finally:
        # What is done is told also where the work was stopped.
        if json_ and (paths or failed):
            records = [read_result(path).model_dump(by_alias=True, mode="json") for path in paths]
            emit_json(records if folder.is_dir() else records[0])
    if failed:
        first = failed[0][1]
        kind = InputError if first.exit_status == InputError.exit_status else FailureError
        raise kind(_told_together(failed, folder, task))


def _result(reference: "Reference", cell: "Cell", settings: "TransferSettings", place: "Place", *, again: bool) -> Path:
    """Where a cell's result lies, which is computed unless it is there."""
    from lrbench.cells import standing_of_file

    # Before anything is loaded.
    there = None if again else standing_of_file(place, reference, cell, settings)
    if there is not None:
        there.refuse_to_replace()
        if there.done:
            note(f"{there.path} is there already; nothing was computed (--again computes it once more)")
            return there.path
    return _compute(reference, cell, settings, place, again=again)


def _told_together(failed: "list[tuple[Reference, LrbenchError]]", folder: Path, task: str) -> str:
    """What several snapshots met, in one paragraph; what stands in the way of many is said once."""
    from lrbench.errors import sentence

    names: dict[str, list[str]] = {}
    for reference, error in failed:
        names.setdefault(sentence(str(error)), []).append(reference.text)
    reasons = " ".join(f"{', '.join(each)}: {reason}" for reason, each in names.items())
    return f"{len(failed)} of the snapshots in {folder} could not be transferred to {task}. {reasons}"


def _say_whose_it_is(reference: "Reference", named: str, arm: str | None) -> None:
    """Arms share their first stages: say so where the snapshot is another arm's than the one that was named."""
    if reference.suite is None or reference.key is None:
        return
    asked = next((part for part in named.split("/")[:-1] if part in reference.suite.arms), arm)
    if asked not in (None, reference.key.arm):
        note(f"{asked} has stage{reference.key.stage} in common with {reference.key.arm}: it is {reference.text}")


def _settings(reference: "Reference", workspace: "Workspace", suite: str | None) -> "tuple[TransferSettings, int]":
    from lrbench.cells import TransferSettings
    from lrbench.effective import suite_in_use

    if reference.suite is not None:
        return TransferSettings.of(reference.suite), reference.suite.transfer_seeds[0]
    if suite is not None:
        chosen = suite_in_use(workspace, suite)
        return TransferSettings.of(chosen), chosen.transfer_seeds[0]
    return TransferSettings(), 0


def _compute(
    reference: "Reference", cell: "Cell", settings: "TransferSettings", place: "Place", *, again: bool
) -> Path:
    from lrbench.cli.progress import showing_progress
    from lrbench.data.loading import find_task_data
    from lrbench.effective import keep_for_results
    from lrbench.registry import load_task
    from lrbench.transfer.cell import Transfer

    # Missing data is found before a network is loaded for nothing.
    find_task_data(load_task(cell.task), place.roots)
    with showing_progress(f"{cell.protocol} {cell.task}") as control:
        transfer = Transfer(reference, settings, place, control)
        if transfer.record.random:
            warn(
                f"{reference.text} names an architecture and no weights, so its weights are random. A tag names weights, "
                f"as in {reference.text}.a1_in1k."
            )
        if reference.suite is not None:
            keep_for_results(place.workspace, reference.suite)
        there = transfer.standing(cell)
        if there.done and not again:
            note(
                f"the result of {reference.text} is there already; nothing was computed (--again computes it once more)"
            )
            return there.path
        if cell.protocol == "finetune":
            _say_what_a_grid_takes(settings.finetune)
        return transfer.run(cell, replace=again)


def _say_what_a_grid_takes(chosen: "Finetune") -> None:
    """On a CPU, before it is begun: the default grid takes days there for an ordinary network."""
    from lrbench.models import pick_device

    points = len(chosen.rates) * len(chosen.decays)
    if pick_device().type != "cpu" or points * chosen.updates < _MANY_UPDATES:
        return
    note(
        f"{points} points of a grid, each of {chosen.updates:,} updates of {chosen.batch} images, are trained on a CPU; that "
        "takes long (the time left is shown as it goes on; Ctrl-C loses nothing). For a first look: --set finetune.updates=500 "
        "--set 'finetune.rates=[0.01]' --set 'finetune.decays=[1e-4]', or --set finetune.halving=true. Results with other "
        "settings stand apart in the tables."
    )


def _show(path: Path, task: str, as_json: bool) -> None:
    from lrbench.registry import load_task
    from lrbench.results import read_result

    result = read_result(path)
    if not as_json:
        show(describe(result))
        note(f"kept at {path}")
    if result.selection.get("edge"):
        warn(
            f"the best of the grid lies on its edge ({_words(result.chosen)}); a wider grid may do better. "
            "Change it with --set."
        )
    partner, drawn = result.settings.get("partner"), result.diagnostics.get("images")
    if partner is not None and partner.get("sha256") == result.snapshot.sha256:
        warn("concat.partner is this very snapshot, so that this says what the probe says of it alone.")
    if result.protocol == "fewshot" and drawn < result.chosen["shots"] * result.task.classes:
        warn(
            f"some classes have fewer than {result.chosen['shots']} training images and gave all of them: {drawn:,} images of "
            f"{result.task.classes:,} classes were drawn."
        )
    tried = result.selection.get("candidates", ())
    unsolved = sum(each.get("converged") is False for each in tried)
    if unsolved:
        warn(
            f"{unsolved} of the {len(tried)} fits among which was chosen did not converge within probe.iterations; "
            "`selection` in the result says which."
        )
    if result.diagnostics.get("converged") is False:
        warn("the final fit did not converge; see `diagnostics` in the result.")
    for each in load_task(task).about.notes:
        note(f"{result.task.name}: {each}")
    if result.partial:
        warn("the data was not whole: this result is marked partial and never ranked with full ones.")


def _warn_of_an_unlikely_result(path: Path, task: str) -> None:
    from lrbench.registry import load_task
    from lrbench.results import read_result

    result = read_result(path)
    band = load_task(task).about.sanity.get(result.protocol)  # type: ignore[call-overload]
    snapshot = result.snapshot
    # The bands are those of one network, whatever the tag of its weights; a suite's own snapshots are under test and have none.
    network = snapshot.architecture.rpartition("/")[2].partition(".")[0]
    if band is None or network != "resnet50" or snapshot.random or snapshot.arm or result.partial:
        return
    low, high = band
    if not low <= result.headline <= high:
        warn(
            f"{100 * result.headline:.1f} % is outside the {100 * low:.0f} to {100 * high:.0f} % where a ResNet-50 pretrained "
            f"on ImageNet is expected on {result.task.name} ({result.protocol}). If these are such weights, look at the data "
            f"(`lrbench data verify {task}`) and at the weights' input size and normalisation."
        )


def describe(result: "Result") -> str:
    """One line that says what came out."""
    names = {"top1": "top-1", "mean_per_class": "mean per-class accuracy"}
    other = "mean_per_class" if result.task.metric == "top1" else "top1"
    # What LogME ranks by comes first: its accuracy is that of a fixed linear model.
    score = f"LogME {result.chosen['logme']:.3f}, " if result.protocol == "logme" else ""
    return (
        f"{result.snapshot.reference} → {result.task.name} ({result.protocol}, seed {result.seed}): {score}"
        f"{names[result.task.metric]} {100 * result.headline:.2f} %, {names[other]} {100 * result.metrics[other]:.2f} %, "
        f"{result.test_count:,} test images" + (f"; {said}" if (said := _chosen(result)) else "")
    )


def _chosen(result: "Result") -> str:
    # Some protocols have nothing to choose from: theirs is what they were told, or what they found.
    rest = {name: value for name, value in result.chosen.items() if name != "logme"}
    if not rest:
        return ""
    return f"{'chosen' if result.selection.get('candidates') else 'with'} {_words(rest)}"


def _words(chosen: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in chosen.items()
    )
