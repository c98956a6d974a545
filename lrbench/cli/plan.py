"""`lrbench plan`: what a suite consists of, what is done, and what the rest will cost."""

from typing import TYPE_CHECKING, Any

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
)

if TYPE_CHECKING:
    from lrbench.jobs.cost import Cost
    from lrbench.jobs.plan import Plan


def plan(
    suite: SuiteArgument = "quick",
    arm: ArmOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    json_: JsonOption = False,
) -> None:
    """Show a suite's snapshots and cells, what is done, and an estimate of the rest. Nothing is started."""
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.jobs.cost import estimate_cost
    from lrbench.jobs.plan import make_plan
    from lrbench.store.suites import suite_to_run

    workspace = Workspace.current()
    chosen = suite_to_run(workspace, suite, set_ or (), note)
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial)
    made = make_plan(chosen, place, arm=arm, seed=seed)
    absent = made.without_data(place)
    cost = estimate_cost(made, place)
    if json_:
        emit_json(_record(made, absent, cost))
        return
    rows = []
    for each in made.snapshots:
        cells = [cell for cell in made.cells if cell.snapshot == each.key]
        rows.append(
            {
                "snapshot": str(each.key),
                "starts from": str(each.parent) if each.parent else "",
                "epochs": each.epochs or "",
                "made": "yes" if each.made else "no",
                "cells done": f"{sum(cell.done for cell in cells)} of {len(cells)}",
            }
        )
    show(table(rows, wrapped="snapshot"))
    show(f"\n{made.summary()}")
    if (replaced := made.replaced()) is not None:
        show(replaced)
    if (of_others := made.of_others()) is not None:
        show(of_others)
    for problem in absent.values():
        show(f"a run would not start: {problem}")
    if cost.source_images is not None:
        show(
            f"pretraining would not start: {chosen.source} has {cost.source_images:,} training images, fewer than "
            f"one batch of {chosen.schedule.batch}"
        )
    show(cost.words())


def _record(made: "Plan", absent: dict[str, str], cost: "Cost") -> dict[str, Any]:
    return {
        "suite": made.suite.name,
        "snapshots": [{"snapshot": str(each.key), "made": each.made, "epochs": each.epochs} for each in made.snapshots],
        "cells": [
            {
                "snapshot": str(each.snapshot),
                "task": each.cell.task,
                "protocol": each.cell.protocol,
                "seed": each.cell.seed,
                "done": each.done,
                "replaces": each.replaces,
            }
            for each in made.cells
        ],
        "missing_data": absent,
        "missing_epochs": made.missing_epochs,
        "estimated_seconds": cost.seconds,
        "pretraining_gpu_hours": cost.pretraining_gpu_hours,
        "finetuning_gpu_hours": cost.finetuning_gpu_hours,
        "snapshot_bytes": cost.snapshot_bytes,
        "pixel_bytes": cost.pixel_bytes,
        "pixels_unknown": list(cost.unknown),
    }
