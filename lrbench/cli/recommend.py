"""`lrbench recommend`: the best of several snapshots for a task."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import (
    DataRootOption,
    JsonOption,
    NoCacheOption,
    PartialOption,
    emit_json,
    note,
    show,
    some,
    warn,
)

if TYPE_CHECKING:
    from lrbench.store.references import Reference
    from lrbench.transfer.lead import Lead
    from lrbench.transfer.recommendation import Basis, Candidate, Recommendation


def recommend(
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A task's name, or the path of a task TOML.")],
    snapshots: Annotated[
        list[str] | None,
        typer.Option(
            "--snapshots",
            metavar="REF",
            help="A snapshot as in `lrbench transfer`, a folder of .safetensors files, or foreign for all foreign snapshots. "
            "Repeatable. [default: the snapshots of the suite's first seed]",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", metavar="SUITE", help="Suite of snapshots named without one. [default: the one pretrained last]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="K", min=0, max=2**63 - 1, help="Transfer seed. [default: the suite's first, or 0]"
        ),
    ] = None,
    probed: Annotated[
        int, typer.Option("--probe", metavar="N", min=1, help="Number of snapshots to probe, best LogME first.")
    ] = 5,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            metavar="POINTS",
            help="Differences below this count as none. [default: the suite's margin, or 2]",
        ),
    ] = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Recompute existing results, and replace those with different settings.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Find the best snapshot for a task: LogME for all, then the probe for the best of them.

    Snapshots are ranked on validation images, or by cross-validation if there are fewer than 200. Test images do not affect the
    ranking: they show whether the first is better than the second, equivalent within the margin, or how many images or
    seeds would decide. Results are stored and reused as in `lrbench transfer`.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.config.suite import MARGIN
    from lrbench.config.task import METRIC_NAMES
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.data.loading import find_task_data
    from lrbench.store.cells import Overwrite
    from lrbench.store.references import SuiteSnapshot, other_weights_in, snapshot_folder
    from lrbench.store.suites import write_suite_with_results
    from lrbench.transfer.recommend import expand, on_equal_terms
    from lrbench.transfer.recommend import recommend as compare

    if margin is not None and not 0 < margin <= 100:
        raise InputError(f"--margin must be greater than 0 and at most 100 points, not {margin:g}.")
    workspace = Workspace.for_writing()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    find_task_data(load_task(task), place.roots)
    named = expand(snapshots or _suite_snapshots(workspace, suite), workspace, suite)
    references, settings, default_seed = on_equal_terms(named)
    default_margin = MARGIN
    if references and isinstance(references[0], SuiteSnapshot):
        default_margin = references[0].suite.margin
        write_suite_with_results(workspace, references[0].suite)
    folders = [folder for text in snapshots or () if (folder := snapshot_folder(text, workspace)) is not None]
    others = [path for folder in folders for path in other_weights_in(folder)]
    if others:
        note(f"skipped: {some(others)}; import such weights with `lrbench snapshots add FILE... --architecture NAME`")
    with showing_progress(f"recommend {task}") as control:
        outcome = compare(
            references,
            task,
            settings,
            place,
            control,
            probed=probed,
            margin=default_margin if margin is None else margin,
            seed=default_seed if seed is None else seed,
            overwrite=Overwrite.ALWAYS if again else Overwrite.NEVER,
        )
    if json_:
        against = None if outcome.second is None else outcome.second.reference.text
        lead = outcome.lead
        emit_json(
            {
                "task": task,
                "ranked_by": asdict(outcome.basis),
                "tied": [candidate.reference.text for candidate in outcome.tied],
                "lead": None if lead is None else {"against": against, "verdict": lead.verdict, **asdict(lead)},
                "ranked": [_record(candidate) for candidate in outcome.ranked],
            }
        )
    else:
        _show(outcome, METRIC_NAMES[load_task(task).metric])
    for problem in dict.fromkeys(candidate.problem for candidate in outcome.ranked if candidate.problem):
        names = [candidate.reference.text for candidate in outcome.ranked if candidate.problem == problem]
        warn(f"{some(names)} {'was' if len(names) == 1 else 'were'} left out: {problem}")
    if any(candidate.probe is not None and candidate.probe.result.partial for candidate in outcome.ranked):
        warn("the data is incomplete: these results are marked partial, and the ranking uses the existing images.")
    if outcome.best is None:
        raise FailureError(f"None of the snapshots could be probed on {task}; see the warnings above.")


def _suite_snapshots(workspace: Any, name: str | None) -> list[str]:
    from lrbench.config.schedule import snapshot_keys
    from lrbench.core.errors import InputError
    from lrbench.store.snapshots import snapshot_path
    from lrbench.store.suites import suite_in_use

    suite = suite_in_use(workspace, name)
    keys = snapshot_keys(suite, seed=suite.seeds[0])
    names = [f"{suite.name}/{key}" for key in keys if snapshot_path(workspace.checkpoints, suite.name, key).is_file()]
    if not names:
        raise InputError(
            f"There are no snapshots of suite {suite.name}, seed {suite.seeds[0]}. Run `lrbench pretrain {suite.name}`, or use "
            "--snapshots."
        )
    return names


def _show(outcome: "Recommendation", metric: str) -> None:
    from tabulate import tabulate

    rows = [_row(candidate, outcome.basis, metric) for candidate in outcome.ranked]
    show(tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True))
    if outcome.best is not None:
        show(f"\n{basis_text(outcome.basis, metric)}\n\n{recommendation_text(outcome, metric)}")


def _row(candidate: "Candidate", basis: "Basis", metric: str) -> dict[str, str]:
    probe, interval = candidate.probe, candidate.test_interval
    kind = "validation" if basis.folds is None else "cross-validated"
    row = {
        "snapshot": candidate.reference.text,
        "LogME": "" if candidate.logme is None else f"{candidate.logme:.3f}",
        f"{kind} {metric} %": "" if candidate.score is None else f"{100 * candidate.score:.1f}",
    }
    if metric != "top-1":
        row[f"test {metric} %"] = "" if probe is None else f"{100 * probe.result.headline:.1f}"
    row["test top-1 % (95 %)"] = (
        ""
        if probe is None or interval is None
        else f"{100 * probe.result.metrics['top1']:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    )
    return {**row, "time": f"{candidate.seconds:.1f} s"}


def basis_text(basis: "Basis", metric: str) -> str:
    """Return a sentence on the score that ranks the snapshots, and on ties."""
    from lrbench.transfer.recommendation import LEAST_VALIDATION

    if basis.folds is None:
        ranked = f"Ranked by the probe's {metric} on {basis.images:,} validation images"
    else:
        few = f"{basis.validation:,} image{'s' if basis.validation != 1 else ''}"
        ranked = (
            f"Ranked by the probe's {metric} in {basis.folds}-fold cross-validation on {basis.images:,} training images, since "
            f"the validation split has only {few} (fewer than {LEAST_VALIDATION})"
        )
    return f"{ranked}. Equal scores are ordered by LogME. Test images do not affect the ranking."


def recommendation_text(outcome: "Recommendation", metric: str) -> str:
    """Return the recommendation, or that there is no clear winner, with the evidence."""
    best, lead, second, tied = outcome.ranked[0], outcome.lead, outcome.second, outcome.tied
    twins = [
        other.reference.text
        for other in outcome.ranked[1:]
        if other.probe is not None and other.weights_id == best.weights_id
    ]
    same = f" ({', '.join(twins)} {'is' if len(twins) == 1 else 'are'} the same weights)" if twins else ""
    name = best.reference.text
    if lead is None or second is None:
        return f"{name}{same} is the only snapshot that was probed, so there is no comparison."
    measure = f"{'validation' if outcome.basis.folds is None else 'cross-validated'} {metric}"
    certain, ahead = lead.verdict == "better", lead.difference > 0
    if len(tied) > 1:
        names = [candidate.reference.text for candidate in tied]
        ranking = (
            f"{', '.join(names[:-1])} and {names[-1]} tie at a {measure} of {100 * (best.score or 0):.1f} %; {name}{same} is "
            "first because its LogME is the largest."
        )
    else:
        scores = f"{100 * (best.score or 0):.1f} % against {100 * (second.score or 0):.1f} % of {second.reference.text}"
        ranking = f"{name}{same} has the best {measure}, {scores}."
    answer = f"Transfer {name}." if certain and ahead and len(tied) == 1 else "No clear winner."
    advice = " Compare again with another --seed or with more images." if certain and not ahead else ""
    return f"{answer} {ranking}\n\n{lead_text(lead, best.reference, second.reference, metric)}{advice}"


def lead_text(lead: "Lead", first: "Reference", second: "Reference", metric: str) -> str:
    """Return which of two snapshots is better on the test images and by how much, and what the interval covers."""
    names = [_row_name(reference) if lead.seeds else reference.text for reference in (first, second)]
    margin = f"{lead.margin:g} point{'s' if lead.margin != 1 else ''}"
    half, signed = f"{100 * lead.half_width:.1f} points of {metric}", f"{100 * lead.difference:+.1f}"
    if lead.verdict == "better":
        better, worse = names if lead.difference > 0 else names[::-1]
        verdict = f"{better} is better than {worse} by {100 * abs(lead.difference):.1f} ± {half}"
        verdict += f", no difference beyond {margin}." if lead.equivalent else "."
    elif lead.verdict == "equivalent":
        verdict = f"No difference beyond {margin}: {names[0]} differs from {names[1]} by {signed} ± {half}."
    else:
        sizes = [
            f"{count:,} {unit}"
            for count, unit in ((lead.seeds_needed, "seeds"), (lead.images_needed, "test images"))
            if count is not None
        ]
        needed = (
            f"{' or '.join(sizes)} would decide" if sizes else "no number of seeds or test images alone would decide"
        )
        verdict = f"Undecided: {names[0]} differs from {names[1]} by {signed} ± {half}; {needed}."
    if lead.seeds:
        return (
            f"{verdict} The 95 % interval covers {len(lead.seeds)} pretraining seeds and {lead.images:,} test images."
        )
    return f"{verdict} The 95 % interval covers the {lead.images:,} test images only, not pretraining again."


def _row_name(reference: "Reference") -> str:
    from lrbench.store.references import SuiteSnapshot

    assert isinstance(reference, SuiteSnapshot)
    return f"{reference.suite.name}/{reference.key.arm}/stage{reference.key.stage}"


def _record(candidate: "Candidate") -> dict[str, Any]:
    return {
        "snapshot": candidate.reference.text,
        "logme": candidate.logme,
        "validation": candidate.validation,
        "score": candidate.score,
        "metrics": None if candidate.probe is None else candidate.probe.result.metrics,
        "test_top1_interval": candidate.test_interval,
        "seconds": round(candidate.seconds, 3),
        "problem": candidate.problem,
    }
