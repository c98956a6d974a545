"""Statistics of the updates of an epoch for the training log: norms of weights and of the directions of updates.

With weights w, rate η and the direction d of an update (SGD's momentum buffer, w₊ = w − η d), the log has |w|² and ⟨w, d⟩
at the end of an epoch, and the mean of |d|² over its updates. With Nesterov's momentum, the direction is not the buffer, and
the log has |w|² alone. Means of inner products over the updates of an epoch follow:

    ⟨w₊, d⟩ + (η / 2) |d|² = (|w|² − |w₊|²) / 2 η        sums over an epoch telescope
    ⟨w, d⟩ = ⟨w₊, d⟩ + η |d|²
    ⟨w, g⟩ = ⟨w, d⟩ − β ⟨w, d₋⟩                           with momentum β, from d = β d₋ + g
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lrbench.config.pretraining import Schedule
from lrbench.pretraining.setup import momentum_buffers
from lrbench.pretraining.stage_end import after_warmup, ended_at
from lrbench.stats.stage_rules import plateau_end, sasa_end, yaida_end


def direction_norm(model: nn.Module, optimiser: torch.optim.Optimizer) -> torch.Tensor:
    """Return the norm of the direction of the latest update, on the device; 0 without momentum."""
    return nn.utils.get_total_norm(list(momentum_buffers(model, optimiser).values()))


def epoch_end(model: nn.Module, optimiser: torch.optim.Optimizer, direction_square: float) -> dict[str, float]:
    """Return the statistics by their key in the log.

    Args:
        model: The network after the epoch's last update.
        optimiser: SGD; without momentum, or with Nesterov's, there is no direction in the log.
        direction_square: Mean of |d|² over the updates of the epoch.
    """
    parameters, buffers = dict(model.named_parameters()), momentum_buffers(model, optimiser)
    statistics = {"weight_square": sum(float(_inner(tensor, tensor)) for tensor in parameters.values())}
    if buffers and not optimiser.defaults["nesterov"]:
        inner = sum(float(_inner(parameters[name], buffer)) for name, buffer in buffers.items())
        statistics |= {"weight_direction": inner, "direction_square": direction_square}
    return statistics


def ends_by_rule(
    records: Sequence[dict[str, Any]], schedule: Schedule, *, updates_per_epoch: int, first: bool
) -> dict[str, int | None]:
    """Return the epoch at which each rule would have ended a stage, or None where it would not.

    Args:
        records: Log records of all epochs of the stage.
        schedule: The suite's schedule; epochs of the warm-up do not count.
        updates_per_epoch: Updates in an epoch of the stage.
        first: Whether it is the first stage.

    Returns:
        `auto`, the rule of `stats.stage_end`; `plateau`; `sasa`; with momentum that is not Nesterov's, `yaida`. The last two
        compare epochs with the one before, so the stage's first epoch does not count.
    """
    counted = after_warmup(records, schedule)
    ends = {"auto": ended_at(records, schedule), "plateau": _epoch(counted, plateau_end([r["loss"] for r in counted]))}
    if all("weight_square" in record for record in counted):
        products = inner_products(counted, schedule, updates_per_epoch)
        ends["sasa"] = _epoch(counted[1:], sasa_end(products.get("drift", []), first=first))
        if "right" in products:
            ends["yaida"] = _epoch(counted[1:], yaida_end(products["left"], products["right"]))
    return ends


def inner_products(
    records: Sequence[dict[str, Any]], schedule: Schedule, updates_per_epoch: int
) -> dict[str, list[float]]:
    """Return means over the updates of each epoch but the first, from the statistics in the log.

    Args:
        records: Log records of successive epochs of a stage.
        schedule: The suite's schedule.
        updates_per_epoch: Updates in an epoch of the stage.

    Returns:
        `drift`, the mean of ⟨w₊, d⟩ + (η / 2) |d|²; with momentum that is not Nesterov's, also `left`, the mean of ⟨w, g⟩, and
        `right`, that of (1 + β) (η / 2) |d|².
    """
    beta, products = schedule.momentum, {"drift": list[float](), "left": list[float](), "right": list[float]()}
    for before, record in itertools.pairwise(records):
        rate = record["learning_rate"]
        drift = (before["weight_square"] - record["weight_square"]) / (2 * rate * updates_per_epoch)
        products["drift"].append(drift)
        if beta and not schedule.nesterov:
            square = rate * record["direction_square"]
            change = (record["weight_direction"] - before["weight_direction"]) / updates_per_epoch
            products["left"].append((1 - beta) * (drift + square / 2) + beta * (square + change))
            products["right"].append((1 + beta) / 2 * square)
    return {name: values for name, values in products.items() if values}


def _epoch(records: Sequence[dict[str, Any]], count: int | None) -> int | None:
    return None if count is None else int(records[count - 1]["epoch"])


def _inner(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (tensor.detach().double() * other.detach().double()).sum()
