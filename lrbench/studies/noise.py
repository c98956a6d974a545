"""Claims on wrong training labels: N1 to N5.

M is the share of wrongly labelled training images that are predicted as labelled, F the accuracy on as many rightly labelled
ones. Arms that learn at different speeds are compared at equal F.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas

from lrbench.config.arms import ARMS
from lrbench.leaderboard.evidence import Row
from lrbench.leaderboard.figures import COLOURS, Figure, add_legend, make_panels
from lrbench.stats.images import image_variance
from lrbench.stats.intervals import Floats
from lrbench.stats.matching import SHORTEST, matched_difference, trend
from lrbench.studies.claims import MIN_UNITS, Case, Decided, StudyClaim
from lrbench.studies.evidence import CHANCE, Correct, Dose, StudyEvidence, UnitValues

MARGIN = 0.02
"""Difference in M that counts as none, and loss of F that counts as lower."""

_CLASSES = round(1 / CHANCE)
# Doses without which a trend says nothing.
_FEWEST_DOSES = 3


def memorised(dose: Dose, row: Row) -> Floats:
    """Return M of a snapshot. Shape `(U,)`."""
    return _means(dose.memorised[row])


def fitted(dose: Dose, row: Row) -> Floats:
    """Return F of a snapshot. Shape `(U,)`."""
    return _means(dose.fitted[row])


def _means(hits: Sequence[Correct]) -> Floats:
    return np.array([unit.mean() for unit in hits])


def _difference(hits: dict[Row, list[Correct]], row: Row, other: Row) -> UnitValues:
    """Return the paired difference of two snapshots over a unit's images."""
    pairs = [first - second for first, second in zip(hits[row], hits[other], strict=True)]
    variances = [image_variance(pair, np.zeros(len(pair), dtype=np.int64), "top1") for pair in pairs]
    return UnitValues(values=_means(pairs), variances=np.array(variances))


def trail_rows(dose: Dose, arm: str) -> list[Row]:
    """Return the trained snapshots on the way of `constant` or `small`, which keep one rate."""
    if arm == "constant":
        rows = [row for row in dose.memorised if row[0] in ("trail", "constant") or row in (("step", 1), ("hold", 2))]
    else:
        rows = [row for row in dose.memorised if row[0] in ("small-trail", "small")]
    return [row for row in rows if row[1] > 0]


def at_equal_fit(dose: Dose) -> list[float | None]:
    """Return for each unit M of `constant` minus M of `small` at equal F; None without a common range."""
    curves = {
        arm: [
            (
                np.array([fitted(dose, row)[unit] for row in rows]),
                np.array([memorised(dose, row)[unit] for row in rows]),
            )
            for unit in range(len(dose.units))
        ]
        for arm in ("constant", "small")
        if (rows := trail_rows(dose, arm))
    }
    return [matched_difference(*pair) for pair in zip(curves["constant"], curves["small"], strict=True)]


def _doses(evidence: StudyEvidence) -> list[Dose]:
    return sorted((dose for dose in evidence.doses if dose.wrong), key=lambda dose: dose.wrong)


def _name(dose: Dose) -> str:
    return f"{100 * dose.wrong:g} % wrong labels"


