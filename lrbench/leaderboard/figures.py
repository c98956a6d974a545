"""A suite's figures, each with the data that it draws: SVG and PNG by matplotlib, CSV beside.

Colours are Okabe and Ito's, told apart with every kind of colour vision; markers and line styles differ too, for print in grey.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas

from lrbench.leaderboard.evidence import Column, Evidence, Row, without_decay
from lrbench.leaderboard.saturation import LEAST_SNAPSHOTS, fit_null
from lrbench.leaderboard.statistics import Estimate
from lrbench.leaderboard.tables import REPORT, of_protocol

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a suite.

    Attributes:
        name: Part of its files' names.
        caption: What it shows, as its alternative text.
        data: What is drawn, in points where not said otherwise.
        draw: Draws it into a matplotlib figure.
    """

    name: str
    caption: str
    data: pandas.DataFrame
    draw: Callable[[], Any]

    def drawings(self, salt: str) -> dict[str, bytes]:
        """The figure by file ending; `salt` keeps the identifiers inside the SVG the same from run to run."""
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": salt, "font.size": 9.5, "svg.fonttype": "none"}):
            figure = self.draw()
            return {
                ".svg": _saved(figure, "svg", {"Date": None, "Creator": None}),
                ".png": _saved(figure, "png", {"Software": None}),
            }


def figures(evidence: Evidence) -> list[Figure]:
    """Every figure that the evidence has data for; the first is the suite's own."""
    candidates: list[tuple[str, str, pandas.DataFrame, Callable[[Evidence, pandas.DataFrame], Any]]] = [
        ("stages", "Target accuracy against stage, a line for each target", stage_data(evidence), _draw_stages),
        (
            "source-and-target",
            "Target error against source error along each arm",
            tradeoff_data(evidence),
            _draw_tradeoff,
        ),
        (
            "decay-minus-control",
            "Target accuracy with decay minus without, at each stage and target",
            forest_data(evidence),
            _draw_forest,
        ),
        (
            "source-learned",
            "What the source taught: simple and complex evidence, wrong labels memorised",
            learned_data(evidence),
            _draw_learned,
        ),
    ]
    return [
        Figure(name=name, caption=caption, data=data, draw=partial(draw, evidence, data))
        for name, caption, data, draw in candidates
        if len(data)
    ]


def stage_data(evidence: Evidence) -> pandas.DataFrame:
    """Protocol, target, arm, stage, mean, half-width and seeds."""
    records = [
        {"protocol": column.protocol, "target": column.task, "arm": row[0], "stage": row[1], **_points(level)}
        for column in evidence.columns
        for row in _staged(evidence)
        if (level := evidence.level(row, column)) is not None
    ]
    return _frame(records, "protocol", "target", "arm", "stage", "mean", "half_width", "seeds")


def _staged(evidence: Evidence) -> list[Row]:
    """The snapshots at the ends of stages: all but those of `trail`, which is drawn against the source's error alone."""
    return [row for row in evidence.rows if row[0] != "trail"]


def tradeoff_data(evidence: Evidence) -> pandas.DataFrame:
    """Protocol, target, arm, stage, mean errors of source and target, and whether the rate ever fell."""
    records = []
    for column in evidence.columns:
        for row in evidence.rows:
            level, source = evidence.level(row, column), evidence.source_level(row)
            if level is not None and source is not None and row[1] > 0:
                records.append(
                    {
                        "protocol": column.protocol,
                        "target": column.task,
                        "arm": row[0],
                        "stage": row[1],
                        "source_error": round(100 * (1 - source.mean), 4),
                        "target_error": round(100 * (1 - level.mean), 4),
                        "without_decay": without_decay(evidence.suite, row),
                    }
                )
    return _frame(records, "protocol", "target", "arm", "stage", "source_error", "target_error", "without_decay")


def forest_data(evidence: Evidence) -> pandas.DataFrame:
    """Protocol, target, stage, control, mean difference `step` less control, half-width and seeds."""
    records = [
        {"protocol": column.protocol, "target": column.task, "stage": row[1], "control": control[0], **_points(value)}
        for column in evidence.columns
        for row, control in evidence.controls()
        if control[0] in ("hold", "average") and (value := evidence.difference(row, control, column)) is not None
    ]
    return _frame(records, "protocol", "target", "stage", "control", "mean", "half_width", "seeds")


