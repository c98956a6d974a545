"""`lrbench pretrain`: the pretraining of a suite alone."""

from typing import Annotated

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
)
from lrbench.cli.work import WorkersOption


def pretrain(
    suite: SuiteArgument = "quick",
    arm: Annotated[str | None, typer.Option("--arm", metavar="ARM", help="Only what this arm needs.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="K", help="Only this of the suite's pretraining seeds.")
    ] = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    workers: WorkersOption = None,
    json_: JsonOption = False,
) -> None:
    """Pretrain a suite: a snapshot at every decay boundary, for every arm and seed.

    It resumes by itself: stages that are there are kept, and a stage that was interrupted goes on where it was saved.
    """
    from lrbench.cli.work import do_jobs
    from lrbench.effective import keep_suite
    from lrbench.plan import make_plan
    from lrbench.registry import load_suite
    from lrbench.snapshots import snapshot_path
    from lrbench.workspace import Place, Workspace, data_roots

    workspace = Workspace.current()
    chosen = load_suite(suite, set_ or ())
    keep_suite(workspace, chosen)
    plan = make_plan(chosen, workspace, arm=arm, seed=seed, partial=partial)
    jobs = plan.jobs(transfer=False)
    note(f"suite {chosen.name}: {len(jobs)} of {len(plan.snapshots)} snapshots to make")
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache)
    do_jobs(jobs, chosen, place, workers=workers)
    paths = [snapshot_path(workspace.checkpoints, chosen.name, each.key) for each in plan.snapshots]
    if json_:
        emit_json({"suite": chosen.name, "snapshots": [str(path) for path in paths]})
    else:
        note(f"{len(paths)} snapshots are in {workspace.checkpoints / chosen.name}")
