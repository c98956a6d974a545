"""What the registration of a study's suites fixes."""

from lrbench.leaderboard.claims import ALPHA
from lrbench.leaderboard.registration import Endpoint, RegisteredClaim, Terms
from lrbench.studies.claims import MIN_UNITS
from lrbench.studies.definition import Study
from lrbench.studies.registry import claims_of


def study_terms(study: Study) -> Terms:
    """Return the endpoint and claims of a study, which the registrations of all of its suites hold."""
    claims = claims_of(study)
    endpoint = Endpoint(
        claim=", ".join(study.claims),
        outcome="mean over units; a unit is a pretraining seed, with its own code book where the suite has books",
        protocols=("source", "source-hits"),
        tests="two-sided, one for each case of a claim",
        adjustment="Holm over the cases of a claim",
        alpha=ALPHA,
        seeds=MIN_UNITS,
        equivalence="not significant, and the 90 % interval is inside the claim's margin",
    )
    registered = {
        claim.name: RegisteredClaim(
            title=claim.title, statement=claim.statement, sign=-1 if claim.sign < 0 else 1, unit=claim.unit
        ).model_dump(mode="json")
        for claim in claims
    }
    return Terms(endpoint=endpoint.model_dump(mode="json"), claims=registered)
