"""`lrbench recommend`: the best of several snapshots for a task."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    some,
    table,
    warn,
)
from lrbench.cli.many import SEVERAL_HELP, Sort, SortOption, cost_order, note_grid_cost, raise_failures

if TYPE_CHECKING:
    from lrbench.transfer.recommendation import Candidate, Recommendation


def recommend(
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A task's name, or the path of a task TOML.")],
    snapshots: Annotated[
        list[str] | None,
        typer.Option(
            "--snapshots",
            metavar="REF",
            help="A snapshot as in `lrbench transfer`, or `foreign` for all imported snapshots. "
            f"{SEVERAL_HELP} Repeatable. [default: the snapshots of the suite's first seed]",
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
    by: Annotated[
        Literal["probe", "logme", "knn", "finetune"],
        typer.Option(
            "--by",
            help="Protocol that ranks. logme ranks all snapshots without training; the others rank the best by LogME.",
        ),
    ] = "probe",
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=1, help="Number of snapshots that --by compares, best LogME first.")
    ] = 5,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            metavar="POINTS",
            help="Differences below this count as none. [default: the suite's margin, or 2]",
        ),
    ] = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Recompute existing results, and replace those with different settings.")
    ] = False,
    sort: SortOption = "score",
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="DIR",
            help="Also write a report into this folder: report.md, report.html (one file, with figures) and figures/.",
        ),
    ] = None,
    figures: Annotated[
        Literal["pdf"] | None, typer.Option("--figures", help="pdf: also write the report's figures as PDF.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Find the best snapshot for a task: rank all by LogME, then compare the best of them with the probe or --by.

    Snapshots are ranked on validation images, or by cross-validation if there are fewer than 200. Test images do not affect the
    ranking: they show whether the first is better than the second, equivalent within the margin, or how many images or
    seeds would decide. A snapshot that fails does not stop the others, and failures are listed at the end. Results are stored
    and reused as in `lrbench transfer`.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.config.suite import MARGIN
    from lrbench.config.task import METRIC_NAMES
    from lrbench.core.errors import InputError
    from lrbench.core.files import user_path
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.data.loading import find_task_data
    from lrbench.store.cells import Overwrite
    from lrbench.store.reference_lists import other_weights_in, resolve_references, snapshot_folder
    from lrbench.store.references import SuiteSnapshot
    from lrbench.store.suites import write_suite_with_results
    from lrbench.transfer.recommend import on_equal_terms
    from lrbench.transfer.recommend import recommend as compare
    from lrbench.transfer.rules import apply_rules

    if figures and report is None:
        raise InputError("--figures applies to a report, and none is written. Add --report DIR.")
    workspace = Workspace.for_writing()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    find_task_data(load_task(task), place.roots)
    named = resolve_references(snapshots or _suite_snapshots(workspace, suite), workspace, suite=suite)
    references, settings, default_seed = on_equal_terms(list(named.values()))
    settings = settings.with_changes(list(dict.fromkeys(("logme", by))), set_ or ())
    if by == "finetune":
        note_grid_cost(settings.finetune)
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
            by=by,
            top=top,
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
                "rules": [asdict(rule) for rule in apply_rules(outcome)],
            }
        )
    else:
        _show(outcome, METRIC_NAMES[load_task(task).metric], sort)
    if any(candidate.result is not None and candidate.result.result.partial for candidate in outcome.ranked):
        warn("the data is incomplete: these results are marked partial, and the ranking uses the existing images.")
    if report is not None:
        from lrbench.leaderboard.recommendation_report import write_report

        written = write_report(user_path(report), outcome, load_task(task), pdf=figures == "pdf")
        note(f"wrote {written[0]}, {written[1].name} and {len(written) - 2} files of figures")
    failed = [
        (candidate.reference.text, candidate.failure) for candidate in outcome.ranked if candidate.failure is not None
    ]
    raise_failures(failed, len(outcome.ranked), "snapshots")


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


def _show(outcome: "Recommendation", metric: str, sort: Sort) -> None:
    from lrbench.transfer.recommendation_text import basis_text, cost_text, recommendation_rows, recommendation_text
    from lrbench.transfer.rules import apply_rules, rule_rows, rules_text

    ranked = list(zip(recommendation_rows(outcome, metric), outcome.ranked, strict=True))
    if sort != "score":
        ranked.sort(key=lambda pair: cost_order(pair[1].cost, pair[1].speed, sort))
    show(table([row for row, _ in ranked], wrapped="snapshot", spare=["time", "multiply-adds", "images/s"]))
    if outcome.best is not None:
        timed = [candidate.is_measured for candidate in outcome.ranked if candidate.speed is not None]
        costs = cost_text(stored=timed.count(False), measured=timed.count(True))
        show(f"\n{basis_text(outcome.basis, metric)} {costs}\n\n{recommendation_text(outcome, metric)}")
        if rules := apply_rules(outcome):
            show(f"\n{table(rule_rows(rules), wrapped='its choice')}\n\n{rules_text(len(outcome.compared))}")


def _record(candidate: "Candidate") -> dict[str, Any]:
    return {
        "snapshot": candidate.reference.text,
        "logme": candidate.logme,
        "validation": candidate.validation,
        "score": candidate.score,
        "metrics": None if candidate.result is None else candidate.result.result.metrics,
        "test_top1_interval": candidate.test_interval,
        "seconds": round(candidate.seconds, 3),
        "parameters": None if candidate.cost is None else candidate.cost.parameters,
        "multiply_adds": None if candidate.cost is None else candidate.cost.multiply_adds,
        "images_per_second": candidate.speed,
        "problem": candidate.problem,
    }
