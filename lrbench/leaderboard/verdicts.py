"""The verdicts in Markdown: one word a claim and target, then every decision with the figures it rests on."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lrbench.core.escaping import for_markdown
from lrbench.core.seeds import generator
from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, Claim, Decision, overall
from lrbench.leaderboard.evidence import Column, Evidence, Row
from lrbench.leaderboard.markup import CHANGE, NOTHING, Marked, bracketed, p_value, rounded, table, with_interval
from lrbench.stats.intervals import Estimate
from lrbench.stats.resampling import crossed_bootstrap, image_weights, mcnemar, paired_bootstrap


def overview(evidence: Evidence, decisions: Sequence[Decision], protocol: str) -> str:
    """A row for each claim, a column for each target: the verdict over all boundaries."""
    rows = []
    for claim in CLAIMS:
        shown: dict[str, str] = {"claim": f"{claim.name} {claim.title}"}
        for column in tables.of_protocol(evidence, protocol):
            verdict = overall(of(decisions, claim, column))
            shown[column.task] = _shown(verdict)
        rows.append(shown)
    return table(rows)


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
    return table(rows)


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
        lines: list[dict[str, str]] = [{"difference": name, "run": "crossed bootstrap"}]
        lines += [{"difference": name, "run": f"seed {seed}"} for seed in evidence.seeds]
        for column in columns:
            data = evidence.rows_of(column, [row, other])
            for line in lines:
                line[column.task] = NOTHING
            if data is None:
                continue
            difference = data.correct[0] - data.correct[1]
            stream = generator(0, "crossed bootstrap", evidence.name, protocol, column.task, name)
            low, high = crossed_bootstrap(difference, weights[column], stream)
            lines[0][column.task] = Marked(bracketed(low, high))
            ends = paired_bootstrap(difference, weights[column])
            # Of images that are right or wrong, and count alike.
            alike = data.metric == "top1" or len(set(np.bincount(data.labels)) - {0}) == 1
            counts = alike and bool(np.isin(data.correct, (0.0, 1.0)).all())
            ps = mcnemar(data.correct[0] == 1, data.correct[1] == 1)
            for seed, value, low, high, p in zip(data.seeds, data.headlines(difference), *ends, ps, strict=True):
                text = f"{rounded(100 * value, 1, signed=True)} {bracketed(low, high)}"
                lines[1 + evidence.seeds.index(seed)][column.task] = Marked(
                    text + (f", p {p_value(p)}" if counts else "")
                )
        rows += lines
    return table(rows)


@lru_cache(maxsize=32)
def _weights(suite: str, task: str, metric: str, labels: bytes) -> npt.NDArray[np.float64]:
    return image_weights(np.frombuffer(labels, dtype=np.int64), metric, generator(0, "images", suite, task))


def of(decisions: Sequence[Decision], claim: Claim, column: Column) -> list[Decision]:
    """The decisions of one claim, target and protocol, boundary by boundary."""
    return [each for each in decisions if each.claim == claim and each.column == column]


def effect(claim: Claim, value: Estimate) -> Marked:
    """An effect with its interval, in the claim's unit."""
    if claim.unit == "points":
        return with_interval(value, CHANGE, signed=True)
    return with_interval(value, None, scale=1, digits=2, signed=True)


def detectable(claim: Claim, value: float | None) -> str:
    """The smallest effect that the seeds can detect, in the claim's unit; `none` where it is larger than any possible one."""
    if value is None:
        return NOTHING
    if claim.unit == "points":
        return f"{100 * value:.1f}" if value <= CHANGE[1] else "none"
    return f"{value:.2f}"


def _shown(verdict: str) -> Marked:
    return Marked(verdict if verdict == "inconclusive" else f"**{verdict}**")


def _row(decision: Decision, target: str) -> dict[str, str]:
    claim = decision.claim
    effects = "; ".join(f"{name}: {effect(claim, value)}" for name, value in decision.effects)
    return {
        "claim": f"{claim.name} {claim.title}",
        "target": target,
        "boundary": f"stage {decision.boundary} → {decision.boundary + 1}",
        "effect": Marked(effects or NOTHING),
        "p": p_value(decision.p),
        "p (Holm)": p_value(decision.adjusted),
        "detectable": NOTHING if decision.reason else detectable(claim, decision.detectable),
        "verdict": Marked(
            _shown(decision.verdict) + (f" ({for_markdown(decision.reason)})" if decision.reason else "")
        ),
    }


def _compared(evidence: Evidence) -> list[tuple[Row, Row]]:
    stages = range(2, evidence.suite.schedule.stages + 1)
    pairs: list[tuple[Row, Row]] = [(("step", stage), ("step", stage - 1)) for stage in stages]
    if "hold" in evidence.suite.arms:
        pairs += [(("step", stage), ("hold", stage)) for stage in stages]
    return pairs
