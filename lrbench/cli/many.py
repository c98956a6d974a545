"""Commands that take many snapshots: the names and order of the snapshots, and reports of failures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lrbench.cli.common import note, some

if TYPE_CHECKING:
    from lrbench.config.protocols import Finetune
    from lrbench.core.errors import LrbenchError
    from lrbench.models.network_cost import NetworkCost

# With more updates than this, a grid takes hours on a CPU.
_MANY_UPDATES = 20_000

SEVERAL_HELP = "A folder stands for its .safetensors files, and a .txt file for the reference on each of its lines."

Sort = Literal["score", "parameters", "multiply-adds", "speed"]
SortOption = Annotated[
    Sort,
    typer.Option(
        "--sort",
        help="Order of the table: best score, fewest parameters, fewest multiply-adds, or most images per second first.",
    ),
]


def cost_order(cost: "NetworkCost | None", speed: float | None, sort: Sort) -> float:
    """Return a number by which a table is sorted in rising order; infinity if it is unknown.

    Args:
        cost: Cost of a snapshot's network.
        speed: Its images per second.
        sort: Any order but `score`.
    """
    values: Mapping[str, float | None] = {
        "parameters": None if cost is None else cost.parameters,
        "multiply-adds": None if cost is None else cost.multiply_adds,
        "speed": None if speed is None else -speed,
    }
    value = values[sort]
    return float("inf") if value is None else value


def raise_failures(failed: "Sequence[tuple[str, LrbenchError]]", asked: int, unit: str) -> None:
    """Raise one error that lists failures by reason; return if there is none.

    Args:
        failed: Name and error of each.
        asked: Number of units requested.
        unit: What failed, in the plural.

    Raises:
        InputError: All failed because of their input.
        FailureError: Another failure.
    """
    from lrbench.core.errors import FailureError, InputError

    if failed:
        is_input = all(isinstance(error, InputError) for _, error in failed)
        raise (InputError if is_input else FailureError)(failures_text(failed, asked, unit))


def failures_text(failed: "Sequence[tuple[str, LrbenchError]]", asked: int, unit: str) -> str:
    """Return a paragraph on failures, grouped by reason; for the arguments see `raise_failures`."""
    from lrbench.core.errors import as_sentence

    names: dict[str, list[str]] = {}
    for name, error in failed:
        names.setdefault(as_sentence(str(error)), []).append(name)
    reasons = " ".join(f"{some(group)}: {reason}" for reason, group in names.items())
    return f"{len(failed)} of {asked} {unit} failed. {reasons}"


def note_grid_cost(chosen: "Finetune") -> None:
    """Print a note before a long fine-tuning on a CPU, where the default grid may take days."""
    from lrbench.models.devices import pick_device

    points = len(chosen.rates) * len(chosen.decays)
    if pick_device().type != "cpu" or points * chosen.updates < _MANY_UPDATES:
        return
    note(
        f"fine-tuning {points} grid points on a CPU, for {chosen.updates:,} updates of {chosen.batch} images each, takes long; "
        "Ctrl-C saves. For a first look use --set finetune.updates=500 --set 'finetune.rates=[0.01]' "
        "--set 'finetune.decays=[1e-4]', or --set finetune.halving=true. Different settings are not ranked together."
    )
