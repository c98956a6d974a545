"""The claims, fixed before any result, and what the results say of each.

Each claim is decided for every target, protocol and boundary; boundary i lies between stages i and i + 1. A decision is a
two-sided test from the interval of a mean paired difference, adjusted by Holm over the targets of one claim, boundary and
protocol. Overall a claim is supported where it is at every boundary, contradicted where it is at any.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from lrbench.leaderboard.evidence import Column, Evidence, Row, without_decay
from lrbench.stats.intervals import Estimate, change_of_ratio, holm, image_variance
from lrbench.stats.saturation import residual

Verdict = Literal["supported", "contradicted", "inconclusive"]

LEAST_SEEDS = 3
_ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement fixed in advance.

    Attributes:
        name: `C1` … `C4`.
        title: In a few words.
        statement: What it says of stages i and i + 1.
        sign: Sign that its effect has where it is true.
        unit: What its effect is in: `points` of accuracy or error, or `T`.
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
        statement="transferability T of the next stage is smaller than T of this one",
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
        statement="target error after the rate has fallen is larger than the saturation null predicts from source error",
        sign=1,
        unit="points",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the results say of one claim, for one target, protocol and boundary.

    Attributes:
        claim: Which claim.
        column: Target and protocol.
        boundary: Between stages `boundary` and `boundary + 1`.
        effects: What was estimated, by name; two for C3. Empty where nothing could be.
        p: Two-sided, unadjusted; None where nothing was tested.
        adjusted: After Holm.
        verdict: What follows.
        reason: Why it is inconclusive, in a few words, where that is not the p alone.
        family: Number of decisions that are adjusted together, whether or not there is anything to test yet.
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
        """The smallest effect that these seeds could have shown by itself: of the noisier one where there are two.

        By itself: where no other target of the family shows anything, so that its p counts as often as there are targets.
        """
        found = [size for _, each in self.effects if (size := each.detectable(self.family)) is not None]
        return max(found, default=None)


def decide(evidence: Evidence) -> list[Decision]:
    """Every claim for every target and protocol of the suite, at every boundary."""
    decisions: list[Decision] = []
    for claim in CLAIMS:
        for protocol in evidence.suite.protocols:
            columns = [column for column in evidence.columns if column.protocol == protocol]
            for boundary in range(1, evidence.suite.schedule.stages):
                decisions += _family(claim, [_test(evidence, claim, column, boundary) for column in columns])
    return decisions


def overall(decisions: Iterable[Decision]) -> Verdict:
    """The verdict over the boundaries of one claim, target and protocol."""
    verdicts = [decision.verdict for decision in decisions]
    if "contradicted" in verdicts:
        return "contradicted"
    return "supported" if verdicts and set(verdicts) == {"supported"} else "inconclusive"


def _family(claim: Claim, members: Sequence[Decision]) -> list[Decision]:
    # What cannot be tested counts as well: a verdict must not come and go with how many targets have results yet.
    adjusted = holm([1.0 if member.p is None else member.p for member in members])
    return [
        _judged(claim, replace(member, adjusted=None if member.p is None else p, family=len(members)))
        for member, p in zip(members, adjusted, strict=True)
    ]


def _judged(claim: Claim, decision: Decision) -> Decision:
    if decision.adjusted is None or decision.reason or decision.adjusted >= _ALPHA:
        return decision
    if all(np.sign(effect.mean) == claim.sign for _, effect in decision.effects):
        return replace(decision, verdict="supported")
    return replace(decision, verdict="contradicted")


def _test(evidence: Evidence, claim: Claim, column: Column, boundary: int) -> Decision:
    found = _MEASURES[claim.name](evidence, column, boundary)
    blank = Decision(claim=claim, column=column, boundary=boundary)
    if isinstance(found, str):
        return replace(blank, reason=found)
    effects, p = found
    seeds, expected = min(effect.seeds for _, effect in effects), len(evidence.seeds)
    reason = ""
    if expected < LEAST_SEEDS:
        reason = f"{_number(expected)}: {LEAST_SEEDS} are the least"
    elif seeds < expected:
        reason = f"incomplete: {seeds} of {expected} seeds"
    return replace(blank, effects=effects, p=p, reason=reason)


def _number(seeds: int) -> str:
    return f"{seeds} pretraining seed{'s' if seeds != 1 else ''}"


_Found = tuple[tuple[tuple[str, Estimate], ...], float | None]
"""The effects by name, and the two-sided p of their test."""


def _lacking(evidence: Evidence, column: Column, rows: Sequence[Row]) -> str:
    """Why several rows have no seed in common."""
    lacking = [f"{arm}/stage{stage}" for arm, stage in rows if evidence.level((arm, stage), column) is None]
    if len(lacking) == len(rows):
        return "no results yet"
    if not lacking:
        return "no seed has results of all snapshots needed yet"
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"no results of {lacking[0]}{more} yet"


def _absolute(evidence: Evidence, column: Column, boundary: int) -> _Found | str:
    difference = evidence.difference(("step", boundary + 1), ("step", boundary), column)
    if difference is None:
        return _lacking(evidence, column, [("step", boundary), ("step", boundary + 1)])
    name = f"stage {boundary + 1} − stage {boundary}"
    return ((name, difference),), difference.p


def _causal(evidence: Evidence, column: Column, boundary: int) -> _Found | str:
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
            return _lacking(evidence, column, [("step", stage), ("hold", stage), ("average", stage)])
        effects.append((f"step − {control}", difference))
    ps = [(effect.mean, effect.p) for _, effect in effects if effect.p is not None]
    if len(ps) < len(effects):
        return tuple(effects), None
    above = [p for mean, p in ps if mean > 0]
    # Both must be below: the larger p decides. One that is above speaks against the claim; there were two to look at.
    p = min(1.0, 2 * min(above)) if above else max(p for _, p in ps)
    return tuple(effects), p


def _diminishing(evidence: Evidence, column: Column, boundary: int) -> _Found | str:
    rows: list[Row] = [("step", boundary - 1), ("step", boundary), ("step", boundary + 1)]
    data = evidence.rows_of(column, rows, with_source=True)
    if data is None:
        return _lacking(evidence, column, rows)
    for before, after in pairwise(rows):
        gain = evidence.source_difference(after, before)
        if gain is None or gain.mean == 0 or (gain.half_width is not None and not gain.excludes_zero):
            return f"T of stage {after[1]} is undefined: the source's gain cannot be told from zero"
        if gain.mean < 0 and gain.half_width is not None:
            return f"the source lost accuracy in stage {after[1]}, and T is of gains"
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


def _beyond_saturation(evidence: Evidence, column: Column, boundary: int) -> _Found | str:
    row: Row = ("step", boundary + 1)
    suite = evidence.suite
    null_rows = [each for each in evidence.rows if without_decay(suite, each) and suite.uses(column.protocol, each[0])]
    data = evidence.rows_of(column, [*null_rows, row], with_source=True)
    if data is None:
        return _lacking(evidence, column, [row, *null_rows])
    errors = [np.array([1 - evidence.source[each, seed] for each in null_rows]) for seed in data.seeds]
    found = residual(
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
    if found.estimate is None:
        return found.reason
    return ((f"stage {row[1]}: error observed − predicted", found.estimate),), found.estimate.p


_MEASURES: dict[str, Callable[[Evidence, Column, int], _Found | str]] = {
    "C1": _diminishing,
    "C2": _absolute,
    "C3": _causal,
    "C4": _beyond_saturation,
}
