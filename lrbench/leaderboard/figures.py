"""One figure a suite: accuracy against stage, a line for each target, with intervals."""

import io
from typing import Any

import pandas

from lrbench.leaderboard.evidence import Column, Evidence, Row
from lrbench.leaderboard.tables import of_protocol

# Okabe and Ito's palette, told apart with every kind of colour vision; markers differ too, for print in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def stage_data(evidence: Evidence) -> pandas.DataFrame:
    """The figure's data: protocol, target, arm, stage, mean, half-width and seeds, in points."""
    records = []
    for column in evidence.columns:
        for row in evidence.rows:
            level = evidence.level(row, column)
            if level is not None:
                records.append(
                    {
                        "protocol": column.protocol,
                        "target": column.task,
                        "arm": row[0],
                        "stage": row[1],
                        "mean": round(100 * level.mean, 4),
                        "half_width": None if level.half_width is None else round(100 * level.half_width, 4),
                        "seeds": level.seeds,
                    }
                )
    names = ["protocol", "target", "arm", "stage", "mean", "half_width", "seeds"]
    return pandas.DataFrame(records, columns=names)


def draw_stages(evidence: Evidence) -> dict[str, bytes]:
    """The figure as SVG and PNG: a panel a protocol, `step` in full lines, `hold` from where it branches in dashes.

    Returns:
        File ending to content.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": evidence.name, "font.size": 9.5, "svg.fonttype": "none"}):
        protocols = list(evidence.suite.protocols)
        figure = Figure(figsize=(4.6 * max(1, len(protocols)) + 0.4, 4.4), layout="constrained")
        panels = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
        for panel, protocol in zip(panels, protocols, strict=True):
            _panel(panel, evidence, protocol)
        panels[0].set_ylabel("target accuracy (headline metric), %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)
        return {
            "svg": _saved(figure, "svg", {"Date": None, "Creator": None}),
            "png": _saved(figure, "png", {"Software": None}),
        }


def _panel(panel: Any, evidence: Evidence, protocol: str) -> None:
    columns = of_protocol(evidence, protocol)
    for index, column in enumerate(columns):
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        # Side by side a little, so that error bars do not hide each other.
        shift = 0.05 * (index - (len(columns) - 1) / 2)
        style = {"color": colour, "marker": marker, "label": column.task, "linestyle": "-", "linewidth": 1.4}
        _points(panel, evidence, column, [row for row in evidence.rows if row[0] == "step"], shift, style)
        for row in evidence.rows:
            before = evidence.before(row)
            if row[0] == "hold" and before is not None:
                ends = [evidence.level(each, column) for each in (before, row)]
                if all(ends):
                    stages = [each[1] + shift for each in (before, row)]
                    panel.plot(
                        stages, [100 * end.mean for end in ends if end], color=colour, linestyle=":", linewidth=1.4
                    )
                # A held stage is drawn hollow, so that it is not taken for the decayed one beside it.
                hollow = {"color": colour, "marker": marker, "markerfacecolor": "white", "linestyle": "none"}
                _points(panel, evidence, column, [row], shift + 0.02, hollow)
    panel.plot([], [], "k-", label="step (rate falls)")
    if "hold" in evidence.suite.arms:
        panel.plot([], [], "k:", label="hold (rate held from there)")
    numbers = range(evidence.suite.schedule.stages + 1)
    panel.set_xticks(list(numbers), [f"stage {stage}" for stage in numbers])
    panel.set_title(protocol)
    # With few seeds an interval may reach past what an accuracy can be; the axis does not.
    panel.set_ylim(0, 100)
    panel.grid(axis="y", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _points(
    panel: Any, evidence: Evidence, column: Column, rows: list[Row], shift: float, style: dict[str, Any]
) -> None:
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


def _saved(figure: Any, ending: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, dpi=150, metadata=metadata)
    return buffer.getvalue()
