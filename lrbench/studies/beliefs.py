"""Claims on common beliefs about decay: B3 (noise scale), B4 (oscillation) and B5 (escape from bad minima).

They compare `step` with arms that remove one explanation each, at the end of the last stage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas

from lrbench.config.arms import ARMS
from lrbench.leaderboard.claims import ALPHA
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.figures import COLOURS, Figure, make_panels, use_log_scale
from lrbench.stats.images import image_variance
from lrbench.stats.intervals import Estimate, estimate_over_seeds
from lrbench.studies.claims import Case, Decided, StudyClaim, Verdict, too_few
from lrbench.studies.evidence import Correct, StudyEvidence, UnitValues

SAME = 0.01
"""Difference in accuracy within which growing the batch counts as lowering the rate."""

SUFFICES = 0.005
"""Lead of `step` in accuracy below which removing oscillation suffices."""

SAME_LOSS = math.log(1.05)
"""Difference of log training losses below which `small` fits as well as `step`."""

_ARMS = ("step", "hold", "average", "moving-average", "grow", "small")


def last_stage(evidence: Evidence) -> int:
    """Return the number of the schedule's last stage."""
    return evidence.suite.schedule.stages


def accuracies(evidence: Evidence, row: Row) -> Correct:
    """Return whether each unit's test images are predicted correctly. Shape `(U, J)`."""
    return np.array([evidence.source_correct[row, seed] for seed in evidence.seeds], dtype=np.float64)


def difference(evidence: Evidence, row: Row, other: Row) -> UnitValues:
    """Return the paired difference of two snapshots in source accuracy, for each unit."""
    return _unit_values(accuracies(evidence, row) - accuracies(evidence, other))


def _unit_values(values: Correct) -> UnitValues:
    labels = np.zeros(values.shape[1], dtype=np.int64)
    return UnitValues(
        values=values.mean(axis=1), variances=np.array([image_variance(unit, labels, "top1") for unit in values])
    )


def is_complete(evidence: Evidence, rows: Sequence[Row], *, fit: bool = False) -> bool:
    """Return whether every unit has the predictions of snapshots, and with `fit` their training loss."""
    return all(
        (row, seed) in evidence.source_correct and (not fit or (row, seed) in evidence.fit.get("loss", {}))
        for row in rows
        for seed in evidence.seeds
    )


def bound(estimate: Estimate, side: int) -> float:
    """Return the one-sided 95 % bound of a mean, the upper one for side 1 and the lower one for -1; infinite if unknown."""
    width = estimate.half_width_at(0.90)
    return side * math.inf if width is None else estimate.mean + side * width


def is_significant(estimate: Estimate, sign: int) -> bool:
    """Return whether the two-sided test rejects no effect, and the effect has a sign."""
    return estimate.p is not None and estimate.p < ALPHA and estimate.mean * sign > 0


def _cases(
    evidence: StudyEvidence, arms: Sequence[str], measure: Callable[[Evidence], Sequence[Case]], *, fit: bool = False
) -> list[Case]:
    """Return the cases of each suite that has arms; a suite without all results has one case."""
    cases: list[Case] = []
    for suite in evidence.suites.values():
        if not set(arms) <= set(suite.suite.arms):
            continue
        rows = [(arm, last_stage(suite)) for arm in arms]
        if is_complete(suite, rows, fit=fit):
            cases += [replace(case, reason=case.reason or too_few(len(suite.seeds))) for case in measure(suite)]
        else:
            cases.append(Case(name=suite.name, reason="incomplete results"))
    return cases or [Case(name="all suites", reason=f"no suite has the arms {', '.join(arms)}")]


def _decided(case: Case, verdict: Verdict) -> Case:
    """Return a case with a verdict, unless there is a reason against it."""
    estimate = case.estimate
    case = replace(case, p=None if estimate is None else estimate.p)
    return case if case.reason else replace(case, verdict=verdict)


def _judged(cases: Sequence[tuple[Case, Verdict]]) -> list[Case]:
    return [_decided(case, verdict) for case, verdict in cases]


def _shares(evidence: Evidence, rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{arm}/stage{stage}", f"{100 * accuracies(evidence, (arm, stage)).mean():.1f}") for arm, stage in rows
    )


def judge_noise(to_step: Estimate, to_hold: Estimate) -> Verdict:
    """Return the verdict on B3 from the differences of `grow` to `step` and to `hold`."""
    better = is_significant(to_hold, 1)
    if to_step.is_within(SAME) and better:
        return "supported"
    if is_significant(to_step, -1) and to_step.mean < -SAME and not better:
        return "contradicted"
    return "inconclusive"


