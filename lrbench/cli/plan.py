"""`lrbench plan`: a suite's snapshots and cells, what is done, and the cost of the rest."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import (
    ArmOption,
    DataRootOption,
    JsonOption,
    PartialOption,
    SeedOption,
    SetOption,
    SuiteArgument,
    emit_json,
    note,
    show,
    table,
    warn,
)

if TYPE_CHECKING:
    from lrbench.jobs.cost import Cost
    from lrbench.jobs.plan import Plan
    from lrbench.jobs.simulation import Simulation


def plan(
    suite: SuiteArgument = "quick",
    arm: ArmOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", metavar="N", min=1, max=4096, help="Also simulate the missing jobs on 1 to N GPUs."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show a suite's snapshots and cells, what is done, and the estimated cost of the rest; start nothing."""
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.jobs.cost import estimate_cost
    from lrbench.jobs.plan import make_plan
    from lrbench.jobs.simulation import simulate_plan
    from lrbench.store.suites import suite_to_run

    workspace = Workspace.current()
    chosen = suite_to_run(workspace, suite, set_ or (), note)
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial)
    planned = make_plan(chosen, place, arm=arm, seed=seed)
    missing_data = planned.missing_data(place)
    cost = estimate_cost(planned, place)
    states, failures = _slurm_states(planned)
    simulation = simulate_plan(planned, place, _powers(gpus)) if gpus is not None else None
    if json_:
        record = _record(planned, missing_data, cost, states)
        if simulation is not None:
            record["seconds_by_gpus"] = {str(count): seconds for count, seconds in simulation.seconds.items()}
            record["critical_path_seconds"] = simulation.critical_path
        emit_json(record)
        return
    total = Counter(cell.snapshot for cell in planned.cells)
    done = Counter(cell.snapshot for cell in planned.cells if cell.done)
    rows = []
    for snapshot in planned.snapshots:
        rows.append(
            {
                "snapshot": str(snapshot.key),
                "starts from": str(snapshot.parent) if snapshot.parent else "",
                "epochs": snapshot.epochs or "",
                "exists": "yes" if snapshot.exists else "no",
                "cells done": f"{done[snapshot.key]} of {total[snapshot.key]}",
            }
        )
        if states:
            of_snapshot = {verb: states.get(f"{verb} {snapshot.key}") for verb in ("pretrain", "transfer")}
            rows[-1]["in Slurm"] = ", ".join(f"{verb} {state.lower()}" for verb, state in of_snapshot.items() if state)
    show(table(rows, wrapped="snapshot"))
    show(f"\n{planned.summary()}")
    if (pace := planned.pace_note()) is not None:
        show(pace)
    if states:
        counts = Counter(states.values())
        show(f"in Slurm: {', '.join(f'{count:,} {state.lower()}' for state, count in sorted(counts.items()))}")
    if failures:
        show(f"failed in Slurm: {'; '.join(failures)}")
    if (warning := planned.replacement_warning()) is not None:
        show(warning)
    if (orphans := planned.orphan_note()) is not None:
        show(orphans)
    for problem in missing_data.values():
        show(f"a run cannot start: {problem}")
    if cost.source_images is not None:
        show(
            f"pretraining cannot start: {chosen.source} has {cost.source_images:,} training images, fewer than "
            f"one batch of {chosen.schedule.batch}"
        )
    show(cost.words())
    if gpus is not None:
        show(f"\n{_simulation_words(simulation)}")


def _powers(most: int) -> list[int]:
    """Return the powers of two below a number, and the number."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


def _simulation_words(simulation: "Simulation | None") -> str:
    from lrbench.core.control import rounded_duration

    if simulation is None:
        return "The time on several GPUs is unknown, because the size of the source is."
    alone = simulation.seconds[1]
    rows = [
        {"GPUs": str(count), "time": rounded_duration(seconds), "speed-up": f"{alone / seconds:.1f}" if seconds else ""}
        for count, seconds in simulation.seconds.items()
    ]
    of = "earlier timings of this suite" if simulation.is_measured else "operation counts, for an A100-class GPU"
    unknown = (
        f" Transfers to {', '.join(simulation.unknown)}, of unknown size, count as no time."
        if simulation.unknown
        else ""
    )
    return (
        f"{table(rows, wrapped='time')}\nSimulated with one job at a time on each GPU; times of jobs are from {of}. The "
        f"longest chain of jobs takes {rounded_duration(simulation.critical_path)}.{unknown}"
    )


def _slurm_states(planned: "Plan") -> tuple[dict[str, str], list[str]]:
    """Return the state of each script of the suite that is waiting or running in Slurm, by name, and which failed."""
    from lrbench.core.errors import FailureError
    from lrbench.jobs.preparation import with_preparation
    from lrbench.jobs.slurm import Submission, is_available
    from lrbench.jobs.slurm_scripts import divide

    submission = Submission.latest(planned.workspace, planned.suite.name)
    if submission is None:
        return {}, []
    states = {}
    try:
        states = submission.states() if is_available() else {}
    except FailureError as error:
        warn(f"the state of the jobs in Slurm is not shown: {error}")
    # The work of a failed job may have been done since.
    missing = {script.name for script in divide(with_preparation(planned.jobs(), planned.suite), (), ())}
    failed = [
        f"{script.name} (exit status {status}, {submission.log_of(script)})"
        for script, status in submission.failures()
        if script.name in missing and script.name not in states
    ]
    return states, failed


def _record(planned: "Plan", missing_data: dict[str, str], cost: "Cost", states: dict[str, str]) -> dict[str, Any]:
    return {
        "suite": planned.suite.name,
        "snapshots": [
            {"snapshot": str(snapshot.key), "made": snapshot.exists, "epochs": snapshot.epochs}
            for snapshot in planned.snapshots
        ],
        "cells": [
            {
                "snapshot": str(cell.snapshot),
                "task": cell.cell.task,
                "protocol": cell.cell.protocol,
                "seed": cell.cell.seed,
                "done": cell.done,
                "replaces": cell.replaces,
            }
            for cell in planned.cells
        ],
        "source": [{"snapshot": str(cell.snapshot), "done": cell.done} for cell in planned.source_cells],
        "slurm": states,
        "missing_data": missing_data,
        "missing_epochs": planned.missing_epochs,
        "estimated_seconds": cost.seconds,
        "pretraining_gpu_hours": cost.pretraining_gpu_hours,
        "finetuning_gpu_hours": cost.finetuning_gpu_hours,
        "snapshot_bytes": cost.snapshot_bytes,
        "pixel_bytes": cost.pixel_bytes,
        "pixels_unknown": list(cost.unknown),
    }
