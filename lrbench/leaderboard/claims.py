"""The claims, which were fixed before any result, and the decisions on them.

Boundary i is between stages i and i + 1. A decision is a two-sided test of an effect, whose p is adjusted by Holm's method
within its family. The *primary* decisions on a claim are of the effect's mean over the suite's targets, at each boundary and on
average over the boundaries. Those of single targets are secondary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrbench.config.protocols import PROTOCOLS
from lrbench.leaderboard.claim_effects import Outcome, claim_outcomes, mean_outcome
from lrbench.leaderboard.evidence import Evidence
from lrbench.stats.intervals import Estimate, holm
from lrbench.stats.power import detectable

Verdict = Literal["supported", "contradicted", "mixed", "equivalent", "inconclusive"]
"""`mixed`: significant with opposite signs; `equivalent`: no difference beyond the suite's margin."""

MIN_SEEDS = 3
ALPHA = 0.05


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
"""The claims in the order of the pages."""

CAUSAL = CLAIMS[2]
"""The claim of the primary endpoint."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Decision on one claim under one protocol.

    Attributes:
        claim: The claim.
        protocol: The transfer protocol.
        task: The target; None for the mean over the suite's targets.
        boundary: Boundary between stages `boundary` and `boundary + 1`; None for the mean over the boundaries.
        effects: Estimated effects with their names: two for C3, none if nothing can be estimated.
        tested: Estimates that are tested: those of `effects`, or for C1 the cross product of the gains.
        p: Two-sided, unadjusted p, the largest of the tested estimates; None if nothing was tested.
        adjusted: p adjusted by Holm's method.
        verdict: Verdict that follows.
        reason: Reason why it is inconclusive regardless of p, in a few words; empty if there is none.
        testable: Whether the suite has the arms that the test needs under this protocol.
        family: Number of decisions that are adjusted together, including those without results.
        detectable: Smallest effect that these seeds detect by itself in four of five repetitions: that of the noisier effect
            for C3. By itself means that no other test of the family shows an effect. None if nothing was tested.
    """

    claim: Claim
    protocol: str
    task: str | None
    boundary: int | None
    effects: tuple[tuple[str, Estimate], ...] = ()
    tested: tuple[Estimate, ...] = ()
    p: float | None = None
    adjusted: float | None = None
    verdict: Verdict = "inconclusive"
    reason: str = ""
    testable: bool = True
    family: int = 1
    detectable: float | None = None

    @property
    def is_primary(self) -> bool:
        """Whether it is of the mean over the suite's targets."""
        return self.task is None


def tested_protocols(evidence: Evidence) -> tuple[str, ...]:
    """Return the suite's protocols under which claims are decided."""
    return tuple(protocol for protocol in evidence.suite.protocols if PROTOCOLS[protocol].decides)


def boundary_name(boundary: int | None) -> str:
    """Return a boundary as pages name it: `1 → 2`, or `mean` for the mean over boundaries."""
    return "mean" if boundary is None else f"{boundary} → {boundary + 1}"


def decide(evidence: Evidence) -> list[Decision]:
    """Decide every claim under every protocol of the suite.

    For each claim there are four families, in each of which p is adjusted: the means over targets at each boundary (over
    protocols and boundaries); those on average over boundaries (over protocols); and the same two for single targets (over
    targets too).
    """
    decisions: list[Decision] = []
    boundaries = range(1, evidence.suite.schedule.stages)
    for claim in CLAIMS:
        by_protocol = {
            protocol: claim_outcomes(evidence, claim.name, protocol) for protocol in tested_protocols(evidence)
        }
        for per_target in (False, True):
            by_boundary: list[Decision] = []
            averaged: list[Decision] = []
            for protocol, outcomes in by_protocol.items():
                for task in evidence.suite.targets if per_target else (None,):
                    outcome_at = {
                        boundary: mean_outcome({name: outcomes[name, boundary] for name in evidence.suite.targets})
                        if task is None
                        else outcomes[task, boundary]
                        for boundary in boundaries
                    }
                    mean = mean_outcome({boundary_name(boundary): outcome for boundary, outcome in outcome_at.items()})
                    for boundary, outcome in (*outcome_at.items(), (None, mean)):
                        decision = Decision(claim=claim, protocol=protocol, task=task, boundary=boundary)
                        members = averaged if boundary is None else by_boundary
                        members.append(_test(evidence, decision, outcome))
            decisions += judge_family(by_boundary, evidence.suite.margin / 100)
            decisions += judge_family(averaged, evidence.suite.margin / 100)
    return decisions


