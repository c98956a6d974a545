"""Figures of measures beside accuracy: the few-shot curve, and the probe after each stage of the network."""

from functools import partial
from typing import Any

import pandas

from lrbench.leaderboard.evidence import Evidence, row_name
from lrbench.leaderboard.figure_data import interval_record, staged_rows
from lrbench.leaderboard.figures import COLOURS, Figure, make_panels
from lrbench.leaderboard.markup import SHARE
from lrbench.leaderboard.measures import Measures, collect_measures

_FEW_SHOT_ARMS = ("step", "hold")
# Numbers in cells of a lighter colour than this share of the scale are black.
_LIGHT = 0.45


def measure_figures(evidence: Evidence) -> list[Figure]:
    """Return the figures of measures for which the evidence has data."""
    measures = collect_measures(evidence)
    curve, depth = few_shot_data(evidence, measures), depth_data(evidence, measures)
    figures = []
    if curve.images.nunique() > 1:
        figures.append(
            Figure(
                name="few-shot",
                title="Target accuracy against the number of training images per class",
                caption="Accuracy of the probe with few training images per class, mean over seeds: filled marks and solid "
                "lines for `step`, hollow marks and dashed lines for `hold`, a colour for each stage.",
                data=curve,
                draw=partial(_draw_few_shot, curve),
            )
        )
    if len(depth):
        figures.append(
            Figure(
                name="depth",
                title="Accuracy of the probe after each stage of the network, for each snapshot",
                caption="Validation accuracy of the probe in percent, mean over seeds: from left to right deeper in the "
                "network, lighter is better within a target, and the best stage of each snapshot is framed.",
                data=depth,
                draw=partial(_draw_depth, depth),
            )
        )
    return figures


def few_shot_data(evidence: Evidence, measures: Measures) -> pandas.DataFrame:
    """Return the accuracy by target, arm, stage and number of images per class, with its interval and number of seeds."""
    records = [
        {"target": target, "arm": row[0], "stage": row[1], "images": images, **interval_record(accuracy, SHARE)}
        for target in evidence.suite.targets
        for row in evidence.rows
        if row[0] in _FEW_SHOT_ARMS
        for images in measures.numbers("shots_")
        if (accuracy := measures.estimate(f"shots_{images}", row, [target])) is not None
    ]
    return pandas.DataFrame(records, columns=["target", "arm", "stage", "images", "mean", "low", "high", "seeds"])


def depth_data(evidence: Evidence, measures: Measures) -> pandas.DataFrame:
    """Return the validation accuracy by target, snapshot and stage of the network, with its interval and number of seeds."""
    records = [
        {"target": target, "arm": row[0], "stage": row[1], "depth": depth, **interval_record(accuracy, SHARE)}
        for target in evidence.suite.targets
        for row in staged_rows(evidence)
        for depth in measures.numbers("depth_")
        if (accuracy := measures.estimate(f"depth_{depth}", row, [target])) is not None
    ]
    return pandas.DataFrame(records, columns=["target", "arm", "stage", "depth", "mean", "low", "high", "seeds"])


def _draw_few_shot(data: pandas.DataFrame) -> Any:
    from matplotlib.ticker import NullLocator

    targets = list(dict.fromkeys(data.target))
    canvas, panels = make_panels(len(targets), width=3.6, height=3.3)
    lines: dict[str, Any] = {}
    for panel, target in zip(panels, targets, strict=True):
        of_target = data[data.target == target]
        for (arm, stage), points in of_target.groupby(["arm", "stage"], sort=False):
            colour = COLOURS[int(stage) % len(COLOURS)]
            lines[row_name((str(arm), int(stage)))] = panel.plot(
                points.images,
                points["mean"],
                linestyle="-" if arm == "step" else "--",
                marker="o" if arm == "step" else "s",
                color=colour,
                markerfacecolor=colour if arm == "step" else "white",
                markersize=4.5,
                linewidth=1.3,
            )[0]
        panel.set_title(target)
        panel.set_xscale("log")
        panel.set_xlabel("training images per class")
    images = sorted(set(data.images))
    panels[0].set_xticks(images, [str(number) for number in images])
    # A log scale labels minor ticks, too.
    panels[0].xaxis.set_minor_locator(NullLocator())
    canvas.supylabel("target accuracy (headline metric), %", fontsize=9.5)
    canvas.legend(lines.values(), lines, loc="outside lower center", ncols=min(4, len(lines)), frameon=False)
    return canvas


def _draw_depth(data: pandas.DataFrame) -> Any:
    from matplotlib.patches import Rectangle

    targets = list(dict.fromkeys(data.target))
    rows = list(dict.fromkeys(zip(data.arm, data.stage, strict=True)))
    depths = sorted(set(data.depth))
    canvas, panels = make_panels(len(targets), width=1.2 + 0.5 * len(depths), height=0.9 + 0.27 * len(rows))
    for panel, target in zip(panels, targets, strict=True):
        of_target = data[data.target == target].set_index(["arm", "stage", "depth"])["mean"]
        table = of_target.unstack("depth").reindex(index=rows, columns=depths)
        low, high = float(table.min().min()), float(table.max().max())
        panel.imshow(table.to_numpy(), cmap="cividis", aspect="auto", vmin=low, vmax=high if high > low else low + 1)
        panel.grid(visible=False)
        for y, row in enumerate(rows):
            values = table.loc[row]
            for x, value in enumerate(values):
                if pandas.notna(value):
                    is_light = high == low or (value - low) / (high - low) > _LIGHT
                    panel.text(
                        x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color="k" if is_light else "w"
                    )
            if values.notna().any():
                best = int(values.reset_index(drop=True).idxmax())
                panel.add_patch(
                    Rectangle((best - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor="#D55E00", linewidth=1.6)
                )
        panel.set_title(target)
    panels[0].set_xticks(range(len(depths)), [str(depth) for depth in depths])
    panels[0].set_yticks(range(len(rows)), [row_name(row) for row in rows])
    canvas.supxlabel("stage of the network, from the first to the penultimate layer", fontsize=9.5)
    return canvas
