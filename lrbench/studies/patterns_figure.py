"""The figure of studies of patterns: gains at the drop against complexity."""

from functools import partial
from typing import Any

import pandas

from lrbench.leaderboard.figures import COLOURS, Figure, add_legend, make_panels
from lrbench.studies.evidence import StudyEvidence
from lrbench.studies.patterns import AVERAGE, HOLD, STEP


def gain_figure(evidence: StudyEvidence, _outcomes: dict[str, Any]) -> Figure:
    """Return the figure of gains at the drop against complexity."""
    records = []
    for dose in evidence.doses:
        for control, row in (("hold", HOLD), ("average", AVERAGE)):
            if row not in dose.correct or not dose.units:
                continue
            for kind in ("simple", "complex"):
                values = 100 * dose.difference(STEP, row, kind).values
                records += [
                    {
                        "control": control,
                        "kind": kind,
                        "rare": dose.rare,
                        "bits": dose.bits,
                        "unit": unit,
                        "gain": round(gain, 4),
                    }
                    for unit, gain in zip(dose.units, values.tolist(), strict=True)
                ]
    data = pandas.DataFrame(records, columns=["control", "kind", "rare", "bits", "unit", "gain"])
    return Figure(
        name="gain-by-bits",
        title="Gain of simple and complex patterns at the drop, against complexity",
        caption="Accuracy after the drop minus that of a control without it, in points, for each unit (marks) and on average "
        "(lines): left against the held rate, right against the averaged weights. Hollow marks: simple patterns as rare as a "
        "template.",
        data=data,
        draw=partial(_draw_gain, data),
    )


def _draw_gain(data: pandas.DataFrame) -> Any:
    controls = ("hold", "average")
    canvas, panels = make_panels(len(controls), height=3.8)
    for panel, control in zip(panels, controls, strict=True):
        for index, kind in enumerate(("simple", "complex")):
            for rare in (False, True):
                part = data[(data.control == control) & (data.kind == kind) & (data.rare == rare)]
                if not len(part):
                    continue
                shift = 0.08 * (2 * index - 1) + 0.25 * rare
                style = {"color": COLOURS[index], "markerfacecolor": "none" if rare else COLOURS[index]}
                panel.plot(part.bits + shift, part.gain, "os"[index], markersize=4, alpha=0.6, **style)
                means = part.groupby("bits").gain.mean()
                label = f"{kind}{', equally rare' if rare else ''}"
                marker = "D" if rare else "none"
                panel.plot(means.index + shift, means, "-", marker=marker, linewidth=1.4, label=label, **style)
        panel.axhline(0, color="k", linewidth=0.8)
        panel.set_title(f"step − {control}")
        panel.set_xlabel("complexity of complex patterns, bits")
    panels[0].set_ylabel("gain, points")
    add_legend(canvas, panels[0])
    return canvas
