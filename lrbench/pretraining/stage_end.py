"""End of a stage by the rule of `stats.stage_end`: a pure function of the records in the training log."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lrbench.config.pretraining import Schedule
from lrbench.stats.stage_end import decide, first_end


def ends_here(records: Sequence[dict[str, Any]], schedule: Schedule) -> bool:
    """Return whether the rule ends a stage at the latest of its epochs.

    Args:
        records: Log records of the stage's epochs.
        schedule: The suite's schedule; epochs of the warm-up do not count.
    """
    decision = decide([record["loss"] for record in after_warmup(records, schedule)], schedule.epochs)
    return decision is not None and decision.ends_stage


def ended_at(records: Sequence[dict[str, Any]], schedule: Schedule) -> int | None:
    """Return the first epoch at which the rule ends a stage, or None."""
    counted = after_warmup(records, schedule)
    decision = first_end([record["loss"] for record in counted], schedule.epochs)
    return None if decision is None else counted[decision.epochs - 1]["epoch"]


def stage_end(records: Sequence[dict[str, Any]], schedule: Schedule) -> dict[str, float]:
    """Return the first decision that ends a stage, else the last one, with the `epoch` at which the stage ends.

    Args:
        records: Log records of all epochs of the stage, at least five of them after the warm-up.
        schedule: The suite's schedule.
    """
    counted = after_warmup(records, schedule)
    losses = [record["loss"] for record in counted]
    decision = first_end(losses, schedule.epochs) or decide(losses, schedule.epochs)
    assert decision is not None
    return {"epoch": counted[decision.epochs - 1]["epoch"], **asdict(decision)}


def after_warmup(records: Sequence[dict[str, Any]], schedule: Schedule) -> list[dict[str, Any]]:
    """Return the records of the epochs that count for a rule."""
    return [record for record in records if record["epoch"] > schedule.warmup]