def find(
    decisions: Iterable[Decision], claim: Claim, protocol: str, task: str | None, boundary: int | None
) -> Decision | None:
    """Return one decision; None if there is none, because the protocol decides nothing."""
    wanted = (claim.name, protocol, task, boundary)
    return next(
        (
            decision
            for decision in decisions
            if (decision.claim.name, decision.protocol, decision.task, decision.boundary) == wanted
        ),
        None,
    )


def judge_family(members: Sequence[Decision], margin: float) -> list[Decision]:
    """Adjust the p of a family by Holm's method, and set the verdicts.

    Args:
        members: The decisions. Those that the suite cannot test do not count.
        margin: Margin δ of equivalence, as a share.
    """
    testable = [member for member in members if member.testable]
    # Untested members count too: a verdict must not depend on how many targets have results so far.
    adjusted = iter(holm([1.0 if member.p is None else member.p for member in testable]))
    judged = []
    for member in members:
        p = next(adjusted) if member.testable else None
        family = len(testable)
        judged.append(
            replace(
                member,
                adjusted=None if member.p is None else p,
                verdict=_verdict(member, p, margin),
                family=family,
                detectable=_detectable(member, family, _seed_variances(member, members)),
            )
        )
    return judged


def _verdict(member: Decision, adjusted: float | None, margin: float) -> Verdict:
    if member.p is None or adjusted is None or member.reason:
        return "inconclusive"
    if adjusted < ALPHA:
        signs = {np.sign(estimate.mean) for estimate in member.tested}
        if len(signs) > 1:
            return "mixed"
        return "supported" if signs == {member.claim.sign} else "contradicted"
    if member.claim.unit == "points" and all(estimate.is_within(margin) for estimate in member.tested):
        return "equivalent"
    return "inconclusive"


def _seed_variances(member: Decision, members: Sequence[Decision]) -> list[float]:
    """Return V_S of each effect, for a single target the mean over the targets at the same boundary and protocol.

    A variance of two or three degrees of freedom says little about what the same seeds would detect again.
    """
    similar = [
        other
        for other in members
        if (other.protocol, other.boundary) == (member.protocol, member.boundary)
        and len(other.effects) == len(member.effects)
    ]
    return [
        float(np.mean([other.effects[position][1].seed_variance or 0.0 for other in similar]))
        for position in range(len(member.effects))
    ]


def _detectable(member: Decision, family: int, seed_variances: Sequence[float]) -> float | None:
    if member.p is None:
        return None
    return max(
        detectable(
            # V_S below its share of seed × image noise is a fluke, as in the interval.
            seed_variance=max(variance, estimate.residual_variance),
            image_variance=estimate.image_variance,
            seeds=estimate.seeds,
            tests=max(1, family),
        )
        for (_, estimate), variance in zip(member.effects, seed_variances, strict=True)
    )


def _test(evidence: Evidence, decision: Decision, outcome: Outcome) -> Decision:
    """Estimate and test the effects of a claim, without a verdict."""
    if outcome.reason:
        return replace(decision, reason=outcome.reason, testable=outcome.testable)
    effects = tuple((name, effect.estimate()) for name, effect in outcome.effects)
    tested = tuple(effect.estimate() for effect in outcome.tested) or tuple(estimate for _, estimate in effects)
    ps = [estimate.p for estimate in tested if estimate.p is not None]
    seeds, expected = min(estimate.seeds for estimate in tested), len(evidence.seeds)
    reason = ""
    if expected < MIN_SEEDS:
        reason = f"{expected} pretraining seed{'s' if expected != 1 else ''}, at least {MIN_SEEDS} are needed"
    elif seeds < expected:
        reason = f"incomplete: {seeds} of {expected} seeds"
    return replace(
        decision,
        effects=effects,
        tested=tested,
        # Every tested effect must have the sign of the verdict, so the largest p decides.
        p=max(ps) if len(ps) == len(tested) else None,
        reason=reason,
    )