def _test_noise(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    def measure(suite: Evidence) -> list[Case]:
        step, hold, grow = ((arm, last_stage(suite)) for arm in ("step", "hold", "grow"))
        to_step, to_hold = (difference(suite, grow, other).estimate() for other in (step, hold))
        verdict = judge_noise(to_step, to_hold)
        columns = (*_shares(suite, (grow, step, hold)), ("grow − hold", _words(to_hold)))
        case = Case(name=f"{suite.name}: grow − step", estimate=to_step, columns=columns, reason=_no_effect(suite))
        return _judged([(case, verdict)])

    return _cases(evidence, ("step", "hold", "grow"), measure)


def _no_effect(suite: Evidence) -> str:
    """Return the reason why explanations of the drop decide nothing; empty where the drop is better than holding the rate."""
    stage = last_stage(suite)
    gain = difference(suite, ("step", stage), ("hold", stage)).estimate()
    if reason := too_few(len(suite.seeds)):
        return reason
    return "" if is_significant(gain, 1) else f"the drop gains {_words(gain)} points over holding: no effect to explain"


def _words(estimate: Estimate, scale: float = 100.0) -> str:
    spread = "" if estimate.half_width is None else f" ± {scale * estimate.half_width:.1f}"
    return f"{scale * estimate.mean:+.1f}{spread}".replace("-", "−")


def judge_oscillation(lead: Estimate) -> Verdict:
    """Return the verdict on one case of B4 from the lead of `step`: supported if it needs more than removing oscillation."""
    if bound(lead, 1) < SUFFICES:
        return "contradicted"
    return "supported" if is_significant(lead, 1) else "inconclusive"


def best_of_trail(evidence: Evidence) -> UnitValues | None:
    """Return the lead of `step` over the best of `hold`'s epoch ends, chosen and measured on different halves of the images.

    The halves are the images of even and odd index; both choices are averaged.

    Returns:
        None if the suite has no intermediate snapshots of `hold`'s last stage.
    """
    stage = last_stage(evidence)
    if "trail" not in evidence.suite.arms or stage != 2:
        return None
    first, last = evidence.suite.schedule.boundaries[0], evidence.suite.schedule.epochs
    ends = ARMS["trail"].ends(evidence.suite.schedule)
    rows: list[Row] = [("trail", number) for number, epoch in enumerate(ends) if first < epoch < last]
    rows.append(("hold", stage))
    if not is_complete(evidence, rows):
        return None
    held = np.array([accuracies(evidence, row) for row in rows])
    step = accuracies(evidence, ("step", stage))
    leads = []
    for half in (0, 1):
        chosen = held[:, :, half::2].mean(axis=2).argmax(axis=0)
        best = held[chosen, np.arange(len(chosen)), 1 - half :: 2]
        leads.append(_unit_values(step[:, 1 - half :: 2] - best))
    return UnitValues(
        values=(leads[0].values + leads[1].values) / 2, variances=(leads[0].variances + leads[1].variances) / 4
    )


def _test_oscillation(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    def measure(suite: Evidence) -> list[Case]:
        stage, cases = last_stage(suite), []
        step: Row = ("step", stage)
        for arm in ("average", "moving-average"):
            if arm not in suite.suite.arms or not is_complete(suite, [(arm, stage)]):
                continue
            lead = difference(suite, step, (arm, stage)).estimate()
            columns = _shares(suite, (step, (arm, stage), ("hold", stage)))
            case = Case(
                name=f"{suite.name}: step − {arm}",
                estimate=lead,
                columns=columns,
                reason=_no_effect(suite),
            )
            cases.append((case, judge_oscillation(lead)))
        if (best := best_of_trail(suite)) is not None:
            lead = best.estimate()
            case = Case(name=f"{suite.name}: step − best epoch end of hold", estimate=lead, decides=False)
            cases.append((case, "inconclusive"))
        return _judged(cases)

    return _cases(evidence, ("step", "hold", "average"), measure)


def judge_escape(loss: Estimate, lead: Estimate) -> Verdict:
    """Return the verdict on B5 from log losses, `small` minus `step`, and the lead of `step` in accuracy."""
    if bound(loss, 1) < SAME_LOSS and is_significant(lead, 1):
        return "supported"
    return "contradicted" if is_significant(loss, 1) else "inconclusive"


def log_losses(evidence: Evidence, row: Row, other: Row) -> Estimate:
    """Return the difference of the log training losses of two snapshots, over units."""
    losses = evidence.fit["loss"]
    return estimate_over_seeds(math.log(losses[row, seed] / losses[other, seed]) for seed in evidence.seeds)


def _test_escape(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    def measure(suite: Evidence) -> list[Case]:
        stage = last_stage(suite)
        step, small = ("step", stage), ("small", stage)
        loss, lead = log_losses(suite, small, step), difference(suite, step, small).estimate()
        early: tuple[tuple[str, str], ...] = ()
        if is_complete(suite, [("step", 1), ("small", 1)], fit=True):
            early = (
                ("log loss, small − step, after stage 1", _words(log_losses(suite, ("small", 1), ("step", 1)), 1)),
            )
        columns = (*_shares(suite, (step, small)), ("accuracy, step − small", _words(lead)), *early)
        case = Case(name=suite.name, estimate=loss, columns=columns, reason=too_few(len(suite.seeds)))
        return _judged([(case, judge_escape(loss, lead))])

    return _cases(evidence, ("step", "small"), measure, fit=True)


CLAIMS = (
    StudyClaim(
        name="B3",
        title="noise scale",
        statement="where the drop is better than holding the rate, growing the batch by the factor by which the rate falls, at "
        "the first rate, is as good as the drop: the "
        f"90 % interval of the difference in source accuracy is within ±{100 * SAME:g} point, and growing is better than "
        "holding; contradicted if growing is significantly worse than the drop, by more than "
        f"{100 * SAME:g} point, and not better than holding",
        origin="lrbench",
        sign=1,
        unit="points",
        test=_test_noise,
        judges=True,
        phrases={
            "supported": "growing the batch does what lowering the rate does",
            "contradicted": "growing the batch does not do what lowering the rate does",
        },
    ),
    StudyClaim(
        name="B4",
        title="oscillation",
        statement="decay does more than end oscillation: where the drop is better than holding the rate, it is also more "
        "accurate than averaged weights of the run that holds "
        f"the rate; contradicted if the one-sided 95 % bound of its lead is below {100 * SUFFICES:g} points",
        origin="paper",
        sign=1,
        unit="points",
        test=_test_oscillation,
        judges=True,
        phrases={
            "supported": "the drop does more than end oscillation",
            "contradicted": "averaging the weights of the held rate suffices",
        },
    ),
    StudyClaim(
        name="B5",
        title="escape",
        statement="a large initial rate is not needed to escape bad minima: after as many epochs, a small constant rate fits "
        "the training images as well (one-sided 95 % bound of the loss ratio below 1.05) and is less accurate on test images; "
        "contradicted if its training loss is higher",
        origin="paper",
        sign=1,
        unit="log loss",
        scale=1.0,
        test=_test_escape,
        judges=True,
        phrases={
            "supported": "a small rate fits as well and generalises worse, so escape from bad minima is not the explanation",
            "contradicted": "a small rate fits the training images worse",
        },
    ),
)
"""The claims in the order in which they are decided."""


def arms_figure(evidence: StudyEvidence, _outcomes: dict[str, Any]) -> Figure:
    """Return the figure of source accuracy and training loss after the last stage, by arm."""
    records = []
    for suite in evidence.suites.values():
        stage = last_stage(suite)
        for arm in (arm for arm in _ARMS if arm in suite.suite.arms):
            for seed in suite.seeds:
                key = ((arm, stage), seed)
                if key in suite.source_correct and key in suite.fit.get("loss", {}):
                    accuracy = 100 * float(np.mean(suite.source_correct[key]))
                    records.append((suite.name, arm, seed, round(accuracy, 4), suite.fit["loss"][key]))
    data = pandas.DataFrame(records, columns=["suite", "arm", "unit", "accuracy", "loss"])
    return Figure(
        name="arms",
        title="Test accuracy and training loss after the last stage, by arm",
        caption="A dot for each unit. Left: accuracy on the source's test images. Right: loss on training images.",
        data=data,
        draw=partial(_draw_arms, data),
    )


def _draw_arms(data: pandas.DataFrame) -> Any:
    canvas, panels = make_panels(2, height=3.8, share_y=False)
    arms = [arm for arm in _ARMS if arm in set(data.arm)]
    for panel, column, label in zip(panels, ("accuracy", "loss"), ("test accuracy, %", "training loss"), strict=False):
        for position, arm in enumerate(arms):
            values = data[data.arm == arm][column]
            panel.plot(
                [position] * len(values), values, ARMS[arm].marker, color=COLOURS[position % len(COLOURS)], markersize=5
            )
        panel.set_xticks(range(len(arms)), arms, rotation=30)
        panel.set_ylabel(label)
        if column == "loss":
            use_log_scale(panel)
    return canvas
