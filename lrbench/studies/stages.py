"""Claims on sharp transitions at a boundary: S1 (the drop of the rate) and S2 (growth of the batch).

The change of a statistic over stage 2 is ranked among its changes over as many epochs elsewhere in the run without decay, the
placebo boundaries.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas
from scipy import stats

from lrbench.config.arms import ARMS
from lrbench.leaderboard.claims import ALPHA
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.figures import COLOURS, Figure, add_legend, make_panels, use_log_scale
from lrbench.stats.intervals import Floats, holm
from lrbench.studies.claims import Case, Decided, StudyClaim, too_few
from lrbench.studies.evidence import StudyEvidence

STATISTICS = {
    "loss": True,
    "gradient_norm": True,
    "weight_norm": True,
    "noise_scale": True,
    "mean_cosine": False,
    "batch_sharpness": False,
}
"""Statistics by name, with whether their changes are those of the logarithm."""


def rows_by_epoch(suite: Evidence) -> dict[int, Row]:
    """Return the snapshots of the run without decay by epoch, from the end of epoch 1."""
    schedule = suite.suite.schedule
    rows: dict[int, Row] = {schedule.boundaries[0]: ("step", 1), schedule.epochs: ("hold", 2)}
    rows |= {epoch: ("trail", number) for number, epoch in enumerate(ARMS["trail"].ends(schedule)) if number}
    return dict(sorted(rows.items()))


def changes(suite: Evidence, name: str, arm: str, seed: int) -> tuple[float, Floats] | None:
    """Return the size of a statistic's change at the boundary and of its changes at the placebo boundaries of one unit.

    Placebo boundaries are in the second half of stage 1 or later, because the first epochs change everything.

    Returns:
        None if a value is missing or not positive where its logarithm is needed.
    """
    schedule, values = suite.suite.schedule, suite.fit.get(name, {})
    boundary, rows = schedule.boundaries[0], rows_by_epoch(suite)
    length = schedule.epochs - boundary

    def value(row: Row) -> float:
        measured = values.get((row, seed), math.nan)
        if not STATISTICS[name]:
            return measured
        return math.log(measured) if measured > 0 else math.nan

    placebos = [
        value(rows[epoch + length]) - value(row)
        for epoch, row in rows.items()
        if 2 * epoch >= boundary and epoch + length in rows
    ]
    change = value((arm, 2)) - value(("step", 1))
    sizes = np.abs(np.array(placebos, dtype=np.float64))
    return (abs(change), sizes) if math.isfinite(change) and len(sizes) and np.isfinite(sizes).all() else None


def rank_p(change: float, placebos: Floats) -> float:
    """Return the p of a change among placebos: (1 + number of placebos at least as large) / (1 + number of placebos)."""
    return float((1 + (placebos >= change).sum()) / (1 + len(placebos)))


def combined_p(ranks: Sequence[float]) -> float:
    """Return the p of all units together (Fisher)."""
    return float(stats.combine_pvalues(ranks, method="fisher").pvalue)


def _test(evidence: StudyEvidence, arm: str) -> list[Case]:
    measured: list[tuple[str, float | None, tuple[tuple[str, str], ...], str]] = []
    for suite in (suite for suite in evidence.suites.values() if arm in suite.suite.arms):
        for name in STATISTICS:
            pairs = [changes(suite, name, arm, seed) for seed in suite.seeds]
            known = [pair for pair in pairs if pair is not None]
            label = f"{suite.name}: {name.replace('_', ' ')}"
            if not known:
                measured.append((label, None, (), "no results"))
                continue
            ranks = [rank_p(*pair) for pair in known]
            columns = (
                ("change at the boundary", f"{np.mean([change for change, _ in known]):.3f}"),
                ("largest placebo", f"{np.mean([sizes.max() for _, sizes in known]):.3f}"),
                ("rank p of the units", ", ".join(f"{rank:.2f}" for rank in ranks)),
            )
            lacking = len(pairs) - len(known)
            reason = f"no value for {lacking} of {len(pairs)} units" if lacking else too_few(len(known))
            measured.append((label, combined_p(ranks), columns, reason))
    # An untested statistic counts in the adjustment, too.
    adjusted = holm([1.0 if p is None else p for _, p, _, _ in measured])
    return [
        Case(
            name=label,
            columns=columns,
            reason=reason,
            p=p,
            adjusted=None if p is None else corrected,
            verdict="supported" if not reason and corrected < ALPHA else "inconclusive",
        )
        for (label, p, columns, reason), corrected in zip(measured, adjusted, strict=True)
    ]


def _test_drop(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    return _test(evidence, "step")


def _test_growth(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    return _test(evidence, "grow")


def _remark(_cases: Sequence[Case], _outcomes: Decided) -> str:
    return (
        "Changes are of logarithms, but for cosines and sharpness. The p of a unit is the rank of the change among placebo "
        "boundaries, whose windows overlap; units are combined by Fisher's method. A rank test cannot contradict."
    )


CLAIMS = (
    StudyClaim(
        name="S1",
        title="sharp transitions",
        statement="statistics of training change more after the drop than over as many epochs anywhere in the second half of "
        "stage 1 or later in the run that holds the rate; the claim holds if it does for every statistic",
        origin="paper",
        sign=1,
        unit="changes, without interval",
        test=_test_drop,
        arms=("step", "hold", "constant", "trail"),
        judges=True,
        remark=_remark,
        phrases={"supported": "the drop is a sharp transition"},
    ),
    StudyClaim(
        name="S2",
        title="transitions by noise",
        statement="the same holds where the batch grows and the rate stays",
        origin="lrbench",
        sign=1,
        unit="changes, without interval",
        test=_test_growth,
        arms=("step", "hold", "constant", "trail", "grow"),
        judges=True,
        remark=_remark,
        phrases={"supported": "growing the batch is a sharp transition"},
    ),
)
"""The claims in the order in which they are decided."""


def course_figure(evidence: StudyEvidence, _outcomes: dict[str, Any]) -> Figure:
    """Return the figure of loss and gradient noise over the epochs of the run without decay, with both transitions."""
    records = []
    for suite in evidence.suites.values():
        ends: list[tuple[str, int, Row]] = [("constant", epoch, row) for epoch, row in rows_by_epoch(suite).items()]
        boundary, last = suite.suite.schedule.boundaries[0], suite.suite.schedule.epochs
        for arm in ("step", "grow"):
            ends += [(arm, boundary, ("step", 1)), (arm, last, (arm, 2))]
        for name in ("loss", "noise_scale"):
            values = suite.fit.get(name, {})
            records += [
                (name, arm, seed, epoch, values[row, seed])
                for arm, epoch, row in ends
                for seed in suite.seeds
                if (row, seed) in values
            ]
    data = pandas.DataFrame(records, columns=["statistic", "arm", "unit", "epoch", "value"])
    return Figure(
        name="course",
        title="Training loss and gradient noise scale over epochs, with and without a drop",
        caption="Means over units. At the boundary, the rate falls in `step` and the batch grows in `grow`.",
        data=data,
        draw=partial(_draw_course, data),
    )


def _draw_course(data: pandas.DataFrame) -> Any:
    names = list(dict.fromkeys(data.statistic))
    canvas, panels = make_panels(len(names), height=3.8, share_y=False)
    for panel, name in zip(panels, names, strict=False):
        for index, (arm, part) in enumerate(data[data.statistic == name].groupby("arm", sort=False)):
            means = part.groupby("epoch").value.mean()
            panel.plot(
                means.index, means.values, marker="o^s"[index % 3], color=COLOURS[index], markersize=3, label=arm
            )
        panel.set_title(name.replace("_", " "))
        panel.set_xlabel("epoch")
        use_log_scale(panel)
    add_legend(canvas, panels[0])
    return canvas
