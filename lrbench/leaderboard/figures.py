"""Figures of a suite as SVG, PNG and PDF, each with its data.

Colours are those of Okabe and Ito, which differ for every kind of colour vision. Markers and line styles differ too, for
greyscale prints.
"""

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas

from lrbench.config.arms import ARMS
from lrbench.leaderboard.evidence import MEAN_OF_TARGETS, Evidence, Row
from lrbench.leaderboard.figure_data import control_data, null_curve, source_report_data, stage_data, tradeoff_data
from lrbench.leaderboard.tables import REPORT
from lrbench.stats.saturation import MIN_SNAPSHOTS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Panels side by side at most; more would be too small to read on a page.
_COLUMNS = 3
# No time and no version, so the same data gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a suite.

    Attributes:
        name: Part of the names of its files.
        title: Its subject; the alternative text.
        caption: How to read it, in one sentence of Markdown.
        data: The data drawn, in percent or points.
        draw: Function that draws it into a matplotlib figure.
    """

    name: str
    title: str
    caption: str
    data: pandas.DataFrame
    draw: Callable[[], Any]

    def markdown(self, suite: str, folder: str = "figures") -> str:
        """Return the figure with its caption in Markdown.

        Args:
            suite: The suite's name.
            folder: The folder of the figures, relative to the page.
        """
        return f"![{self.title}]({folder}/{suite}-{self.name}.svg)\n\n*{self.caption}*"

    def drawings(self, salt: str, endings: Collection[str]) -> dict[str, bytes]:
        """Return the figure as files, by ending.

        Args:
            salt: Seed of the identifiers in the SVG, which makes them reproducible.
            endings: Endings to draw: `.svg`, `.png` or `.pdf`.
        """
        import matplotlib

        with matplotlib.rc_context(
            {
                "svg.hashsalt": salt,
                "font.size": 9.5,
                "svg.fonttype": "none",
                "pdf.fonttype": 42,
                # Task names may contain `$`.
                "text.parse_math": False,
            }
        ):
            figure = self.draw()
            return {ending: _saved(figure, ending.removeprefix("."), _METADATA[ending]) for ending in endings}


def figures(evidence: Evidence) -> list[Figure]:
    """Return every figure for which the evidence has data."""
    candidates: list[tuple[str, str, str, pandas.DataFrame, Callable[[Evidence, pandas.DataFrame], Any]]] = [
        (
            "stages",
            "Target accuracy against stage, a line for each target",
            "Mean target accuracy with its 95 % interval at the end of each stage: filled marks for `step`, whose rate falls, "
            "hollow marks for `hold`, which keeps the rate of the previous stage.",
            stage_data(evidence),
            _draw_stages,
        ),
        (
            "source-and-target",
            "Target error against source error along each arm",
            "One mark for each snapshot: training moves right and up, and a `step` mark below the dashed curve transfers worse "
            "than snapshots without decay of the same source error.",
            tradeoff_data(evidence),
            _draw_tradeoff,
        ),
        (
            "decay-minus-control",
            "Target accuracy with decay minus without, at each stage and target",
            "Target accuracy of `step`, whose rate falls, minus that of a control without decay, with its 95 % interval, on "
            "average over targets (top) and for each: left of zero, decay transfers worse.",
            control_data(evidence),
            _draw_controls,
        ),
        (
            "source-learned",
            "Source accuracy by kind of evidence, and wrong labels memorised",
            "Share of source images predicted from simple evidence, from complex evidence, and as their wrong training labels "
            "say, with its 95 % interval at the end of each stage.",
            source_report_data(evidence),
            _draw_source_report,
        ),
    ]
    return [
        Figure(name=name, title=title, caption=caption, data=data, draw=partial(draw, evidence, data))
        for name, title, caption, data, draw in candidates
        if len(data)
    ]


def _errors(rows: pandas.DataFrame) -> Any:
    """Return the lengths of error bars below and above the means, NaN without an interval. Shape `(2, N)`."""
    return np.array([rows["mean"] - rows.low, rows.high - rows["mean"]], dtype=float)


def make_panels(
    count: int, *, width: float = 4.6, height: float = 4.4, share_x: bool = True, share_y: bool = True
) -> tuple[Any, Any]:
    """Return a figure with panels, at most three side by side.

    Args:
        count: Number of panels.
        width: Width of a panel in inches.
        height: Height of a row of panels in inches.
        share_x: Whether they share their horizontal scale.
        share_y: Whether they share their vertical scale.

    Returns:
        The figure, and its panels in a list.
    """
    from matplotlib.figure import Figure as Canvas

    across = max(1, min(count, _COLUMNS))
    down = -(-max(1, count) // across)
    canvas = Canvas(figsize=(width * across + 0.4, height * down), layout="constrained")
    panels = canvas.subplots(down, across, sharex=share_x, sharey=share_y, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
        # A panel above none has its labels, too.
        panel.tick_params(labelbottom=True)
    return canvas, list(panels[: max(1, count)])


def use_log_scale(panel: Any) -> None:
    """Give a panel a logarithmic vertical scale whose labels are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_yscale("log")
    # Formulas in labels are switched off, because names of data could be read as such.
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def add_legend(canvas: Any, panel: Any, columns: int = 4) -> None:
    """Add a panel's legend below all panels."""
    handles, labels = panel.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=min(columns, max(1, len(labels))), frameon=False)


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}


