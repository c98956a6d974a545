"""`lrbench run`: pretraining, transfers and leaderboard of a suite."""

from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import (
    DataRootOption,
    JsonOption,
    NoCacheOption,
    PartialOption,
    SetOption,
    SuiteArgument,
    emit_json,
    note,
    show,
    warn,
)
from lrbench.cli.engines import (
    AddressOption,
    CpusOption,
    DryRunOption,
    EngineOption,
    GpusOption,
    JobOption,
    PartitionOption,
    SbatchOption,
    TimeOption,
    engine_options,
    submit,
)
from lrbench.cli.work import TrackOption, WorkersOption

if TYPE_CHECKING:
    from lrbench.core.workspace import Place
    from lrbench.jobs.job import Job
    from lrbench.jobs.plan import Plan


def run(
    suite: SuiteArgument = "quick",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="K",
            help="Only this pretraining seed. Runs of different seeds may run at the same time.",
        ),
    ] = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    workers: WorkersOption = None,
    track: TrackOption = None,
    json_: JsonOption = False,
    engine: EngineOption = "local",
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    address: AddressOption = None,
    partition: PartitionOption = None,
    time: TimeOption = None,
    sbatch: SbatchOption = None,
    dry_run: DryRunOption = False,
    job: JobOption = None,
) -> None:
    """Pretrain a suite, transfer every snapshot and write the leaderboard.

    A second run computes only what is missing. Ctrl-C saves and stops at the next step. All GPUs of this machine are used, or
    those of a cluster with `--engine ray` or `slurm`. `--gpus-per-job N` trains each network on N GPUs.
    """
    from lrbench.cli.register import warn_if_changed
    from lrbench.cli.work import do_jobs, prepared_first, together
    from lrbench.core.errors import LrbenchError
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.jobs.plan import make_plan, save_suite
    from lrbench.jobs.ray import RayOptions
    from lrbench.jobs.slurm import check_this_node
    from lrbench.jobs.slurm_scripts import SlurmOptions
    from lrbench.leaderboard import page
    from lrbench.pretraining.tracking import check_trackers
    from lrbench.store.results import suites_with_results
    from lrbench.store.suites import suite_to_run, write_suite_with_results

    options = engine_options(
        engine,
        gpus=gpus,
        cpus=cpus,
        address=address,
        partition=partition,
        time=time,
        sbatch=sbatch or (),
        dry_run=dry_run,
        workers=workers,
    )
    workspace = Workspace.for_writing()
    check_this_node(workspace.root)
    chosen = suite_to_run(workspace, suite, set_ or (), note)
    trackers = tuple(track or ())
    check_trackers(trackers)
    place = Place(
        workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache, trackers=trackers
    )
    failure: LrbenchError | None = None
    with together() as ranks:
        ranks.run_on_main(lambda: warn_if_changed(workspace, chosen))
        ranks.run_on_main(lambda: save_suite(workspace, chosen))
        ranks.run_on_main(lambda: write_suite_with_results(workspace, chosen))
        plan = ranks.run_on_main(lambda: make_plan(chosen, place, seed=seed))
        if ranks.is_main:
            note(plan.summary())
            if (warning := plan.replacement_warning()) is not None:
                warn(warning)
            if (orphans := plan.orphan_note()) is not None:
                note(orphans)
        plan = ranks.run_on_main(lambda: _with_available_source(plan, place))
        jobs = plan.jobs() if job is None else _named(plan, job)
        # A missing target is reported before days of training.
        tasks = plan.required_tasks if job is None else tuple(dict.fromkeys(one.task_of(chosen) for one in jobs))
        ranks.run_on_main(lambda: _check_data(plan, tasks, place))
        if isinstance(options, SlurmOptions):
            arguments = [part for value in set_ or () for part in ("--set", value)]
            arguments += [part for value in trackers for part in ("--track", value)]
            arguments += [*["--partial"] * partial, *["--no-cache"] * no_cache]
            arguments += ["--workers", str(workers)] if workers is not None else []
            submit(plan, suite, arguments, place, options, dry_run=dry_run)
            return
        if job is None:
            jobs = prepared_first(jobs, plan, place, ranks)
        ray, local = (options, 1) if isinstance(options, RayOptions) else (None, options)
        try:
            do_jobs(jobs, plan, place, workers=workers, ranks=ranks, ray=ray, gpus=local)
        except LrbenchError as error:
            failure = error
        if not ranks.is_main:
            if failure is not None:
                raise failure
            return
    if job is not None:
        # Other jobs may run at the same time; the last one writes the pages.
        if failure is not None:
            raise failure
        return
    # The leaderboard is written also after a failure; incomplete rows are marked.
    has_results = chosen.name in suites_with_results(workspace.results)
    written = page.write(workspace, [chosen.name]) if has_results else page.Built()
    if failure is not None:
        raise failure
    if json_:
        emit_json({"suite": chosen.name, "written": [str(path) for path in written.files]})
    elif has_results:
        note(f"\n{written.short[chosen.name]}\n\nLeaderboard of {chosen.name}, as Markdown and for a browser:")
        for path in (workspace.leaderboard / f"{chosen.name}.md", workspace.leaderboard / "index.html"):
            show(str(path))


def _with_available_source(plan: "Plan", place: "Place") -> "Plan":
    """Return the plan without predictions of the source if only they need the source, and its data is not here."""
    from lrbench.config import load_task
    from lrbench.core.errors import InputError
    from lrbench.data.loading import check_task_data

    sources = [name for name in plan.suite.sources if name in plan.required_tasks]
    if plan.trains or not sources:
        return plan
    try:
        check_task_data([load_task(name) for name in sources], place.roots, partial=place.partial)
    except InputError as error:
        warn(f"predictions of the source {plan.suite.source} are left out: {error}")
        return plan.without_source_cells()
    return plan


def _named(plan: "Plan", names: list[str]) -> "list[Job]":
    """Return the jobs of these names; those that are done are in no plan.

    Raises:
        InputError: A job needs one that is not done.
    """
    from lrbench.core.errors import InputError
    from lrbench.jobs.preparation import PrepareJob, with_preparation

    jobs = plan.jobs()
    preparations = [job for job in with_preparation(jobs, plan.suite) if isinstance(job, PrepareJob)]
    chosen = [job for job in [*preparations, *jobs] if job.name in names]
    for job in chosen:
        missing = set(job.needs).difference(names)
        if missing:
            raise InputError(f"`{job.name}` needs `{min(missing)}`, which is not done. Run that job first.")
    return chosen


def _check_data(plan: "Plan", tasks: tuple[str, ...], place: "Place") -> None:
    from lrbench.config import load_task
    from lrbench.core.errors import InputError
    from lrbench.data.loading import check_task_data

    try:
        check_task_data([load_task(name) for name in tasks], place.roots, partial=place.partial)
    except InputError as error:
        suite = plan.suite
        without = f" `lrbench pretrain {suite.name}` needs only the source; --set 'targets=[…]' selects other targets."
        raise InputError(f"{error} Nothing was started.{without if plan.missing_epochs else ''}") from error