def learned_data(evidence: Evidence) -> pandas.DataFrame:
    """Measure (`simple`, `complex`, `memorised`), arm, stage, mean, half-width and seeds."""
    records = [
        {"measure": name, "arm": row[0], "stage": row[1], **_points(value)}
        for name in REPORT
        if name in evidence.report
        for row in _staged(evidence)
        if (value := evidence.reported(name, row)) is not None
    ]
    return _frame(records, "measure", "arm", "stage", "mean", "half_width", "seeds")


def _points(value: Estimate) -> dict[str, Any]:
    width = None if value.half_width is None else round(100 * value.half_width, 4)
    return {"mean": round(100 * value.mean, 4), "half_width": width, "seeds": value.seeds}


def _frame(records: list[dict[str, Any]], *names: str) -> pandas.DataFrame:
    return pandas.DataFrame(records, columns=list(names))


def _panels(count: int, *, width: float = 4.6, height: float = 4.4, share_y: bool = True) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width * max(1, count) + 0.4, height), layout="constrained")
    panels = canvas.subplots(1, max(1, count), sharey=share_y, squeeze=False)[0]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    return canvas, panels


def _legend(canvas: Any, panel: Any, columns: int = 4) -> None:
    handles, labels = panel.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=min(columns, max(1, len(labels))), frameon=False)


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}


def _draw_stages(evidence: Evidence, _data: pandas.DataFrame) -> Any:
    protocols = list(evidence.suite.protocols)
    canvas, panels = _panels(len(protocols))
    for panel, protocol in zip(panels, protocols, strict=True):
        _stage_panel(panel, evidence, protocol)
    panels[0].set_ylabel("target accuracy (headline metric), %")
    _legend(canvas, panels[0])
    return canvas


def _stage_panel(panel: Any, evidence: Evidence, protocol: str) -> None:
    columns = of_protocol(evidence, protocol)
    for index, column in enumerate(columns):
        style = _style(index)
        # Side by side a little, so that error bars do not hide each other.
        shift = 0.05 * (index - (len(columns) - 1) / 2)
        _bars(
            panel,
            evidence,
            column,
            [row for row in evidence.rows if row[0] == "step"],
            shift,
            {**style, "label": column.task, "linestyle": "-", "linewidth": 1.4},
        )
        for row in evidence.rows:
            before = evidence.before(row)
            if row[0] == "hold" and before is not None:
                ends = [evidence.level(each, column) for each in (before, row)]
                if all(ends):
                    panel.plot(
                        [each[1] + shift for each in (before, row)],
                        [100 * end.mean for end in ends if end],
                        color=style["color"],
                        linestyle=":",
                        linewidth=1.4,
                    )
                # A held stage is drawn hollow, so that it is not taken for the decayed one beside it.
                hollow = {**style, "markerfacecolor": "white", "linestyle": "none"}
                _bars(panel, evidence, column, [row], shift + 0.02, hollow)
    panel.plot([], [], "k-", label="step (rate falls)")
    if "hold" in evidence.suite.arms:
        panel.plot([], [], "k:", label="hold (rate held from there)")
    numbers = range(evidence.suite.schedule.stages + 1)
    panel.set_xticks(list(numbers), [f"stage {stage}" for stage in numbers])
    panel.set_title(protocol)
    # With few seeds an interval may reach past what an accuracy can be; the axis does not.
    panel.set_ylim(0, 100)


def _bars(panel: Any, evidence: Evidence, column: Column, rows: list[Row], shift: float, style: dict[str, Any]) -> None:
    levels = [(row[1] + shift, level) for row in rows if (level := evidence.level(row, column)) is not None]
    if levels:
        panel.errorbar(
            [stage for stage, _ in levels],
            [100 * level.mean for _, level in levels],
            yerr=[100 * (level.half_width or 0.0) for _, level in levels],
            markersize=4.5,
            elinewidth=0.9,
            capsize=2.5,
            **style,
        )


_ARM_MARKERS = {
    "step": "o",
    "hold": "s",
    "constant": "^",
    "average": "D",
    "constant-average": "d",
    "trail": "v",
    "early": "<",
    "late": ">",
    "small": "P",
    "cosine": "X",
    "raise": "*",
}