def _draw_stages(evidence: Evidence, data: pandas.DataFrame) -> Any:
    protocols = list(evidence.suite.protocols)
    canvas, panels = make_panels(len(protocols))
    for panel, protocol in zip(panels, protocols, strict=True):
        _stage_panel(panel, evidence, data[data.protocol == protocol])
        panel.set_title(protocol)
    canvas.supylabel("target accuracy (headline metric), %", fontsize="medium")
    panels[0].plot([], [], "k-", label="step (rate falls)")
    if "hold" in evidence.suite.arms:
        panels[0].plot([], [], "k:", marker="o", markerfacecolor="white", label="hold (rate stays the same)")
    numbers = range(evidence.suite.schedule.stages + 1)
    panels[0].set_xticks(list(numbers), [f"stage {stage}" for stage in numbers])
    panels[0].set_ylim(0, 100)
    add_legend(canvas, panels[0])
    return canvas


def _stage_panel(panel: Any, evidence: Evidence, data: pandas.DataFrame) -> None:
    targets = evidence.suite.targets
    for index, target in enumerate(targets):
        style = _style(index)
        # Shifted a little, so that error bars do not overlap.
        shift = 0.05 * (index - (len(targets) - 1) / 2)
        points = data[data.target == target]
        _bars(
            panel, points[points.arm == "step"], shift, {**style, "label": target, "linestyle": "-", "linewidth": 1.4}
        )
        means: dict[Row, float] = dict(zip(zip(points.arm, points.stage, strict=True), points["mean"], strict=True))
        for arm, stage in means:
            before = evidence.previous((arm, stage))
            if arm == "hold" and before in means:
                ends = [means[row] for row in (before, (arm, stage))]
                xs = [before[1] + shift, stage + shift]
                panel.plot(xs, ends, color=style["color"], linestyle=":", linewidth=1.4)
        hollow = {**style, "markerfacecolor": "white", "linestyle": "none"}
        _bars(panel, points[points.arm == "hold"], shift + 0.02, hollow)


def _bars(panel: Any, rows: pandas.DataFrame, shift: float, style: dict[str, Any]) -> None:
    if len(rows):
        sizes = {"markersize": 4.5, "elinewidth": 0.9, "capsize": 2.5}
        panel.errorbar(rows.stage + shift, rows["mean"], yerr=_errors(rows), **sizes, **style)


def _draw_tradeoff(evidence: Evidence, data: pandas.DataFrame) -> Any:
    protocols = list(evidence.suite.protocols)
    canvas, panels = make_panels(len(protocols))
    fitted = False
    for panel, protocol in zip(panels, protocols, strict=True):
        of_protocol = data[data.protocol == protocol]
        for index, target in enumerate(dict.fromkeys(of_protocol.target)):
            points, colour = of_protocol[of_protocol.target == target], _style(index)["color"]
            step = points[points.arm == "step"].sort_values("stage")
            panel.plot(step.source_error, step.target_error, color=colour, linewidth=1.2, label=target)
            for arm in ARMS.values():
                of_arm = points[points.arm == arm.name]
                face = colour if arm.name == "step" else "white"
                panel.plot(
                    of_arm.source_error,
                    of_arm.target_error,
                    arm.marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=5,
                    alpha=0.9,
                )
            null = null_curve(points)
            if null is not None:
                panel.plot(null.source_error, null.target_error, "--", color=colour, linewidth=1)
                fitted = True
        fewest = min((int(points.without_decay.sum()) for _, points in of_protocol.groupby("target")), default=0)
        note = "" if fewest >= MIN_SNAPSHOTS else f" (no null: {fewest} of {MIN_SNAPSHOTS} snapshots without decay)"
        panel.set_title(f"{protocol}{note}", fontsize=9.5)
        panel.set_xlabel("source error, %")
    # Training moves right and up, as in figures of accuracy.
    panels[0].invert_xaxis()
    panels[0].invert_yaxis()
    canvas.supylabel("target error, %", fontsize="medium")
    for arm in ARMS.values():
        if (data.arm == arm.name).any():
            face = "k" if arm.name == "step" else "white"
            panels[0].plot([], [], f"k{arm.marker}", markerfacecolor=face, label=arm.name)
    if fitted:
        panels[0].plot([], [], "k--", linewidth=1, label="saturation null (fit without decay)")
    add_legend(canvas, panels[0], columns=5)
    return canvas


