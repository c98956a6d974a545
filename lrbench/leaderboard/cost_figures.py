"""Figures of a comparison of snapshots: their scores, and score against cost with the Pareto front."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas

from lrbench.core.escaping import for_terminal
from lrbench.leaderboard.figures import COLOURS, Figure, make_panels
from lrbench.leaderboard.labels import place_labels
from lrbench.transfer.recommendation import Recommendation
from lrbench.transfer.recommendation_text import score_name

# With more snapshots only those on the front are named, and the others numbered.
_MOST_NAMED = 12
_LONGEST = 30
COSTS = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds per image",
    "milliseconds": "measured time per image, ms",
}
"""Columns of `comparison_data` that are costs, each with the name of its axis."""


def comparison_data(outcome: Recommendation) -> pandas.DataFrame:
    """Return the score, test accuracy and costs of each compared snapshot, best first.

    Scores and accuracies are in percent; with LogME, the score is LogME. The same weights under another name are left out.
    """
    by_logme = outcome.basis.protocol == "logme"
    records = []
    weights: set[str | None] = set()
    for rank, candidate in enumerate(outcome.ranked, start=1):
        score = candidate.logme if by_logme else None if candidate.score is None else 100 * candidate.score
        if score is None or candidate.failure is not None or candidate.weights_id in weights:
            continue
        weights.add(candidate.weights_id)
        interval = candidate.test_interval
        low, high = (None, None) if interval is None else (100 * end for end in interval)
        records.append(
            {
                "rank": rank,
                "snapshot": candidate.reference.text,
                "score": score,
                "test_top1": None if candidate.result is None else 100 * candidate.result.result.metrics["top1"],
                "low": low,
                "high": high,
                "parameters": None if candidate.cost is None else candidate.cost.parameters,
                "multiply_adds": None if candidate.cost is None else candidate.cost.multiply_adds,
                "milliseconds": None if not candidate.speed else 1000 / candidate.speed,
            }
        )
    columns = ["rank", "snapshot", "score", "test_top1", "low", "high", *COSTS]
    return pandas.DataFrame(records, columns=columns).astype(dict.fromkeys(columns[2:], float))


def comparison_figures(outcome: Recommendation, metric: str) -> list[Figure]:
    """Return the figures of a comparison: the scores, and the scores against each cost in which the snapshots differ.

    Args:
        outcome: The comparison.
        metric: Name of the task's headline metric.
    """
    data = comparison_data(outcome)
    by_logme = outcome.basis.protocol == "logme"
    score = "LogME" if by_logme else f"{score_name(outcome.basis, metric)}, %"
    figures = []
    if len(data):
        figures.append(
            Figure(
                name="scores",
                title="Score of each snapshot, best first",
                caption="Each snapshot's LogME, best first."
                if by_logme
                else "Filled marks: the score that ranks. Hollow marks: top-1 on the test images with Wilson's 95 % interval, "
                "which is not used for the ranking.",
                data=data,
                draw=partial(_draw_scores, data, score),
            )
        )
    costs = [name for name in COSTS if data[name].nunique() > 1]
    # Times of one network differ by chance.
    if len(data) > 1 and {"parameters", "multiply_adds"} & set(costs):
        figures.append(
            Figure(
                name="cost",
                title="Score against cost, with the Pareto front",
                caption="Filled marks on the line are the Pareto front: no other snapshot is better without being costlier, or "
                "cheaper without being worse. Numbers are ranks. Times were measured while features were extracted, "
                "under the load at that time.",
                data=data,
                draw=partial(_draw_costs, data, costs, score),
            )
        )
    return figures


def pareto_front(cost: npt.NDArray[np.float64], score: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which points no other point dominates: with at most the cost and at least the score, and one of them better.

    Args:
        cost: Shape `(N,)`; NaN is on no front.
        score: Shape `(N,)`.
    """
    cheaper, better = cost[None, :] <= cost[:, None], score[None, :] >= score[:, None]
    strictly = (cost[None, :] < cost[:, None]) | (score[None, :] > score[:, None])
    return ~(cheaper & better & strictly).any(axis=1) & ~np.isnan(cost)


