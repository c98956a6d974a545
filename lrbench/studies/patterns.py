"""Claims on simple and complex patterns: P0 to P5, decided on evaluation sets of one kind of pattern each.

A boundary is at the end of stage 1. The *contrast* is the gain of complex patterns from the drop minus that of simple ones:
[step − hold, complex] − [step − hold, simple] at stage 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas

from lrbench.leaderboard.figures import COLOURS, Figure, add_legend, make_panels
from lrbench.leaderboard.markup import rounded
from lrbench.stats.intervals import Estimate
from lrbench.studies.claims import Case, Decided, StudyClaim, Verdict, too_few
from lrbench.studies.evidence import CHANCE, Dose, StudyEvidence, UnitValues, slope

BOUNDARY, STEP, HOLD, AVERAGE = ("step", 1), ("step", 2), ("hold", 2), ("average", 2)

NULL_MARGIN = 0.02
"""Largest difference between the kinds where they have the same distribution."""
AVERAGE_MARGIN = 0.02
"""Difference from the average that counts as none."""
RARITY_MARGIN = 0.03
"""Contrast between equally rare patterns that counts as none."""
LEARNED_MARGIN = 0.02
"""Accuracy above chance from which a pattern counts as learned."""
CEILING = 0.98
"""Accuracy above which a difference has no room."""
LARGEST_GAP = 0.05
"""Gap between training and test accuracy on complex patterns from which a network memorises images."""


def contrast(dose: Dose) -> UnitValues:
    """Return by how much the drop helps complex patterns more than simple ones."""
    return dose.difference(STEP, HOLD, "complex") - dose.difference(STEP, HOLD, "simple")


def _doses(evidence: StudyEvidence, *, rare: bool = False) -> list[Dose]:
    return sorted((dose for dose in evidence.doses if dose.rare == rare), key=lambda dose: dose.bits)


def _common(doses: Sequence[Dose], measure: Callable[[Dose], UnitValues]) -> list[UnitValues] | None:
    """Return values at doses over the units that all of them have; None without such units."""
    units = [unit for unit in doses[0].units if all(unit in dose.units for dose in doses)]
    if not units:
        return None
    values = []
    for dose in doses:
        positions = [dose.units.index(unit) for unit in units]
        measured = measure(dose)
        values.append(UnitValues(values=measured.values[positions], variances=measured.variances[positions]))
    return values


def _test_null(evidence: StudyEvidence, _decided: Decided) -> list[Case]:
    """Return a case for each trained snapshot at K = 1; equivalence is tested, so that the claim judges itself."""
    nulls = [dose for dose in _doses(evidence) if dose.templates == 1]
    if not nulls:
        return [Case(name="K = 1", reason="the study has no suite with K = 1")]
    cases = []
    for dose in nulls:
        for row in (row for row in dose.correct if row[1] > 0):
            name = f"{row[0]}, stage {row[1]}"
            if not dose.units:
                cases.append(Case(name=name, reason="no results"))
                continue
            estimate = (dose.accuracy(row, "complex") - dose.accuracy(row, "simple")).estimate()
            cases.append(_equivalence(name, estimate, dose.problem))
    return cases


def _equivalence(name: str, estimate: Estimate, problem: str) -> Case:
    """Return a case, supported if the 90 % interval is inside ±`NULL_MARGIN`, contradicted if the 95 % one is outside."""
    case = Case(name=name, estimate=estimate, margin=NULL_MARGIN, reason=problem or too_few(estimate.seeds))
    if estimate.p is None:
        return case
    case = replace(case, p=estimate.p)
    verdict: Verdict = "inconclusive"
    if not case.reason and estimate.is_within(NULL_MARGIN):
        verdict = "supported"
    elif not case.reason and abs(estimate.mean) - (estimate.half_width or 0.0) > NULL_MARGIN:
        verdict = "contradicted"
    return replace(case, verdict=verdict)


def _null_problem(decided: Decided) -> str:
    """Return the reason why nothing is decided if P0 is not supported; empty if it is, or if the study does not test it."""
    null = decided.get("P0")
    return "" if null is None or null.verdict == "supported" else "the null check P0 is not supported"


def _not_learned(dose: Dose) -> str:
    """Return the reason why complex patterns of a dose decide nothing; empty if they do."""
    if dose.problem:
        return dose.problem
    if all(dose.shares(row, "complex").mean() < CHANCE + LEARNED_MARGIN for row in (STEP, HOLD)):
        return "complex patterns are not learned"
    gap = _gap(dose)
    if gap is not None and gap >= LARGEST_GAP:
        return f"images are memorised: gap of {100 * gap:.1f} points"
    return ""


def _gap(dose: Dose) -> float | None:
    """Return training minus test accuracy of `step` on complex patterns, at the end; None without the measure."""
    fitted = dose.report.get("train_complex", {}).get(STEP)
    return None if fitted is None or not len(fitted) else float((fitted - dose.shares(STEP, "complex")).mean())


def _accuracies(dose: Dose, rows: Sequence[tuple[str, int]]) -> tuple[tuple[str, str], ...]:
    """Return columns with the accuracy on complex and simple patterns for snapshots."""
    return tuple(
        (
            f"{row[0]}/stage{row[1]}, complex / simple",
            " / ".join(f"{100 * dose.shares(row, kind).mean():.1f}" for kind in ("complex", "simple")),
        )
        for row in rows
    )


def _test_order(evidence: StudyEvidence, decided: Decided) -> list[Case]:
    doses = [dose for dose in _doses(evidence) if dose.units]
    values = (
        _common(doses, lambda dose: dose.accuracy(BOUNDARY, "simple") - dose.accuracy(BOUNDARY, "complex"))
        if len(doses) > 1
        else None
    )
    name = "slope over bits"
    if values is None:
        return [Case(name=name, reason="fewer than two doses have results")]
    reason = _null_problem(decided) or next((dose.problem for dose in doses if dose.problem), "")
    columns = tuple(
        (f"K = {dose.templates}", rounded(100 * value.values.mean(), 1, signed=True))
        for dose, value in zip(doses, values, strict=True)
    )
    estimate = slope([dose.bits for dose in doses], values).estimate()
    return [Case(name=name, estimate=estimate, columns=columns, reason=reason)]


def _log_odds(dose: Dose) -> Estimate:
    values = dose.log_odds_difference(STEP, HOLD, "complex") - dose.log_odds_difference(STEP, HOLD, "simple")
    return UnitValues(values=values, variances=np.zeros(len(values))).estimate()


def _test_drop(evidence: StudyEvidence, decided: Decided) -> list[Case]:
    cases = []
    for dose in _doses(evidence):
        if not dose.units:
            cases.append(Case(name=dose.name, reason="no results", decides=dose.templates > 1))
            continue
        estimate, odds = contrast(dose).estimate(), _log_odds(dose)
        spread = "" if odds.half_width is None else f" ± {odds.half_width:.2f}"
        gap = _gap(dose)
        columns = (
            *_accuracies(dose, (BOUNDARY, STEP, HOLD)),
            ("gap, points", "—" if gap is None else rounded(100 * gap, 1)),
            ("log-odds", f"{rounded(odds.mean, 2, signed=True)}{spread}"),
        )
        cases.append(
            Case(
                name=dose.name,
                estimate=estimate,
                columns=columns,
                margin=NULL_MARGIN,
                # K = 1 is the null, which P0 tests.
                decides=dose.templates > 1,
                reason=_not_learned(dose) or _null_problem(decided),
                note="depends on the scale" if estimate.mean * odds.mean < 0 else "",
            )
        )
    return cases


def _test_dose(evidence: StudyEvidence, decided: Decided) -> list[Case]:
    doses = [dose for dose in _doses(evidence) if dose.units and _has_room(dose)]
    name = "slope over bits"
    if len(doses) < 3:
        return [Case(name=name, reason=f"{len(doses)} doses have room, 3 are needed")]
    values = _common(doses, contrast)
    if values is None:
        return [Case(name=name, reason="no unit has results of all doses")]
    reason = _null_problem(decided) or next((reason for dose in doses if (reason := _not_learned(dose))), "")
    columns = tuple(
        (f"K = {dose.templates}", rounded(100 * value.values.mean(), 1, signed=True))
        for dose, value in zip(doses, values, strict=True)
    )
    return [
        Case(
            name=name,
            estimate=slope([dose.bits for dose in doses], values).estimate(),
            columns=columns,
            reason=reason,
        )
    ]


def _has_room(dose: Dose) -> bool:
    """Return whether the drop could help complex patterns; at K = 1 the contrast is zero by construction."""
    held = float(dose.shares(HOLD, "complex").mean())
    return dose.templates == 1 or CHANCE + LEARNED_MARGIN <= held <= CEILING


def _test_average(evidence: StudyEvidence, decided: Decided) -> list[Case]:
    cases = []
    for dose in _doses(evidence):
        if dose.templates == 1:
            continue
        if not dose.units:
            cases.append(Case(name=dose.name, reason="no results"))
            continue
        cases.append(
            Case(
                name=dose.name,
                estimate=dose.difference(STEP, AVERAGE, "complex").estimate(),
                columns=_accuracies(dose, [STEP, AVERAGE, *_other_averages(dose)]),
                margin=AVERAGE_MARGIN,
                reason=_not_learned(dose) or _null_problem(decided),
            )
        )
    return cases


def _other_averages(dose: Dose) -> list[tuple[str, int]]:
    return [row for row in (("tail-average", 2), ("moving-average", 2)) if row in dose.correct]


def _remark_average(cases: Sequence[Case], decided: Decided) -> str:
    drop = decided.get("P2")
    suffices = [
        case.name
        for case in cases
        if case.verdict in ("contradicted", "equivalent")
        and drop is not None
        and (gain := drop.find(case.name)) is not None
        and gain.verdict == "supported"
    ]
    if not suffices:
        return ""
    return (
        f"Averaging suffices at {' and '.join(suffices)}: the averaged weights of the run without a drop learn as much, so the "
        "gain at the drop does not need a small rate there. P2 without P4 is the belief that decay removes oscillation, which "
        "the paper calls insufficient."
    )


def _test_rarity(evidence: StudyEvidence, decided: Decided) -> list[Case]:
    cases = []
    for dose in _doses(evidence, rare=True):
        if not dose.units:
            cases.append(Case(name=dose.name, reason="no results"))
            continue
        common = next((other for other in _doses(evidence) if other.templates == dose.templates), None)
        drop = decided["P2"].find(common.name) if "P2" in decided and common is not None else None
        reason = _not_learned(dose) or _null_problem(decided)
        if not reason and (drop is None or drop.verdict != "supported"):
            reason = "P2 is not supported at this K, so there is no effect to explain"
        cases.append(
            Case(
                name=dose.name,
                estimate=contrast(dose).estimate(),
                columns=_accuracies(dose, (BOUNDARY, STEP, HOLD)),
                margin=RARITY_MARGIN,
                reason=reason,
            )
        )
    return cases or [Case(name="equally rare", reason="the study has no suite with equally rare patterns")]


def _remark_rarity(cases: Sequence[Case], _decided: Decided) -> str:
    if any(case.verdict in ("contradicted", "equivalent") for case in cases):
        return "A simple pattern that is as rare as one template gains as much: what the drop helps is what is rare."
    return ""


CLAIMS = (
    StudyClaim(
        name="P0",
        title="null",
        statement="at K = 1, where the kinds have the same distribution, their accuracies differ by less than "
        f"{100 * NULL_MARGIN:g} points in every snapshot (two one-sided tests at 5 %); otherwise this study decides nothing",
        origin="lrbench",
        sign=0,
        unit="points",
        test=_test_null,
        arms=("step", "hold"),
        sets=True,
        judges=True,
        phrases={"contradicted": "the null check fails"},
    ),
    StudyClaim(
        name="P1",
        title="order",
        statement="after stage 1, the lead of simple over complex patterns grows with the complexity: the slope over bits in "
        "each unit is above zero",
        origin="paper",
        sign=1,
        unit="points per bit",
        test=_test_order,
        arms=("step",),
        sets=True,
        phrases={
            "supported": "complex patterns are learned later than simple ones",
            "contradicted": "complex patterns are not learned later than simple ones",
        },
    ),
    StudyClaim(
        name="P2",
        title="drop",
        statement="lowering the rate, compared with holding it, helps complex patterns more than simple ones, in points; a "
        f"case decides nothing if complex patterns are not learned or training and test differ by {100 * LARGEST_GAP:g} points",
        origin="paper",
        sign=1,
        unit="points",
        test=_test_drop,
        arms=("step", "hold"),
        sets=True,
        phrases={
            "supported": "the drop helps complex patterns more",
            "contradicted": "the drop helps simple patterns more",
            "equivalent": "the drop helps both kinds alike",
        },
    ),
    StudyClaim(
        name="P3",
        title="dose",
        statement="the more complex the pattern, the larger this contrast: the slope over bits in each unit is above zero, "
        "over at least three doses with room for a gain: K = 1, and those where the held run is right on "
        f"{100 * (CHANCE + LEARNED_MARGIN):g} to {100 * CEILING:g} % of complex patterns",
        origin="lrbench",
        sign=1,
        unit="points per bit",
        test=_test_dose,
        arms=("step", "hold"),
        sets=True,
        phrases={
            "supported": "this gain grows with complexity",
            "contradicted": "this gain falls with complexity",
        },
    ),
    StudyClaim(
        name="P4",
        title="needs the small rate",
        statement="lowering the rate learns complex patterns better than averaging the weights of the run that holds it; no "
        f"difference beyond {100 * AVERAGE_MARGIN:g} points means that averaging suffices",
        origin="lrbench",
        sign=1,
        unit="points",
        test=_test_average,
        arms=("step", "average"),
        sets=True,
        phrases={
            "supported": "it needs the small rate",
            "contradicted": "averaging without a small rate does better",
            "equivalent": "averaging without a small rate suffices",
        },
        remark=_remark_average,
    ),
    StudyClaim(
        name="P5",
        title="entropy, not rarity",
        statement="the contrast is above zero also where a simple pattern is as rare as one template; no difference beyond "
        f"{100 * RARITY_MARGIN:g} points, or one below zero, speaks for rarity",
        origin="lrbench",
        sign=1,
        unit="points",
        test=_test_rarity,
        arms=("step", "hold"),
        sets=True,
        phrases={
            "supported": "rarity does not explain it",
            "contradicted": "what the drop helps is what is rare",
            "equivalent": "what the drop helps is what is rare",
        },
        remark=_remark_rarity,
    ),
)
"""The claims in the order in which they are decided."""


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
