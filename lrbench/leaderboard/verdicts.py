"""The verdicts in Markdown: one word a claim and target, then every decision with the figures it rests on."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, Claim, Decision, overall
from lrbench.leaderboard.evidence import Column, Evidence, Row
from lrbench.leaderboard.resampling import crossed_bootstrap, image_weights, mcnemar, paired_bootstrap
from lrbench.leaderboard.statistics import Estimate
from lrbench.seeds import generator


def overview(evidence: Evidence, decisions: Sequence[Decision], protocol: str) -> str:
    """A row for each claim, a column for each target: the verdict over all boundaries."""
    rows = []
    for claim in CLAIMS:
        shown = {"claim": f"{claim.name} {claim.title}"}
        for column in tables.of_protocol(evidence, protocol):
            verdict = overall(of(decisions, claim, column))
            shown[column.task] = verdict if verdict == "inconclusive" else f"**{verdict}**"
        rows.append(shown)
    return tables.markdown(rows)


def details(evidence: Evidence, decisions: Sequence[Decision], protocol: str) -> str:
    """A row for each decision, or for all targets at once where the same reason holds for all."""
    rows = []
    columns = tables.of_protocol(evidence, protocol)
    for claim in CLAIMS:
        for boundary in range(1, evidence.suite.schedule.stages):
            family = [each for column in columns for each in of(decisions, claim, column) if each.boundary == boundary]
            reasons = {each.reason for each in family}
            if len(family) > 1 and len(reasons) == 1 and not any(each.effects for each in family):
                rows.append(_row(family[0], "all"))
            else:
                rows += [_row(each, each.column.task) for each in family]
    return tables.markdown(rows)


def within_runs(evidence: Evidence, protocol: str) -> str:
    """What one run alone says: for each seed the difference, its interval over images, and McNemar's p."""
    rows = []
    columns = tables.of_protocol(evidence, protocol)
    # Every protocol, pair and seed sees the same resampled images of a target.
    weights = {
        column: _weights(evidence.name, column.task, values.metric, values.labels.tobytes())
        for column in columns
        if (values := evidence.values.get(column)) is not None
    }
    for row, other in _compared(evidence):
        name = f"{tables.row_name(row)} − {tables.row_name(other)}"
        lines = [{"difference": name, "run": "crossed bootstrap"}]
        lines += [{"difference": name, "run": f"seed {seed}"} for seed in evidence.seeds]
        for column in columns:
            data = evidence.rows_of(column, [row, other])
            for line in lines:
                line[column.task] = tables.NOTHING
            if data is None:
                continue
            difference = data.correct[0] - data.correct[1]
            stream = generator(0, "crossed bootstrap", evidence.name, protocol, column.task, name)
            low, high = crossed_bootstrap(difference, weights[column], stream)
            lines[0][column.task] = f"[{tables.rounded(100 * low, 1)}, {tables.rounded(100 * high, 1)}]"
            ends = paired_bootstrap(difference, weights[column])
            # Of images that are right or wrong, and count alike.
            alike = data.metric == "top1" or len(set(np.bincount(data.labels)) - {0}) == 1
            counts = alike and bool(np.isin(data.correct, (0.0, 1.0)).all())
            ps = mcnemar(data.correct[0] == 1, data.correct[1] == 1)
            for seed, value, low, high, p in zip(data.seeds, data.headlines(difference), *ends, ps, strict=True):
                text = (
                    f"{tables.rounded(100 * value, 1, signed=True)} "
                    f"[{tables.rounded(100 * low, 1)}, {tables.rounded(100 * high, 1)}]"
                )
                lines[1 + evidence.seeds.index(seed)][column.task] = text + (f", p {p_value(p)}" if counts else "")
        rows += lines
    return tables.markdown(rows)


@lru_cache(maxsize=32)
def _weights(suite: str, task: str, metric: str, labels: bytes) -> npt.NDArray[np.float64]:
    return image_weights(np.frombuffer(labels, dtype=np.int64), metric, generator(0, "images", suite, task))


def of(decisions: Sequence[Decision], claim: Claim, column: Column) -> list[Decision]:
    """The decisions of one claim, target and protocol, boundary by boundary."""
    return [each for each in decisions if each.claim == claim and each.column == column]


def effect(claim: Claim, value: Estimate) -> str:
    """An effect with its interval, in the claim's unit."""
    scale, digits = (100, 1) if claim.unit == "points" else (1, 2)
    width = "" if value.half_width is None else f" ± {scale * value.half_width:.{digits}f}"
    return f"{tables.rounded(scale * value.mean, digits, signed=True)}{width}"


def p_value(value: float | None) -> str:
    """A p as it is printed."""
    if value is None:
        return tables.NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _row(decision: Decision, target: str) -> dict[str, str]:
    claim = decision.claim
    scale, digits = (100, 1) if claim.unit == "points" else (1, 2)
    detectable = decision.detectable
    verdict = decision.verdict if decision.verdict == "inconclusive" else f"**{decision.verdict}**"
    return {
        "claim": f"{claim.name} {claim.title}",
        "target": target,
        "boundary": f"stage {decision.boundary} → {decision.boundary + 1}",
        "effect": "; ".join(f"{name}: {effect(claim, value)}" for name, value in decision.effects) or tables.NOTHING,
        "p": p_value(decision.p),
        "p (Holm)": p_value(decision.adjusted),
        "detectable": tables.NOTHING if detectable is None else f"{scale * detectable:.{digits}f}",
        "verdict": verdict + (f" ({decision.reason})" if decision.reason else ""),
    }


def _compared(evidence: Evidence) -> list[tuple[Row, Row]]:
    stages = range(2, evidence.suite.schedule.stages + 1)
    pairs: list[tuple[Row, Row]] = [(("step", stage), ("step", stage - 1)) for stage in stages]
    if "hold" in evidence.suite.arms:
        pairs += [(("step", stage), ("hold", stage)) for stage in stages]
    return pairs
