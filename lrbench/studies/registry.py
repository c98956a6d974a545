"""All claims and figures of studies by name."""

from collections.abc import Callable

from lrbench.config.explain import suggestion
from lrbench.core.errors import InputError
from lrbench.leaderboard.figures import Figure
from lrbench.studies import beliefs, edge, noise, pace, patterns, stages
from lrbench.studies.claims import Outcome, StudyClaim
from lrbench.studies.definition import Study
from lrbench.studies.evidence import StudyEvidence, refuse_missing_evidence
from lrbench.studies.patterns_figure import gain_figure
from lrbench.studies.stage_rules import rules_section

CLAIMS: dict[str, StudyClaim] = {
    claim.name: claim for module in (patterns, noise, beliefs, edge, pace, stages) for claim in module.CLAIMS
}

FIGURES: dict[str, Callable[[StudyEvidence, dict[str, Outcome]], Figure]] = {
    "gain-by-bits": gain_figure,
    "memorised-by-fit": noise.memorised_figure,
    "arms": beliefs.arms_figure,
    "transition": edge.transition_figure,
    "pace": pace.pace_figure,
    "course": stages.course_figure,
}
"""Functions that draw the figure of a study's page."""

SECTIONS: dict[str, Callable[[StudyEvidence], str]] = {"pace": rules_section}
"""Functions that write a section of a study's page after its claims, by the study's figure."""


def claims_of(study: Study) -> list[StudyClaim]:
    """Return the claims of a study."""
    return [CLAIMS[name] for name in study.claims]


def check_claims(study: Study, where: str) -> None:
    """Refuse a study with claims that do not exist or cannot be decided.

    Args:
        study: The study.
        where: Its file, for errors.

    Raises:
        InputError: A claim or figure does not exist, or a suite lacks an arm or annotations that a claim needs.
    """
    for kind, names, known in (("claim", study.claims, CLAIMS), ("figure", (study.figure,), FIGURES)):
        for name in names:
            if name not in known:
                raise InputError(
                    f"{where}: there is no {kind} {name!r}.{suggestion(name, known)} Choose from {', '.join(known)}."
                )
    for claim in claims_of(study):
        for suite in study.suites:
            if missing := [arm for arm in claim.arms if arm not in suite.arms]:
                raise InputError(
                    f"{where}: claim {claim.name} needs the arm {missing[0]!r}, which suite {suite.name} does not have. Add it "
                    "to the arms, or remove the claim."
                )
        refuse_missing_evidence(study, claim.name, sets=claim.sets, wrong=claim.wrong, where=where)
