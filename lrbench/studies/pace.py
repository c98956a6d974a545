"""Claims on ending stages by a rule: A1 (epochs saved) and A2 (better than the same saving without a rule)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas

from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.figures import COLOURS, Figure, make_panels
from lrbench.stats.intervals import Estimate, Floats, estimate_over_seeds
from lrbench.studies.beliefs import accuracies, bound, difference, is_complete, is_significant, last_stage
from lrbench.studies.claims import Case, Decided, StudyClaim, Verdict, too_few
from lrbench.studies.evidence import StudyEvidence

WORSE = 0.005
"""Loss of accuracy that still counts as no worse."""

_ARMS = ("step", "auto", "short")


def epochs(suite: Evidence, row: Row) -> Floats:
    """Return the epochs of training of a snapshot. Shape `(U,)`."""
    known = {
        entry.pretraining_seed: entry.epoch
        for entry in suite.entries
        if (entry.arm, entry.stage) == row and entry.epoch is not None
    }
    return np.array([known[seed] for seed in suite.seeds], dtype=np.float64)


def judge_saving(saved: Estimate, lead: Estimate) -> Verdict:
    """Return the verdict on A1 from the share of epochs saved and the lead of `auto` over `step`."""
    if bound(saved, -1) > 0 and bound(lead, -1) > -WORSE:
        return "supported"
    return "contradicted" if saved.mean <= 0 or bound(lead, 1) < -WORSE else "inconclusive"


def _rows(suite: Evidence) -> dict[str, Row]:
    return {arm: (arm, last_stage(suite)) for arm in _ARMS}


def _columns(suite: Evidence) -> tuple[tuple[str, str], ...]:
    rows = _rows(suite)
    return tuple(
        (
            f"{arm}: accuracy, epochs",
            f"{100 * accuracies(suite, row).mean():.1f}, {epochs(suite, row).mean():.1f}",
        )
        for arm, row in rows.items()
    )


def _complete(evidence: StudyEvidence) -> list[Evidence]:
    return [suite for suite in evidence.suites.values() if is_complete(suite, list(_rows(suite).values()))]


def _incomplete(evidence: StudyEvidence) -> list[Case]:
    complete = _complete(evidence)
    return [
        Case(name=suite.name, reason="incomplete results")
        for suite in evidence.suites.values()
        if suite not in complete
    ]


def _test_saving(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    cases = []
    for suite in _complete(evidence):
        rows, reason = _rows(suite), too_few(len(suite.seeds))
        saved = estimate_over_seeds(1 - epochs(suite, rows["auto"]) / epochs(suite, rows["step"]))
        lead = difference(suite, rows["auto"], rows["step"]).estimate()
        spread = "" if lead.half_width is None else f" ± {100 * lead.half_width:.1f}"
        cases.append(
            Case(
                name=suite.name,
                estimate=saved,
                p=saved.p,
                columns=(
                    ("auto − step, points", f"{100 * lead.mean:+.1f}{spread}".replace("-", "−")),
                    *_columns(suite),
                ),
                reason=reason,
                verdict="inconclusive" if reason else judge_saving(saved, lead),
            )
        )
    return [*cases, *_incomplete(evidence)]


def judge_rule(lead: Estimate) -> Verdict:
    """Return the verdict on A2 from the lead of `auto` over `short`."""
    if is_significant(lead, 1):
        return "supported"
    if is_significant(lead, -1):
        return "contradicted"
    return "equivalent" if lead.is_within(WORSE) else "inconclusive"


def _test_rule(evidence: StudyEvidence, _outcomes: Decided) -> list[Case]:
    cases = []
    for suite in _complete(evidence):
        rows, reason = _rows(suite), too_few(len(suite.seeds))
        lead = difference(suite, rows["auto"], rows["short"]).estimate()
        if not reason and (epochs(suite, rows["auto"]) == suite.suite.schedule.epochs).all():
            reason = "no stage ended early"
        cases.append(
            Case(
                name=suite.name,
                estimate=lead,
                p=lead.p,
                columns=_columns(suite),
                margin=WORSE,
                reason=reason,
                verdict="inconclusive" if reason else judge_rule(lead),
            )
        )
    return [*cases, *_incomplete(evidence)]


def _remark_saving(_cases: Sequence[Case], _outcomes: Decided) -> str:
    return (
        "The abstract of the paper's first version says that its own method, whose rule is not known to us, shortens ResNet-50 "
        "on ImageNet by 10 %. That figure is no bar here."
    )


CLAIMS = (
    StudyClaim(
        name="A1",
        title="saving",
        statement="ending stages by a rule on the training loss trains for fewer epochs than `step`, and is at most "
        f"{100 * WORSE:g} points less accurate (one-sided 95 % bounds)",
        origin="paper",
        sign=1,
        unit="% of the epochs",
        test=_test_saving,
        arms=_ARMS,
        judges=True,
        remark=_remark_saving,
        phrases={
            "supported": "a rule saves epochs without loss",
            "contradicted": "a rule saves no epochs without loss",
        },
    ),
    StudyClaim(
        name="A2",
        title="rule",
        statement="in as many epochs, the boundaries that the rule chooses are better than `step`'s, moved in proportion",
        origin="lrbench",
        sign=1,
        unit="points",
        test=_test_rule,
        arms=_ARMS,
        judges=True,
        phrases={
            "supported": "its boundaries are better than proportional ones",
            "contradicted": "its boundaries are worse than proportional ones",
            "equivalent": "its boundaries are as good as proportional ones",
        },
    ),
)
"""The claims in the order in which they are decided."""


def pace_figure(evidence: StudyEvidence, _outcomes: dict[str, Any]) -> Figure:
    """Return the figure of source accuracy against epochs of training, by arm."""
    records = [
        (suite.name, arm, seed, count, round(100 * float(share), 4))
        for suite in _complete(evidence)
        for arm, row in _rows(suite).items()
        for seed, count, share in zip(suite.seeds, epochs(suite, row), accuracies(suite, row).mean(axis=1), strict=True)
    ]
    data = pandas.DataFrame(records, columns=["suite", "arm", "unit", "epochs", "accuracy"])
    return Figure(
        name="pace",
        title="Test accuracy against epochs of training, by arm",
        caption="A dot for each unit.",
        data=data,
        draw=partial(_draw_pace, data),
    )


def _draw_pace(data: pandas.DataFrame) -> Any:
    canvas, panels = make_panels(1, height=3.8)
    for index, arm in enumerate(_ARMS):
        part = data[data.arm == arm]
        panels[0].plot(part.epochs, part.accuracy, "o^s"[index], color=COLOURS[index], label=arm)
    panels[0].set_xlabel("epochs")
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend()
    return canvas
