"""`lrbench study`: the suites of a study, its claims and its page."""

from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import (
    DataRootOption,
    JsonOption,
    NoCacheOption,
    SetOption,
    emit_json,
    note,
    show,
    table,
    warn,
)
from lrbench.cli.work import WorkersOption

if TYPE_CHECKING:
    from lrbench.config import Suite
    from lrbench.core.workspace import Place, Workspace
    from lrbench.studies.definition import Study


def study(
    name: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A study's name, or the path of a study TOML. [default: list all]"),
    ] = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    no_cache: NoCacheOption = False,
    workers: WorkersOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what is done and what is missing; start nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the page does not match the results.")
    ] = False,
    register: Annotated[
        bool, typer.Option("--register", help="Only register the suites. A run registers suites without results, too.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Run the suites of a study, decide its claims and write its page; without a name, list the studies.

    A second run computes only what is missing. Suites are registered with the study's claims before their first result.
    """
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.studies.definition import load_studies, load_study

    if name is None:
        if plan or check or register or set_:
            raise InputError("--plan, --check, --register and --set need a study. `lrbench study` lists all studies.")
        _list(load_studies(), json_)
        return
    if plan + check + register > 1:
        raise InputError("--plan, --check and --register exclude each other. Use one of them.")
    chosen = load_study(name, set_ or ())
    workspace = Workspace.current() if plan or check else Workspace.for_writing()
    place = Place(workspace=workspace, roots=data_roots(data_root), cached=not no_cache)
    if check:
        _check(workspace, chosen)
    elif register:
        for suite in chosen.suites:
            show(_register(workspace, chosen, suite))
    elif plan:
        _plan(place, chosen, json_)
    else:
        _run(place, chosen, workers, json_)


def _list(studies: "list[Study]", json_: bool) -> None:
    rows = [
        {
            "study": study.name,
            "claims": ", ".join(study.claims),
            "suites": str(len(study.suites)),
            "units": str(len(study.units)),
            "title": study.title,
        }
        for study in studies
    ]
    if json_:
        emit_json(rows)
        return
    show(table(rows, wrapped="title"))
    show("\n`lrbench study STUDY --plan` shows its cost; `lrbench study STUDY` runs it.")


def _register(workspace: "Workspace", study: "Study", suite: "Suite") -> str:
    """Register a suite with the claims of its study; return the file."""
    from lrbench.leaderboard.registration import register
    from lrbench.studies.terms import study_terms

    registration, is_new = register(workspace, suite, study_terms(study))
    if is_new:
        note(f"registered {suite.name}, sha256 {registration.sha256[:12]}")
    return str(workspace.leaderboard / registration.file)


def _plan(place: "Place", study: "Study", json_: bool) -> None:
    from lrbench.jobs.cost import estimate_cost
    from lrbench.jobs.plan import make_plan

    plans = [make_plan(suite, place) for suite in study.suites]
    costs = [estimate_cost(planned, place) for planned in plans]
    if json_:
        emit_json(
            {
                "study": study.name,
                "suites": [
                    {
                        "suite": planned.suite.name,
                        "snapshots": len(planned.snapshots),
                        "existing": sum(snapshot.exists for snapshot in planned.snapshots),
                        "missing_epochs": planned.missing_epochs,
                        "estimated_seconds": cost.seconds,
                    }
                    for planned, cost in zip(plans, costs, strict=True)
                ],
            }
        )
        return
    for planned, cost in zip(plans, costs, strict=True):
        show(f"{planned.summary()}\n{indent(cost.words(), '  ')}")


def _check(workspace: "Workspace", study: "Study") -> None:
    from lrbench.core.errors import FailureError, InputError
    from lrbench.leaderboard.page import stale
    from lrbench.studies.page import build_studies

    built = build_studies(workspace, [study], draw=False, indexed=False)
    if not built.files:
        raise InputError(f"There are no results of study {study.name!r}. Run `lrbench study {study.name}`.")
    if paths := stale(built):
        raise FailureError(
            f"{', '.join(map(str, paths))}: missing or out of date. Run `lrbench leaderboard` to update the pages."
        )
    note(f"the page of study {study.name} matches the results")


def _run(place: "Place", study: "Study", workers: int | None, json_: bool) -> None:
    """Run every suite, then write the pages; a failure is raised after the pages are written."""
    from lrbench.core.errors import FailureError, LrbenchError
    from lrbench.leaderboard import page
    from lrbench.leaderboard.source_page import study_path
    from lrbench.store.results import suites_with_results
    from lrbench.studies.evidence import gather_study
    from lrbench.studies.page import write_studies

    workspace = place.workspace
    failure: LrbenchError | None = None
    for suite in study.suites:
        try:
            _run_suite(place, study, suite, workers)
        except LrbenchError as error:
            failure = error
            break
    known = suites_with_results(workspace.results)
    names = [suite.name for suite in study.suites if suite.name in known]
    if names:
        page.write(workspace, names)
    built = write_studies(workspace, [study])
    if failure is not None:
        raise failure
    if missing := gather_study(workspace.results, study, workspace.cache).missing():
        raise FailureError(
            f"study {study.name} is incomplete; finished results are saved. Missing predictions: {'; '.join(missing)}. Run the "
            "same command again."
        )
    path = workspace.leaderboard / study_path(study.name)
    if json_:
        emit_json(
            {"study": study.name, "answer": built.short[study.name], "written": [str(path) for path in built.files]}
        )
    else:
        note(f"\n{built.short[study.name]}\n")
        show(str(path))


def _run_suite(place: "Place", study: "Study", suite: "Suite", workers: int | None) -> None:
    from lrbench.cli.register import warn_if_changed
    from lrbench.cli.work import do_jobs, prepared_first
    from lrbench.config import load_task
    from lrbench.core.distributed import SINGLE_PROCESS
    from lrbench.data.loading import check_task_data
    from lrbench.jobs.plan import make_plan, save_suite
    from lrbench.leaderboard.registration import read_registration
    from lrbench.store.results import suites_with_results
    from lrbench.store.suites import write_suite_with_results

    workspace = place.workspace
    is_first = suite.name not in suites_with_results(workspace.results)
    if is_first and read_registration(workspace.leaderboard, suite.name) is None:
        _register(workspace, study, suite)
    warn_if_changed(workspace, suite)
    save_suite(workspace, suite)
    write_suite_with_results(workspace, suite)
    planned = make_plan(suite, place)
    note(planned.summary())
    if (warning := planned.replacement_warning()) is not None:
        warn(warning)
    if (orphans := planned.orphan_note()) is not None:
        note(orphans)
    check_task_data([load_task(name) for name in planned.required_tasks], place.roots, partial=place.partial)
    jobs = prepared_first(planned.jobs(), planned, place, SINGLE_PROCESS)
    do_jobs(jobs, planned, place, workers=workers, ranks=SINGLE_PROCESS)