def _draw_controls(evidence: Evidence, data: pandas.DataFrame) -> Any:
    protocols = list(dict.fromkeys(data.protocol))
    lines = list(dict.fromkeys(zip(data.target, data.stage, strict=True)))
    means = sum(target == MEAN_OF_TARGETS for target, _ in lines)
    margin = evidence.suite.margin
    canvas, panels = make_panels(len(protocols), height=1.4 + 0.32 * len(lines))
    for panel, protocol in zip(panels, protocols, strict=True):
        of_protocol = data[data.protocol == protocol]
        for control, shift, face in (("hold", -0.12, None), ("average", 0.12, "white")):
            for index, (target, stage) in enumerate(lines):
                row = of_protocol[
                    (of_protocol.target == target) & (of_protocol.stage == stage) & (of_protocol.control == control)
                ]
                if len(row):
                    colour = COLOURS[0] if control == "hold" else COLOURS[1]
                    is_mean = target == MEAN_OF_TARGETS
                    panel.errorbar(
                        row["mean"],
                        [index + shift],
                        xerr=_errors(row),
                        fmt="o" if control == "hold" else "D",
                        color=colour,
                        markerfacecolor=face or colour,
                        markersize=6 if is_mean else 5,
                        capsize=3.5 if is_mean else 2.5,
                        elinewidth=2 if is_mean else 1,
                        capthick=2 if is_mean else 1,
                        label=f"step − {control}" if index == 0 else None,
                    )
        panel.axvline(0, color="k", linewidth=0.8)
        band = f"±{margin:g} points: the margin of no difference"
        panel.axvspan(-margin, margin, color="k", alpha=0.07, linewidth=0, label=band)
        if means:
            panel.axhline(means - 0.5, color="k", linewidth=0.8)
        panel.set_title(protocol)
        panel.set_xlabel("points (below 0: decay transfers worse)")
    panels[0].set_yticks(range(len(lines)), [f"{target}, stage {stage}" for target, stage in lines])
    for label in (label for panel in panels for label in panel.get_yticklabels()[:means]):
        label.set_fontweight("bold")
    panels[0].invert_yaxis()
    add_legend(canvas, panels[0])
    return canvas


def _draw_source_report(_evidence: Evidence, data: pandas.DataFrame) -> Any:
    measures = [name for name in REPORT if (data.measure == name).any()]
    canvas, panels = make_panels(len(measures), width=3.6, height=3.8)
    for panel, measure in zip(panels, measures, strict=True):
        of_measure = data[data.measure == measure]
        for index, (arm, points) in enumerate(of_measure.groupby("arm", sort=False)):
            shift = 0.06 * (index - 1.5)
            panel.errorbar(
                points.stage + shift,
                points["mean"],
                yerr=_errors(points),
                linestyle="-" if arm == "step" else "none",
                markerfacecolor=None if arm == "step" else "white",
                markersize=5,
                capsize=2.5,
                elinewidth=0.9,
                label=str(arm),
                **{**_style(index), "marker": ARMS[str(arm)].marker},
            )
        panel.set_title(REPORT[measure], fontsize=9.5)
    stages = sorted(set(data.stage))
    panels[0].set_xticks(stages, [f"stage {stage}" for stage in stages])
    panels[0].set_ylim(0, 100)
    panels[0].set_ylabel("share of images, %")
    add_legend(canvas, panels[0])
    return canvas


def _saved(canvas: Any, form: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()