def _shares(dose: Dose, rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Return columns with M and F of snapshots."""
    return tuple(
        (
            f"{row[0]}/stage{row[1]}, M / F",
            f"{100 * memorised(dose, row).mean():.1f} / {100 * fitted(dose, row).mean():.1f}",
        )
        for row in rows
    )


def _floor(dose: Dose, row: Row) -> tuple[str, str]:
    """Return a column with M of a network that ignores wrong labels: its errors fall on the nine other classes alike."""
    right = float(dose.correct[row].mean())
    return f"floor of M at {row[0]}/stage{row[1]}", f"{100 * (1 - right) / (_CLASSES - 1):.1f}"


def _cases(evidence: StudyEvidence, measure: Callable[[Dose], Case]) -> list[Case]:
    """Return a case for each dose."""
    return [
        measure(dose) if dose.units and dose.memorised else Case(name=_name(dose), reason="no results")
        for dose in _doses(evidence)
    ] or [Case(name="wrong labels", reason="the study has no suite with wrong labels")]


def _compared(row: Row, other: Row) -> Callable[[Dose], Case]:
    """Return the test of M of one snapshot against that of another."""

    def measure(dose: Dose) -> Case:
        return Case(
            name=_name(dose),
            estimate=_difference(dose.memorised, row, other).estimate(),
            columns=(*_shares(dose, [row, other]), _floor(dose, row)),
            margin=MARGIN,
            reason=dose.problem,
        )

    return measure


def _test_epochs(evidence: StudyEvidence, _decided: Decided) -> list[Case]:
    return _cases(evidence, _compared(("step", 1), ("small", 1)))


def _test_fit(evidence: StudyEvidence, _decided: Decided) -> list[Case]:
    def measure(dose: Dose) -> Case:
        values = at_equal_fit(dose)
        matched = [value for value in values if value is not None]
        columns = (("units with a common range", f"{len(matched)} of {len(values)}"),)
        if len(matched) < len(values):
            return Case(
                name=_name(dose),
                columns=columns,
                reason=f"not identified: no common range of F of {100 * SHORTEST:g} points",
            )
        array = np.array(matched)
        estimate = UnitValues(values=array, variances=np.zeros(len(array))).estimate()
        return Case(
            name=_name(dose),
            estimate=estimate,
            values=tuple(matched),
            columns=columns,
            margin=MARGIN,
            reason=dose.problem,
        )

    return _cases(evidence, measure)


def _test_release(evidence: StudyEvidence, _decided: Decided) -> list[Case]:
    cases: list[Case] = []
    for dose in _doses(evidence):
        stages = sorted(stage for arm, stage in dose.memorised if arm == "hold")
        for stage in stages or [2]:
            name = f"{_name(dose)}, {stage - 1} → {stage}"
            if not dose.units or not stages:
                cases.append(Case(name=name, reason="no results"))
                continue
            row, control = ("step", stage), ("hold", stage)
            columns = (*_shares(dose, [("step", stage - 1), row, control]), _floor(dose, row))
            released = _difference(dose.memorised, row, control)
            cases.append(
                Case(
                    name=name,
                    estimate=released.estimate(),
                    values=tuple(released.values.tolist()),
                    columns=columns,
                    margin=MARGIN,
                    reason=dose.problem,
                )
            )
    return cases or [Case(name="wrong labels", reason="the study has no suite with wrong labels")]


def _test_average(evidence: StudyEvidence, _decided: Decided) -> list[Case]:
    def measure(dose: Dose) -> Case:
        row, other = ("average", 2), ("step", 2)
        fit = _difference(dose.fitted, row, other).estimate()
        reason = dose.problem
        width = fit.half_width_at(0.90)
        if not reason and (width is None or fit.mean - width < -MARGIN):
            reason = "F of the average may be lower"
        return Case(
            name=_name(dose),
            estimate=_difference(dose.memorised, row, other).estimate(),
            columns=_shares(dose, [row, other]),
            margin=MARGIN,
            reason=reason,
        )

    return _cases(evidence, measure)


def _test_forgetting(evidence: StudyEvidence, _decided: Decided) -> list[Case]:
    def measure(dose: Dose) -> Case:
        last = max(stage for arm, stage in dose.memorised if arm == "step")
        return _compared(("raise", last + 1), ("step", last))(dose)

    return _cases(evidence, measure)


def _trend_remark(direction: Literal["rises", "falls"], cases: Sequence[Case], _decided: Decided) -> str:
    """Return a sentence on the trend over doses, which has no verdict; empty without three doses of the same units."""
    values = [case.values for case in cases]
    if len(values) < _FEWEST_DOSES or len({len(value) for value in values}) > 1 or len(values[0]) < MIN_UNITS:
        return ""
    p = trend((1 if direction == "rises" else -1) * np.transpose(values))
    return f"This effect {direction} with the share of wrong labels: p = {p:.3f} (Page's trend test, one-sided, no verdict)."


CLAIMS = (
    StudyClaim(
        name="N1",
        title="equal epochs",
        statement="after stage 1, the large rate has memorised fewer wrong labels than the small rate after as many epochs; "
        "this alone may be slower learning",
        origin="paper",
        sign=-1,
        unit="points",
        test=_test_epochs,
        arms=("step", "small"),
        wrong=True,
        sets=True,
        phrases={
            "supported": "after equal epochs a large rate has memorised fewer wrong labels",
            "contradicted": "after equal epochs a large rate has memorised more wrong labels",
            "equivalent": "after equal epochs both rates have memorised as many wrong labels",
        },
    ),
    StudyClaim(
        name="N2",
        title="equal fit",
        statement="where both rates fit rightly labelled images equally well, the large rate has memorised fewer wrong labels: "
        "mean difference in M over the common range of F; it decides whether a large rate suppresses memorising",
        origin="paper",
        sign=-1,
        unit="points",
        test=_test_fit,
        arms=("step", "hold", "constant", "trail", "small", "small-trail"),
        wrong=True,
        sets=True,
        phrases={
            "supported": "a large rate suppresses them also at equal fit of right labels",
            "contradicted": "a large rate memorises more of them at equal fit of right labels",
            "equivalent": "at equal fit of right labels both rates memorise alike",
        },
        remark=partial(_trend_remark, "falls"),
    ),
    StudyClaim(
        name="N3",
        title="release",
        statement="lowering the rate memorises more wrong labels than holding it",
        origin="paper",
        sign=1,
        unit="points",
        test=_test_release,
        arms=("step", "hold"),
        wrong=True,
        sets=True,
        phrases={
            "supported": "the drop releases memorising",
            "contradicted": "the drop memorises less than holding the rate",
            "equivalent": "the drop memorises as much as holding the rate",
        },
        remark=partial(_trend_remark, "rises"),
    ),
    StudyClaim(
        name="N4",
        title="average",
        statement="averaging the weights of the run that holds the rate memorises fewer wrong labels than lowering it, and "
        f"fits right labels at most {100 * MARGIN:g} points worse",
        origin="lrbench",
        sign=-1,
        unit="points",
        test=_test_average,
        arms=("step", "average"),
        wrong=True,
        sets=True,
        phrases={
            "supported": "averaging memorises less than the drop",
            "contradicted": "averaging memorises more than the drop",
            "equivalent": "averaging memorises as much as the drop",
        },
    ),
    StudyClaim(
        name="N5",
        title="forgetting",
        statement="raising the rate again after the last stage lowers the share of wrong labels memorised",
        origin="lrbench",
        sign=-1,
        unit="points",
        test=_test_forgetting,
        arms=("step", "raise"),
        wrong=True,
        sets=True,
        phrases={
            "supported": "raising the rate forgets wrong labels",
            "contradicted": "raising the rate does not forget wrong labels",
        },
    ),
)
"""The claims in the order in which they are decided."""


def memorised_figure(evidence: StudyEvidence, _outcomes: dict[str, Any]) -> Figure:
    """Return the figure of M against F on the way of the large and the small rate."""
    records = []
    for dose in _doses(evidence):
        for arm in ("constant", "small") if dose.memorised else ():
            for row in trail_rows(dose, arm):
                records += [
                    {
                        "wrong": dose.wrong,
                        "arm": arm,
                        "unit": unit,
                        "snapshot": f"{row[0]}/stage{row[1]}",
                        "fitted": round(100 * float(f), 4),
                        "memorised": round(100 * float(m), 4),
                    }
                    for unit, f, m in zip(dose.units, fitted(dose, row), memorised(dose, row), strict=True)
                ]
    data = pandas.DataFrame(records, columns=["wrong", "arm", "unit", "snapshot", "fitted", "memorised"])
    return Figure(
        name="memorised-by-fit",
        title="Wrong labels memorised against the fit of right labels, at a large and at a small rate",
        caption="A line for each unit, a mark for each snapshot on the way: at equal fit of rightly labelled images, a lower "
        "line has memorised fewer wrong labels.",
        data=data,
        draw=partial(_draw_memorised, data),
    )


def _draw_memorised(data: pandas.DataFrame) -> Any:
    doses = sorted(set(data.wrong))
    canvas, panels = make_panels(len(doses), height=3.8)
    for panel, dose in zip(panels, doses, strict=False):
        for index, arm in enumerate(("constant", "small")):
            label = f"{arm} ({'large' if arm == 'constant' else 'small'} rate)"
            part = data[(data.wrong == dose) & (data.arm == arm)]
            for number, (_, unit) in enumerate(part.groupby("unit")):
                ordered = unit.sort_values("fitted")
                panel.plot(
                    ordered.fitted,
                    ordered.memorised,
                    marker=ARMS[arm].marker,
                    color=COLOURS[index],
                    markersize=3.5,
                    linewidth=1,
                    alpha=0.8,
                    label=label if number == 0 else None,
                )
        panel.set_title(f"{100 * dose:g} % wrong labels")
        panel.set_xlabel("right labels fitted (F), %")
    panels[0].set_ylabel("wrong labels memorised (M), %")
    add_legend(canvas, panels[0])
    return canvas
