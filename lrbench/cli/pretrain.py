"""`lrbench pretrain`: pretraining of a suite, without transfers."""

from lrbench.cli.common import (
    ArmOption,
    DataRootOption,
    JsonOption,
    NoCacheOption,
    PartialOption,
    SeedOption,
    SetOption,
    SuiteArgument,
    emit_json,
    note,
)
from lrbench.cli.work import TrackOption, WorkersOption


def pretrain(
    suite: SuiteArgument = "quick",
    arm: ArmOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    no_cache: NoCacheOption = False,
    workers: WorkersOption = None,
    track: TrackOption = None,
    json_: JsonOption = False,
) -> None:
    """Pretrain a suite: a snapshot at every decay boundary, for every arm and seed.

    Existing snapshots are kept, and an interrupted stage resumes where it was saved. On several GPUs or machines, use
    `torchrun --nproc-per-node N -m lrbench pretrain SUITE`; N may change between runs.
    """
    from lrbench.cli.work import do_jobs, prepared_first, together
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.jobs.plan import make_plan, save_suite
    from lrbench.pretraining.tracking import check_trackers
    from lrbench.store.snapshots import snapshot_path
    from lrbench.store.suites import suite_to_run

    workspace = Workspace.for_writing()
    chosen = suite_to_run(workspace, suite, set_ or (), note)
    trackers = tuple(track or ())
    check_trackers(trackers)
    place = Place(
        workspace=workspace, roots=data_roots(data_root), partial=partial, cached=not no_cache, trackers=trackers
    )
    with together() as ranks:
        ranks.run_on_main(lambda: save_suite(workspace, chosen))
        plan = ranks.run_on_main(lambda: make_plan(chosen, place, arm=arm, seed=seed))
        if ranks.is_main:
            missing = sum(not snapshot.exists for snapshot in plan.snapshots)
            note(f"suite {chosen.name}: {missing} of {len(plan.snapshots)} snapshots to compute")
        jobs = prepared_first(plan.jobs(transfer=False), plan, place, ranks)
        do_jobs(jobs, plan, place, workers=workers, ranks=ranks)
        if not ranks.is_main:
            return
    paths = [snapshot_path(workspace.checkpoints, chosen.name, snapshot.key) for snapshot in plan.snapshots]
    if json_:
        emit_json({"suite": chosen.name, "snapshots": [str(path) for path in paths]})
    else:
        note(f"{len(paths)} snapshots are in {workspace.checkpoints / chosen.name}")
