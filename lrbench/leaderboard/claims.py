"""The claims, which were fixed before any result, and the decision on each.

Each claim is decided for every target, protocol and boundary; boundary i is between stages i and i + 1. A decision is a
two-sided test of a mean paired difference, adjusted by Holm's method over the targets of one claim, boundary and protocol.
Over all boundaries, a claim is supported if it is supported at every one, and contradicted if it is contradicted at any.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from lrbench.leaderboard.evidence import Column, Evidence, Row, is_without_decay, row_name
from lrbench.stats.intervals import Estimate, change_of_ratio, holm, image_variance
from lrbench.stats.saturation import residual

Verdict = Literal["supported", "contradicted", "inconclusive"]

MIN_SEEDS = 3
_ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement fixed in advance.

    Attributes:
        name: `C1` … `C4`.
        title: Title in a few words.
        statement: Statement about stages i and i + 1.
        sign: Sign of its effect if the claim is true.
        unit: Unit of its effect: `points` of accuracy or error, or `T`.
    """

    name: str
    title: str
    statement: str
    sign: Literal[-1, 1]
    unit: Literal["points", "T"]


CLAIMS = (
    Claim(
        name="C1",
        title="diminishing",
        statement="transferability T is smaller in the next stage than in this one",
        sign=-1,
        unit="T",
    ),
    Claim(
        name="C2",
        title="absolute",
        statement="target accuracy falls from this stage to the next",
        sign=-1,
        unit="points",
    ),
    Claim(
        name="C3",
        title="causal",
        statement="letting the rate fall transfers worse than holding it from the same weights, and worse than the average "
        "of the held weights",
        sign=-1,
        unit="points",
    ),
    Claim(
        name="C4",
        title="beyond saturation",
        statement="target error after the rate falls is larger than the saturation null predicts from source error",
        sign=1,
        unit="points",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Decision on one claim for one target, protocol and boundary.

    Attributes:
        claim: The claim.
        column: Target and protocol.
        boundary: Boundary between stages `boundary` and `boundary + 1`.
        effects: Estimated effects with their names: two for C3, none if nothing can be estimated.
        p: Two-sided, unadjusted p; None if nothing was tested.
        adjusted: p adjusted by Holm's method.
        verdict: Verdict that follows.
        reason: Reason why it is inconclusive regardless of p, in a few words; empty if there is none.
        family: Number of decisions that are adjusted together, including those without results.
    """

    claim: Claim
    column: Column
    boundary: int
    effects: tuple[tuple[str, Estimate], ...] = ()
    p: float | None = None
    adjusted: float | None = None
    verdict: Verdict = "inconclusive"
    reason: str = ""
    family: int = 1

    @property
    def detectable(self) -> float | None:
        """Smallest effect that these seeds can detect by itself, which is that of the noisier effect for C3.

        By itself means that no other target of the family shows an effect, so Holm's method multiplies p by the family's size.
        """
        sizes = [size for _, effect in self.effects if (size := effect.detectable(self.family)) is not None]
        return max(sizes, default=None)


def decide(evidence: Evidence) -> list[Decision]:
    """Decide every claim for every target and protocol of the suite, at every boundary."""
    decisions: list[Decision] = []
    for claim in CLAIMS:
        for protocol in evidence.suite.protocols:
            columns = [column for column in evidence.columns if column.protocol == protocol]
            for boundary in range(1, evidence.suite.schedule.stages):
                decisions += judge_family([_test(evidence, claim, column, boundary) for column in columns])
    return decisions


def overall(decisions: Iterable[Decision]) -> Verdict:
    """Return the verdict over the boundaries of one claim, target and protocol."""
    verdicts = [decision.verdict for decision in decisions]
    if "contradicted" in verdicts:
        return "contradicted"
    return "supported" if verdicts and set(verdicts) == {"supported"} else "inconclusive"


def judge_family(members: Sequence[Decision]) -> list[Decision]:
    """Adjust the p of the decisions of one claim, boundary and protocol by Holm's method, and set their verdicts."""
    # Untested members count too: a verdict must not depend on how many targets have results so far.
    adjusted = holm([1.0 if member.p is None else member.p for member in members])
    judged = []
    for member, p in zip(members, adjusted, strict=True):
        verdict: Verdict = "inconclusive"
        if member.p is not None and not member.reason and p < _ALPHA:
            has_sign = all(np.sign(effect.mean) == member.claim.sign for _, effect in member.effects)
            verdict = "supported" if has_sign else "contradicted"
        judged.append(replace(member, adjusted=None if member.p is None else p, verdict=verdict, family=len(members)))
    return judged


def _test(evidence: Evidence, claim: Claim, column: Column, boundary: int) -> Decision:
    """Estimate and test the effect of a claim, without a verdict."""
    outcome = _MEASURES[claim.name](evidence, column, boundary)
    untested = Decision(claim=claim, column=column, boundary=boundary)
    if isinstance(outcome, str):
        return replace(untested, reason=outcome)
    effects, p = outcome
    seeds, expected = min(effect.seeds for _, effect in effects), len(evidence.seeds)
    reason = ""
    if expected < MIN_SEEDS:
        reason = f"{expected} pretraining seed{'s' if expected != 1 else ''}, at least {MIN_SEEDS} are needed"
    elif seeds < expected:
        reason = f"incomplete: {seeds} of {expected} seeds"
    return replace(untested, effects=effects, p=p, reason=reason)


_Outcome = tuple[tuple[tuple[str, Estimate], ...], float | None]
"""Effects by name, and the two-sided p of their test."""


def _missing_results(evidence: Evidence, column: Column, rows: Sequence[Row]) -> str:
    """Return the reason why rows have no seed in common."""
    missing = [row_name(row) for row in rows if evidence.accuracy(row, column) is None]
    if len(missing) == len(rows):
        return "no results"
    if not missing:
        return "no seed has results of all snapshots needed"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"no results of {missing[0]}{more}"


def _absolute(evidence: Evidence, column: Column, boundary: int) -> _Outcome | str:
    difference = evidence.difference(("step", boundary + 1), ("step", boundary), column)
    if difference is None:
        return _missing_results(evidence, column, [("step", boundary), ("step", boundary + 1)])
    name = f"stage {boundary + 1} − stage {boundary}"
    return ((name, difference),), difference.p


def _causal(evidence: Evidence, column: Column, boundary: int) -> _Outcome | str:
    stage = boundary + 1
    effects = []
    for control in ("hold", "average"):
        if control not in evidence.suite.arms:
            return f"the suite has no arm {control}"
        if not evidence.suite.uses(column.protocol, control):
            return f"the suite does not use {column.protocol} on the arm {control}"
    for control in ("hold", "average"):
        difference = evidence.difference(("step", stage), (control, stage), column)
        if difference is None:
            return _missing_results(evidence, column, [("step", stage), ("hold", stage), ("average", stage)])
        effects.append((f"step − {control}", difference))
    ps = [(effect.mean, effect.p) for _, effect in effects if effect.p is not None]
    if len(ps) < len(effects):
        return tuple(effects), None
    above = [p for mean, p in ps if mean > 0]
    # The claim needs both effects below zero, so the larger p decides. One effect above zero contradicts it; its p is doubled
    # because there were two chances.
    p = min(1.0, 2 * min(above)) if above else max(p for _, p in ps)
    return tuple(effects), p


def _diminishing(evidence: Evidence, column: Column, boundary: int) -> _Outcome | str:
    rows: list[Row] = [("step", boundary - 1), ("step", boundary), ("step", boundary + 1)]
    data = evidence.select(column, rows, with_source=True)
    if data is None:
        return _missing_results(evidence, column, rows)
    for before, after in pairwise(rows):
        gain = evidence.source_difference(after, before)
        if gain is None or gain.mean == 0 or (gain.half_width is not None and not gain.excludes_zero):
            return f"T of stage {after[1]} is undefined: the source's gain is not significantly different from zero"
        if gain.mean < 0 and gain.half_width is not None:
            return f"T of stage {after[1]} is undefined: the source lost accuracy"
    source = np.array([[evidence.source[row, seed] for seed in data.seeds] for row in rows])
    first, second = data.correct[1] - data.correct[0], data.correct[2] - data.correct[1]
    effect, p = change_of_ratio(
        np.array([data.headlines(first), data.headlines(second)]),
        np.diff(source, axis=0),
        lambda a, b: image_variance(
            (a * first + b * second).mean(axis=0), data.labels, data.metric, float(np.hypot(a, b))
        ),
    )
    return ((f"T of stage {boundary + 1} − T of stage {boundary}", effect),), p


def _beyond_saturation(evidence: Evidence, column: Column, boundary: int) -> _Outcome | str:
    row: Row = ("step", boundary + 1)
    suite = evidence.suite
    null_rows = [
        null_row
        for null_row in evidence.rows
        if is_without_decay(suite, null_row) and suite.uses(column.protocol, null_row[0])
    ]
    data = evidence.select(column, [*null_rows, row], with_source=True)
    if data is None:
        return _missing_results(evidence, column, [row, *null_rows])
    errors = [np.array([1 - evidence.source[null_row, seed] for null_row in null_rows]) for seed in data.seeds]
    above_null = residual(
        errors,
        [data.correct[:-1, position] for position in range(len(data.seeds))],
        [1 - evidence.source[row, seed] for seed in data.seeds],
        data.correct[-1],
        data.labels,
        data.metric,
        evidence.name,
        column.protocol,
        column.task,
        boundary,
    )
    if above_null.estimate is None:
        return above_null.reason
    return ((f"stage {row[1]}: error observed − predicted", above_null.estimate),), above_null.estimate.p


_MEASURES: dict[str, Callable[[Evidence, Column, int], _Outcome | str]] = {
    "C1": _diminishing,
    "C2": _absolute,
    "C3": _causal,
    "C4": _beyond_saturation,
}