def _short_names(names: Sequence[str]) -> list[str]:
    """Return names without the folders that all of them share, shortened in the middle."""
    plain = [for_terminal(name).removesuffix(".safetensors") for name in names]
    parts = [name.split("/") for name in plain]
    shared = 0
    while (
        len(plain) > 1 and all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1
    ):
        shared += 1
    shorter = ["/".join(part[shared:]) for part in parts]
    half = _LONGEST // 2
    return [name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}" for name in shorter]


def _draw_scores(data: pandas.DataFrame, score: str) -> Any:
    canvas, [panel] = make_panels(1, width=7.5, height=1.3 + 0.27 * len(data))
    rows = np.arange(len(data))
    if data.test_top1.notna().any():
        errors = np.array([data.test_top1 - data.low, data.high - data.test_top1])
        panel.errorbar(
            data.test_top1,
            rows + 0.15,
            xerr=errors,
            fmt="D",
            color=COLOURS[1],
            markerfacecolor="white",
            markersize=5,
            capsize=2.5,
            elinewidth=1,
            label="test top-1, %",
        )
    panel.plot(data.score, rows - 0.15, "o", color=COLOURS[0], markersize=6, label=score)
    names = _short_names(list(data.snapshot))
    panel.set_yticks(rows, [f"{name}  {rank}" for rank, name in zip(data["rank"], names, strict=True)])
    panel.set_ylim(len(data) - 0.4, -0.6)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return canvas


def _draw_costs(data: pandas.DataFrame, costs: Sequence[str], score: str) -> Any:
    canvas, panels = make_panels(len(costs), width=4.2, height=4.2, share_x=False)
    names = _short_names(list(data.snapshot))
    placed = []
    for panel, cost in zip(panels, costs, strict=True):
        known = data[cost].notna().to_numpy()
        factor, unit = _unit(cost, float(data[cost].max()))
        x, y = data[cost].to_numpy()[known] / factor, data.score.to_numpy()[known]
        front = pareto_front(x, y)
        order = np.lexsort((-y[front], x[front]))
        line = list(zip(x[front][order], y[front][order], strict=True))
        panel.plot(*zip(*line, strict=True), "-", drawstyle="steps-post", color=COLOURS[1], linewidth=1.2)
        panel.plot(x[~front], y[~front], "o", color=COLOURS[0], markerfacecolor="white", markersize=6)
        panel.plot(x[front], y[front], "o", color=COLOURS[1], markersize=7)
        _use_cost_scale(panel, x)
        panel.set_xlabel(f"{COSTS[cost]}{unit}")
        ranks, kept = data["rank"].to_numpy()[known], [name for name, keep in zip(names, known, strict=True) if keep]
        texts = [
            (f"{rank} {name}", str(rank)) if is_front or len(x) <= _MOST_NAMED else (str(rank),)
            for rank, name, is_front in zip(ranks, kept, front, strict=True)
        ]
        # Labels of the front come first.
        sequence = np.argsort(~front, kind="stable")
        placed.append((panel, [(x[i], y[i]) for i in sequence], [texts[i] for i in sequence], line))
    canvas.supylabel(score, fontsize="medium")
    panels[0].margins(y=0.12)
    for panel, points, texts, line in placed:
        place_labels(panel, points, texts, line)
    return canvas


def _unit(cost: str, largest: float) -> tuple[float, str]:
    """Return the factor and the name of the unit in which an axis shows a cost."""
    if cost == "milliseconds":
        return 1.0, ""
    return (1e9, ", billions") if largest >= 1e9 else (1e6, ", millions")


def _use_cost_scale(panel: Any, values: npt.NDArray[np.float64]) -> None:
    """Give a panel a horizontal scale with room for labels: logarithmic if the values differ by more than a factor of three."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 3 * low:
        panel.set_xscale("log")
        room = (high / low) ** 0.12
        panel.set_xlim(low / room, high * room**2.5)
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.12 * (high - low) or 0.5 * abs(high) or 1.0
        panel.set_xlim(low - room, high + 2.5 * room)
        panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
