"""Claims of studies: what each states and needs, and the decisions on them.

A *case* is one test of a claim, such as one complexity. A unit is a pretraining seed with its own code book. Tests are
two-sided; Holm's method adjusts p over the deciding cases of a claim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lrbench.leaderboard.claims import ALPHA, MIN_SEEDS
from lrbench.stats.intervals import Estimate, holm
from lrbench.stats.power import Components, detectable, seeds_needed

if TYPE_CHECKING:
    from lrbench.studies.evidence import StudyEvidence

Verdict = Literal["supported", "contradicted", "equivalent", "inconclusive"]

MIN_UNITS = MIN_SEEDS
"""Smallest number of units that decides anything."""

_MOST_UNITS = 1_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test of a claim.

    Attributes:
        name: The case, as the page names it.
        estimate: Tested effect; None if it cannot be estimated.
        values: The effect of each unit, for remarks; empty if none is needed.
        columns: Further columns of the page's table, as plain text.
        margin: Margin of equivalence in the unit of the effect, with which a difference counts as none; None for no such test.
        reason: Reason why the case is inconclusive regardless of p, in a few words; empty if there is none.
        decides: Whether it has a verdict. Other cases are printed for comparison.
        note: Remark after the verdict; empty for none.
        p: Two-sided, unadjusted p; None if nothing was tested.
        adjusted: p adjusted by Holm's method.
        verdict: Verdict that follows.
        detectable: Smallest effect that these units detect in four of five repetitions; None if nothing was tested.
        needed: Number of units with which an effect as large as the estimate is detected in four of five repetitions; None if
            nothing was tested, or if a thousand are not enough.
    """

    name: str
    estimate: Estimate | None = None
    values: tuple[float, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    margin: float | None = None
    reason: str = ""
    decides: bool = True
    note: str = ""
    p: float | None = None
    adjusted: float | None = None
    verdict: Verdict = "inconclusive"
    detectable: float | None = None
    needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A claim with its cases.

    Attributes:
        claim: The claim.
        cases: Its cases with their verdicts.
        remark: A sentence below the table of the page; empty for none.
    """

    claim: "StudyClaim"
    cases: tuple[Case, ...]
    remark: str = ""

    @property
    def verdict(self) -> Verdict:
        """Verdict on the claim: that of all deciding cases; contradicted if one is and none is supported; else inconclusive."""
        verdicts = {case.verdict for case in self.cases if case.decides}
        if len(verdicts) == 1:
            return verdicts.pop()
        return "contradicted" if "contradicted" in verdicts and "supported" not in verdicts else "inconclusive"

    def with_verdict(self, verdict: Verdict) -> list[Case]:
        """Return the deciding cases with a verdict."""
        return [case for case in self.cases if case.decides and case.verdict == verdict]

    def find(self, name: str) -> Case | None:
        """Return the case of a name."""
        return next((case for case in self.cases if case.name == name), None)


Decided = Mapping[str, Outcome]
"""Outcomes of the claims that were decided before, by name."""


@dataclass(frozen=True, kw_only=True)
class StudyClaim:
    """A statement fixed in advance.

    Attributes:
        name: Letter and number, such as `P2`.
        title: Title in a few words.
        statement: What it states, with the rule that decides it.
        origin: Source of the statement: the paper's abstract, or lrbench.
        sign: Sign of its effect if it is true; 0 if it states that there is none.
        unit: Unit of its effect, after multiplication with `scale`.
        test: Returns the cases, without verdicts unless the claim judges them itself.
        arms: Arms that every suite of the study must have.
        sets: Whether the source must have evaluation sets for each kind of pattern.
        wrong: Whether the source must have training images that are known to be labelled wrongly, stored by `source_hits`.
        phrases: Clause for the page's first sentence, by verdict.
        scale: Factor from the effect to `unit`.
        judges: Whether `test` sets the verdicts.
        remark: Returns the sentence below the table, from the judged cases and the outcomes before.
    """

    name: str
    title: str
    statement: str
    origin: Literal["paper", "lrbench"]
    sign: Literal[-1, 0, 1]
    unit: str
    test: Callable[["StudyEvidence", Decided], Sequence[Case]]
    arms: tuple[str, ...] = ()
    sets: bool = False
    wrong: bool = False
    phrases: Mapping[Verdict, str]
    scale: float = 100.0
    judges: bool = False
    remark: Callable[[Sequence[Case], Decided], str] = lambda *_: ""


def decide_study(evidence: "StudyEvidence", claims: Sequence[StudyClaim]) -> dict[str, Outcome]:
    """Decide claims in order; a claim may use the outcomes of those before it."""
    decided: dict[str, Outcome] = {}
    for claim in claims:
        cases = claim.test(evidence, decided)
        cases = tuple(cases) if claim.judges else judge(claim, cases)
        decided[claim.name] = Outcome(claim=claim, cases=cases, remark=claim.remark(cases, decided))
    return decided


def judge(claim: StudyClaim, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Adjust the p of the deciding cases by Holm's method, and set the verdicts."""
    deciding = [case for case in cases if case.decides]
    # A case that was not tested counts too: a verdict must not depend on how many suites have results.
    adjusted = iter(holm([_p(case) for case in deciding]))
    return tuple(_judged(claim, case, next(adjusted) if case.decides else None, len(deciding)) for case in cases)


def _p(case: Case) -> float:
    return 1.0 if case.estimate is None or case.estimate.p is None else case.estimate.p


def _judged(claim: StudyClaim, case: Case, adjusted: float | None, family: int) -> Case:
    estimate = case.estimate
    if estimate is None or estimate.p is None:
        return case
    case = replace(case, p=estimate.p, adjusted=adjusted, **_power_of(estimate, max(1, family)))
    reason = case.reason or too_few(estimate.seeds)
    if reason or adjusted is None:
        return replace(case, reason=reason)
    verdict: Verdict = "inconclusive"
    if adjusted < ALPHA:
        verdict = "supported" if estimate.mean * claim.sign > 0 else "contradicted"
    elif case.margin is not None and estimate.is_within(case.margin):
        verdict = "equivalent"
    return replace(case, verdict=verdict)


def too_few(units: int) -> str:
    """Return the reason why so few units decide nothing; empty if they are enough."""
    return "" if units >= MIN_UNITS else f"{units} unit{'' if units == 1 else 's'}, at least {MIN_UNITS} are needed"


def _power_of(estimate: Estimate, family: int) -> dict[str, Any]:
    """Return `detectable` and `needed` of a case.

    Args:
        estimate: The tested effect, of at least two units.
        family: Number of tests that are adjusted together.
    """
    variance = max(estimate.seed_variance or 0.0, estimate.residual_variance)
    sizes = {"seed_variance": variance, "image_variance": estimate.image_variance}
    components = Components(seed=variance * estimate.seeds, residual=0.0, image=estimate.image_variance)
    return {
        "detectable": detectable(**sizes, seeds=estimate.seeds, tests=family),
        "needed": seeds_needed(abs(estimate.mean), components, 1.0, tests=family, most=_MOST_UNITS),
    }
