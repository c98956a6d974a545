"""Claims on the boundary under the full batch (B1) and on curvature at the end of a stage (B2).

A study has two suites that differ in the batch alone, at equal updates: one trains on the full batch, one on small batches.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas

from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.figures import COLOURS, Figure, add_legend, make_panels, use_log_scale
from lrbench.stats.intervals import Estimate, Floats, estimate_over_seeds
from lrbench.studies.beliefs import bound, is_complete, is_significant
from lrbench.studies.claims import Case, Decided, StudyClaim, Verdict, too_few
from lrbench.studies.evidence import StudyEvidence

VANISHES, REMAINS = 0.25, 0.5
"""Share of the transition of small batches below which that of the full batch has vanished, and from which it remains."""

AT_EDGE = 0.1
"""Relative distance of curvature from the edge of stability within which it is at the edge."""

BOUNDARY, STEP, HOLD = ("step", 1), ("step", 2), ("hold", 2)


def is_full(suite: Evidence) -> bool:
    """Return whether a suite trains on the full batch."""
    return suite.suite.schedule.batch == "all"


def transition(suite: Evidence) -> Floats:
    """Return the transition index of the training loss: [s(hold) − s(step)] / s(boundary). Shape `(U,)`."""
    loss = suite.fit["loss"]
    return np.array([(loss[HOLD, seed] - loss[STEP, seed]) / loss[BOUNDARY, seed] for seed in suite.seeds])


def edge(suite: Evidence) -> float:
    """Return the curvature at which full-batch gradient descent with momentum β becomes unstable: 2 (1 + β) / η."""
    schedule = suite.suite.schedule
    return 2 * (1 + schedule.momentum) / schedule.rates[0]


def judge_transition(small: Estimate, vanished: Estimate, remaining: Estimate) -> Verdict:
    """Return the verdict on B1.

    Args:
        small: Transition of small batches.
        vanished: Transition of the full batch minus a quarter of that of small batches.
        remaining: The same minus half.
    """
    if not is_significant(small, 1):
        return "inconclusive"
    if is_significant(vanished, -1):
        return "supported"
    return "contradicted" if is_significant(remaining, 1) else "inconclusive"


def judge_edge(distance: Estimate) -> Verdict:
    """Return the verdict on B2 for the full batch, from λ η / 2 (1 + β) − 1."""
    if bound(distance, -1) > -AT_EDGE and bound(distance, 1) < AT_EDGE:
        return "supported"
    # Above the edge; below it, training has not sharpened that far.
    return "contradicted" if bound(distance, -1) > AT_EDGE else "inconclusive"


def _pair(evidence: StudyEvidence) -> tuple[Evidence, Evidence] | None:
    """Return the suites with small batches and with the full batch; None if one of them lacks results."""
    suites = sorted(evidence.suites.values(), key=is_full)
    complete = len(suites) == 2 and all(is_complete(suite, (BOUNDARY, STEP, HOLD), fit=True) for suite in suites)
    if not complete or is_full(suites[0]) or not is_full(suites[1]) or suites[0].seeds != suites[1].seeds:
        return None
    return suites[0], suites[1]


def _missing() -> list[Case]:
    return [Case(name="full batch", reason="no complete pair of suites with small batches and the full batch")]


def _test_transition(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    pair = _pair(evidence)
    if pair is None:
        return _missing()
    small, full = map(transition, pair)
    estimates = [
        estimate_over_seeds(values) for values in (small, full, full - VANISHES * small, full - REMAINS * small)
    ]
    reason = too_few(len(small))
    verdict = "inconclusive" if reason else judge_transition(estimates[0], estimates[2], estimates[3])
    columns = (("small batches", _words(estimates[0])), ("full batch", _words(estimates[1])))
    return [
        Case(
            name=f"full − {VANISHES:g} × small",
            estimate=estimates[2],
            p=estimates[2].p,
            columns=columns,
            reason=reason,
            verdict=verdict,
        )
    ]


def _words(estimate: Estimate) -> str:
    spread = "" if estimate.half_width is None else f" ± {estimate.half_width:.3f}"
    return f"{estimate.mean:+.3f}{spread}".replace("-", "−")


def curvatures(suite: Evidence, name: str, row: Row) -> Floats:
    """Return a measure of curvature divided by 1 / η, the inverse of the rate of stage 1. Shape `(U,)`."""
    rate = suite.suite.schedule.rates[0]
    return np.array([rate * suite.fit[name][row, seed] for seed in suite.seeds])


def _test_edge(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    cases = []
    for suite in evidence.suites.values():
        measured = suite.fit.get("largest_eigenvalue", {})
        if not all((BOUNDARY, seed) in measured for seed in suite.seeds):
            cases.append(Case(name=suite.name, reason="no results with curvature"))
            continue
        values = curvatures(suite, "largest_eigenvalue", BOUNDARY)
        momentum = suite.suite.schedule.momentum
        distance = estimate_over_seeds(values / (2 * (1 + momentum)) - 1)
        reason = too_few(len(values))
        if not reason and is_full(suite) and bound(distance, 1) < -AT_EDGE:
            reason = "edge not reached"
        columns = (
            ("λ η", _mean(values)),
            ("Batch Sharpness × η", _mean(curvatures(suite, "batch_sharpness", BOUNDARY))),
            ("2 (1 + β)", f"{2 * (1 + momentum):g}"),
            ("2 (1 − β)", f"{2 * (1 - momentum):g}"),
            ("λ η above 2", "yes" if values.mean() > 2 else "no"),
        )
        cases.append(
            Case(
                name=f"{suite.name}: λ η / 2 (1 + β) − 1",
                estimate=distance,
                p=distance.p,
                columns=columns,
                # Under small batches, λ is no gauge of stability.
                decides=is_full(suite),
                reason=reason,
                verdict="inconclusive" if reason or not is_full(suite) else judge_edge(distance),
            )
        )
    return cases


def _mean(values: Floats) -> str:
    return f"{values.mean():.2f}"


def _remark_edge(cases: Sequence[Case], _outcomes: Decided) -> str:
    return (
        "The line 2 / η holds for gradient descent without momentum on the full batch. Under small batches, λ stays below it "
        "and Batch Sharpness is the gauge (arXiv 2412.20553): 2 / η without momentum, 2 (1 − β) / η or 2 (1 + β) / η with it. "
        "That λ η is above 2 before a drop, as a common explanation of decay says, has no verdict."
    )


CLAIMS = (
    StudyClaim(
        name="B1",
        title="stages are noise",
        statement="the sharp transition of the training loss at a boundary comes from the noise of small batches: it is above "
        f"zero with them, and with the full batch at equal updates it is below {100 * VANISHES:g} % of that; contradicted if "
        f"it is above {100 * REMAINS:g} %",
        origin="paper",
        sign=-1,
        unit="share of the loss at the boundary",
        scale=1.0,
        test=_test_transition,
        arms=("step", "hold"),
        judges=True,
        phrases={
            "supported": "the transition at a boundary vanishes with the full batch",
            "contradicted": "the transition at a boundary remains with the full batch",
        },
    ),
    StudyClaim(
        name="B2",
        title="edge of stability",
        statement="at the end of stage 1, the largest eigenvalue λ of the Hessian of full-batch training is within "
        f"{100 * AT_EDGE:g} % of 2 (1 + β) / η, for the rate η and momentum β (one-sided 95 % bounds); where it is below, the "
        "edge is not reached and nothing is decided",
        origin="lrbench",
        sign=0,
        unit="relative distance",
        scale=1.0,
        test=_test_edge,
        arms=("step", "hold"),
        judges=True,
        remark=_remark_edge,
        phrases={
            "supported": "full-batch training ends the first stage at the edge of stability",
            "contradicted": "full-batch training is beyond the edge of stability",
        },
    ),
)
"""The claims in the order in which they are decided."""


def transition_figure(evidence: StudyEvidence, _outcomes: dict[str, Any]) -> Figure:
    """Return the figure of training loss before and after the boundary, for small batches and the full batch."""
    records = []
    for suite in evidence.suites.values():
        for row in (BOUNDARY, STEP, HOLD):
            for seed in suite.seeds:
                if (row, seed) in suite.fit.get("loss", {}):
                    batch = "full batch" if is_full(suite) else "small batches"
                    records.append((batch, f"{row[0]}/stage{row[1]}", seed, suite.fit["loss"][row, seed]))
    data = pandas.DataFrame(records, columns=["batch", "snapshot", "unit", "loss"])
    return Figure(
        name="transition",
        title="Training loss at the boundary and after as many updates of both arms",
        caption="A line for each unit: the loss at the boundary, and after stage 2 with the lower and with the held rate.",
        data=data,
        draw=partial(_draw_transition, data),
    )


def _draw_transition(data: pandas.DataFrame) -> Any:
    batches = list(dict.fromkeys(data.batch))
    canvas, panels = make_panels(len(batches), height=3.8)
    for panel, batch in zip(panels, batches, strict=False):
        for index, arm in enumerate(("step", "hold")):
            part = data[data.batch == batch]
            for number, (_, unit) in enumerate(part.groupby("unit")):
                losses = unit.set_index("snapshot").loss
                ends = [losses.get("step/stage1", math.nan), losses.get(f"{arm}/stage2", math.nan)]
                panel.plot([0, 1], ends, marker="os"[index], color=COLOURS[index], label=arm if number == 0 else None)
        panel.set_title(batch)
        panel.set_xticks([0, 1], ["boundary", "after stage 2"])
        use_log_scale(panel)
    panels[0].set_ylabel("training loss")
    add_legend(canvas, panels[0])
    return canvas