def _draw_tradeoff(evidence: Evidence, data: pandas.DataFrame) -> Any:
    protocols = list(evidence.suite.protocols)
    canvas, panels = _panels(len(protocols))
    for panel, protocol in zip(panels, protocols, strict=True):
        mine = data[data.protocol == protocol]
        for index, target in enumerate(dict.fromkeys(mine.target)):
            points, colour = mine[mine.target == target], _style(index)["color"]
            step = points[points.arm == "step"].sort_values("stage")
            panel.plot(step.source_error, step.target_error, color=colour, linewidth=1.2, label=target)
            for arm, marker in _ARM_MARKERS.items():
                each = points[points.arm == arm]
                face = colour if arm == "step" else "white"
                panel.plot(
                    each.source_error,
                    each.target_error,
                    marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=5,
                    alpha=0.9,
                )
            null = points[points.without_decay]
            if len(null) >= LEAST_SNAPSHOTS:
                errors = null.source_error.to_numpy() / 100
                curve = fit_null(errors, null.target_error.to_numpy()[:, None] / 100)
                along = np.linspace(errors.min(), errors.max(), 60)
                panel.plot(
                    100 * along, [100 * curve.predict(float(x))[0] for x in along], "--", color=colour, linewidth=1
                )
        fitted = min((int(points.without_decay.sum()) for _, points in mine.groupby("target")), default=0)
        note = "" if fitted >= LEAST_SNAPSHOTS else f" (no null: {fitted} of {LEAST_SNAPSHOTS} snapshots without decay)"
        panel.set_title(f"{protocol}{note}", fontsize=9.5)
        panel.set_xlabel("source error, %")
        # Training moves to the right and up, as accuracy figures do.
        panel.invert_xaxis()
    panels[0].invert_yaxis()
    panels[0].set_ylabel("target error, %")
    for arm, marker in _ARM_MARKERS.items():
        if (data.arm == arm).any():
            face = "k" if arm == "step" else "white"
            panels[0].plot([], [], f"k{marker}", markerfacecolor=face, label=arm)
    _legend(canvas, panels[0], columns=5)
    return canvas


def _draw_forest(_evidence: Evidence, data: pandas.DataFrame) -> Any:
    protocols = list(dict.fromkeys(data.protocol))
    lines = list(dict.fromkeys(zip(data.target, data.stage, strict=True)))
    canvas, panels = _panels(len(protocols), height=1.4 + 0.32 * len(lines))
    for panel, protocol in zip(panels, protocols, strict=True):
        mine = data[data.protocol == protocol]
        for control, shift, face in (("hold", -0.12, None), ("average", 0.12, "white")):
            for index, (target, stage) in enumerate(lines):
                row = mine[(mine.target == target) & (mine.stage == stage) & (mine.control == control)]
                if len(row):
                    colour = _COLOURS[0] if control == "hold" else _COLOURS[1]
                    width = row.half_width.iloc[0]
                    panel.errorbar(
                        row["mean"].iloc[0],
                        index + shift,
                        xerr=0.0 if pandas.isna(width) else width,
                        fmt="o" if control == "hold" else "D",
                        color=colour,
                        markerfacecolor=face or colour,
                        markersize=5,
                        capsize=2.5,
                        elinewidth=1,
                        label=f"step − {control}" if index == 0 else None,
                    )
        panel.axvline(0, color="k", linewidth=0.8)
        panel.set_title(protocol)
        panel.set_xlabel("points of target accuracy (below 0: decay transfers worse)")
    panels[0].set_yticks(range(len(lines)), [f"{target}, stage {stage}" for target, stage in lines])
    panels[0].invert_yaxis()
    _legend(canvas, panels[0])
    return canvas


def _draw_learned(_evidence: Evidence, data: pandas.DataFrame) -> Any:
    measures = [name for name in REPORT if (data.measure == name).any()]
    canvas, panels = _panels(len(measures), width=3.6, height=3.8)
    for panel, measure in zip(panels, measures, strict=True):
        mine = data[data.measure == measure]
        for index, (arm, points) in enumerate(mine.groupby("arm", sort=False)):
            shift = 0.06 * (index - 1.5)
            panel.errorbar(
                points.stage + shift,
                points["mean"],
                yerr=points.half_width.fillna(0.0),
                linestyle="-" if arm == "step" else "none",
                markerfacecolor=None if arm == "step" else "white",
                markersize=5,
                capsize=2.5,
                elinewidth=0.9,
                label=str(arm),
                **{**_style(index), "marker": _ARM_MARKERS[str(arm)]},
            )
        panel.set_title(REPORT[measure], fontsize=9.5)
        stages = sorted(set(mine.stage))
        panel.set_xticks(stages, [f"stage {stage}" for stage in stages])
        panel.set_ylim(0, 100)
    panels[0].set_ylabel("share of images, %")
    _legend(canvas, panels[0])
    return canvas


def _saved(canvas: Any, ending: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=ending, dpi=150, metadata=metadata)
    return buffer.getvalue()
