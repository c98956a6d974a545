"""Tables of the decisions on the claims, and of differences within single runs."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lrbench.core.escaping import for_markdown
from lrbench.core.seeds import generator
from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, Claim, Decision, boundary_name, find
from lrbench.leaderboard.evidence import MEAN_OF_TARGETS, Evidence, Row, row_name
from lrbench.leaderboard.markup import (
    CHANGE,
    NOTHING,
    Marked,
    bracketed,
    p_value,
    rounded,
    table,
    verdict_word,
    with_interval,
)
from lrbench.stats.intervals import Estimate
from lrbench.stats.resampling import crossed_bootstrap, image_weights, mcnemar, paired_bootstrap, resample_images


def verdict_table(evidence: Evidence, decisions: Sequence[Decision], protocol: str) -> str:
    """Return the verdict on each claim (rows) on average over targets and for each target (columns), over all boundaries."""
    lines = []
    for claim in CLAIMS:
        line: dict[str, str] = {"claim": f"{claim.name} {claim.title}"}
        for task in (None, *evidence.suite.targets):
            decision = find(decisions, claim, protocol, task, None)
            if decision is not None:
                line[task or MEAN_OF_TARGETS] = verdict_word(decision.verdict, evidence.suite.margin)
        lines.append(line)
    return table(lines) if len(lines[0]) > 1 else ""


def decision_table(evidence: Evidence, decisions: Sequence[Decision], protocol: str) -> str:
    """Return every decision of a protocol; one row for all targets where the same reason applies to all."""
    lines = []
    boundaries = (*range(1, evidence.suite.schedule.stages), None)
    for claim in CLAIMS:
        for boundary in boundaries:
            members = [
                decision
                for decision in decisions
                if (decision.claim.name, decision.protocol, decision.boundary) == (claim.name, protocol, boundary)
            ]
            reasons = {decision.reason for decision in members}
            if len(members) > 1 and len(reasons) == 1 and not any(decision.effects for decision in members):
                lines.append(_decision_row(evidence, members[0], "all"))
            else:
                lines += [_decision_row(evidence, member, member.task or MEAN_OF_TARGETS) for member in members]
    return table(lines)


def _decision_row(evidence: Evidence, decision: Decision, target: str) -> dict[str, str]:
    claim = decision.claim
    effects = "; ".join(f"{name}: {effect(claim, value)}" for name, value in decision.effects)
    reason = f" ({for_markdown(decision.reason)})" if decision.reason else ""
    return {
        "claim": f"{claim.name} {claim.title}",
        "target": target,
        "boundary": boundary_name(decision.boundary),
        "effect": Marked(effects or NOTHING),
        "p": p_value(decision.p),
        "p (Holm)": p_value(decision.adjusted),
        "detectable": NOTHING if decision.reason else detectable(claim, decision.detectable),
        "verdict": Marked(verdict_word(decision.verdict, evidence.suite.margin) + reason),
    }


def effect(claim: Claim, value: Estimate) -> Marked:
    """Return an effect with its interval, in the claim's unit."""
    if claim.unit == "points":
        return with_interval(value, CHANGE, signed=True)
    return with_interval(value, None, scale=1, digits=2, signed=True)


def detectable(claim: Claim, value: float | None) -> str:
    """Return the smallest detectable effect in the claim's unit; `none` if no possible effect is that large."""
    if value is None:
        return NOTHING
    if claim.unit == "points":
        return f"{100 * value:.1f}" if value <= CHANGE[1] else "none"
    return f"{value:.2f}"


def run_differences(evidence: Evidence, protocol: str) -> str:
    """Return the differences within each run, with intervals over images and McNemar's p, and the crossed bootstrap."""
    lines = []
    columns = tables.of_protocol(evidence, protocol)
    # All protocols, pairs and seeds share the resampled images of a target.
    weights = {
        column: _weights(evidence.name, column.task, values.metric, values.labels.tobytes())
        for column in columns
        if (values := evidence.values.get(column)) is not None
    }
    for row, other in _compared(evidence):
        name = f"{row_name(row)} − {row_name(other)}"
        by_run: list[dict[str, str]] = [{"difference": name, "run": "crossed bootstrap"}]
        by_run += [{"difference": name, "run": f"seed {seed}"} for seed in evidence.seeds]
        for column in columns:
            data = evidence.select(column, [row, other])
            for line in by_run:
                line[column.task] = NOTHING
            if data is None:
                continue
            difference = data.correct[0] - data.correct[1]
            stream = generator(0, "crossed bootstrap", evidence.name, protocol, column.task, name)
            resampled = resample_images(difference, weights[column])
            low, high = crossed_bootstrap(resampled, stream)
            by_run[0][column.task] = Marked(bracketed(low, high))
            ends = paired_bootstrap(resampled)
            # McNemar's test needs images that are right or wrong and have equal weights.
            equal_weights = data.metric == "top1" or len(set(np.bincount(data.labels)) - {0}) == 1
            has_p = equal_weights and bool(np.isin(data.correct, (0.0, 1.0)).all())
            ps = mcnemar(data.correct[0] == 1, data.correct[1] == 1)
            for seed, value, low, high, p in zip(data.seeds, data.effect(difference).values, *ends, ps, strict=True):
                text = f"{rounded(100 * value, 1, signed=True)} {bracketed(low, high)}"
                by_run[1 + evidence.seeds.index(seed)][column.task] = Marked(
                    text + (f", p {p_value(p)}" if has_p else "")
                )
        lines += by_run
    return table(lines)


@lru_cache(maxsize=32)
def _weights(suite: str, task: str, metric: str, labels: bytes) -> npt.NDArray[np.float64]:
    return image_weights(np.frombuffer(labels, dtype=np.int64), metric, generator(0, "images", suite, task))


def _compared(evidence: Evidence) -> list[tuple[Row, Row]]:
    """Return the pairs of rows that are compared within runs: `step` and its previous stage, `step` and `hold`."""
    stages = range(2, evidence.suite.schedule.stages + 1)
    pairs: list[tuple[Row, Row]] = [(("step", stage), ("step", stage - 1)) for stage in stages]
    if "hold" in evidence.suite.arms:
        pairs += [(("step", stage), ("hold", stage)) for stage in stages]
    return pairs
