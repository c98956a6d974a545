"""Pages of studies in Markdown, with their figures."""

from collections.abc import Sequence

from lrbench.core.control import Control
from lrbench.core.locks import locked
from lrbench.core.workspace import Workspace
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.markup import NOTHING, Marked, bullets, link, p_value, prose, rounded, table
from lrbench.leaderboard.page import Built, figure_files, write_files
from lrbench.leaderboard.registration import registration_sentence
from lrbench.leaderboard.source_page import study_path
from lrbench.stats.intervals import Estimate
from lrbench.studies.claims import Case, Outcome, StudyClaim, decide_study
from lrbench.studies.definition import Study, load_studies
from lrbench.studies.evidence import StudyEvidence, gather_study
from lrbench.studies.registry import FIGURES, SECTIONS, claims_of
from lrbench.studies.terms import study_terms

_ORIGINS = {
    "paper": "The abstract of the paper states this in words; the measure and the rule are lrbench's.",
    "lrbench": "This claim is lrbench's, not the paper's.",
}


def build_studies(workspace: Workspace, studies: Sequence[Study], *, draw: bool = True, indexed: bool = True) -> Built:
    """Return the pages and figures of studies.

    Args:
        workspace: The workspace with the results.
        studies: The studies; one without any result has no page.
        draw: Whether figures whose data has changed are drawn.
        indexed: Whether results are read from the index of result files, or from the files.
    """
    built = Built()
    folder = workspace.leaderboard / "studies"
    for study in studies:
        if not any((workspace.results / suite.name / "suite.json").is_file() for suite in study.suites):
            continue
        evidence = gather_study(workspace.results, study, workspace.cache if indexed else None)
        outcomes = decide_study(evidence, claims_of(study))
        figure = FIGURES[study.figure](evidence, outcomes)
        built.take(list(evidence.suites.values()))
        built.short[study.name] = answer(evidence, outcomes)
        built.files[workspace.leaderboard / study_path(study.name)] = render_study(evidence, outcomes, figure).encode()
        if len(figure.data):
            built.files |= figure_files(folder / "figures", study.name, [figure], draw=draw, pdf=False)
    return built


def write_studies(workspace: Workspace, studies: Sequence[Study]) -> Built:
    """Write the pages and figures of studies; files that are up to date are not touched."""
    with locked(workspace.cache / "pages", Control()):
        built = build_studies(workspace, studies)
        write_files(built)
    return built


def studies_of(suites: Sequence[str]) -> list[Study]:
    """Return the shipped studies that have one of the suites."""
    return [study for study in load_studies() if any(suite.name in suites for suite in study.suites)]


def answer(evidence: StudyEvidence, outcomes: dict[str, Outcome]) -> str:
    """Return what a study finds, as one sentence of plain text."""
    study = evidence.study
    name = f"{study.name} ({len(study.units)} units{', incomplete' * bool(evidence.missing())})"
    clauses = [
        f"{phrase} ({outcome.claim.name})"
        for outcome in outcomes.values()
        if (phrase := outcome.claim.phrases.get(outcome.verdict))
    ]
    mixed = [
        f"{outcome.claim.phrases[verdict]} at {' and '.join(map(_noted, cases))} ({outcome.claim.name})"
        for outcome in outcomes.values()
        if outcome.verdict == "inconclusive"
        for verdict in ("supported", "contradicted", "equivalent")
        if (cases := outcome.with_verdict(verdict)) and verdict in outcome.claim.phrases
    ]
    undecided = [
        outcome.claim.name
        for outcome in outcomes.values()
        if all(case.verdict == "inconclusive" for case in outcome.cases if case.decides)
    ]
    stated = [*clauses, *mixed]
    if undecided:
        stated.append(f"{', '.join(undecided)} {'is' if len(undecided) == 1 else 'are'} undecided")
    return f"{name}: {'; '.join(stated)}." if stated else f"{name}: {', '.join(outcomes)} are as stated."


def _noted(case: Case) -> str:
    return f"{case.name}{f', {case.note}' if case.note else ''}"


def render_study(evidence: StudyEvidence, outcomes: dict[str, Outcome], figure: Figure) -> str:
    """Return the page of a study: the answer, the figure, a table for each claim, and the limits."""
    study = evidence.study
    missing = evidence.missing()
    parts = [
        f"# {prose(study.title)}",
        f"**{prose(answer(evidence, outcomes))}**",
        figure.markdown(study.name) if len(figure.data) else "",
        prose(study.question),
        f"**Incomplete.** `lrbench study {study.name}` computes the missing predictions:\n\n{bullets(missing)}"
        if missing
        else "",
        f"## Verdicts\n\n{table([_verdict_row(outcome) for outcome in outcomes.values()])}\n\n"
        "A unit is a pretraining seed with its own code book. Intervals are 95 % over units; p is adjusted by Holm's method "
        "over the cases of a claim. The paper's body was not available: only its abstract can be attributed to it.",
        *[_claim_section(outcome) for outcome in outcomes.values()],
        SECTIONS[study.figure](evidence) if study.figure in SECTIONS else "",
        f"## Limits\n\n{bullets(study.limits)}" if study.limits else "",
        f"## Suites\n\n{table(_suite_rows(evidence))}",
        f"Claims and rules: [docs/studies.md](../../docs/studies.md). `lrbench study {study.name}` runs the study again; "
        f"`lrbench study {study.name} --check` compares this page with the results.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict_row(outcome: Outcome) -> dict[str, str]:
    claim = outcome.claim
    return {
        "claim": f"{claim.name} {claim.title}",
        "from": "the paper's abstract" if claim.origin == "paper" else "lrbench",
        "verdict": _verdict_word(claim, outcome.verdict, _margin(outcome)),
    }


def _margin(outcome: Outcome) -> float | None:
    return next((case.margin for case in outcome.cases if case.margin is not None), None)


def _verdict_word(claim: StudyClaim, verdict: str, margin: float | None) -> Marked:
    if verdict == "equivalent":
        verdict = f"no difference beyond {claim.scale * (margin or 0):g} {claim.unit}"
    return Marked(verdict if verdict == "inconclusive" else f"**{verdict}**")


def _claim_section(outcome: Outcome) -> str:
    claim = outcome.claim
    parts = [
        f"## {claim.name} {claim.title}",
        prose(f"{claim.statement[0].upper()}{claim.statement[1:]}. {_ORIGINS[claim.origin]}"),
        table(_aligned([_case_row(claim, case) for case in outcome.cases])),
        f"Effects are in {claim.unit}.",
        prose(outcome.remark),
    ]
    return "\n\n".join(part for part in parts if part)


def _case_row(claim: StudyClaim, case: Case) -> dict[str, str]:
    row = {
        "case": case.name,
        "effect": NOTHING if case.estimate is None else _effect(claim, case.estimate),
        "p (Holm)": p_value(case.adjusted),
        "verdict": _case_verdict(claim, case),
        "detectable": NOTHING if case.detectable is None else f"{claim.scale * case.detectable:.1f}",
    }
    return row | dict(case.columns)


def _aligned(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows with the columns of all of them; cases without results lack some."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, NOTHING) for name in names} for row in rows]


def _effect(claim: StudyClaim, estimate: Estimate) -> Marked:
    mean = rounded(claim.scale * estimate.mean, 1, signed=True)
    return Marked(mean if estimate.half_width is None else f"{mean} ± {claim.scale * estimate.half_width:.1f}")


def _case_verdict(claim: StudyClaim, case: Case) -> Marked:
    """Return a verdict with its reason, or with the units that would decide an effect of the measured size."""
    if not case.decides:
        return Marked(f"not tested{f' ({prose(case.reason)})' if case.reason else ''}")
    word = _verdict_word(claim, case.verdict, case.margin)
    if case.verdict != "inconclusive":
        return Marked(f"{word}{f', {case.note}' if case.note else ''}")
    if case.reason or (case.estimate is None and case.adjusted is None):
        return Marked(f"{word} ({prose(case.reason or 'no results')})")
    if claim.judges:
        return word
    many = (
        f"{case.needed:,} units would decide an effect of this size"
        if case.needed
        else "over 1,000 units would be needed"
    )
    return Marked(f"undecided: {many}{f'; {case.note}' if case.note else ''}")


def _suite_rows(evidence: StudyEvidence) -> list[dict[str, str]]:
    terms = study_terms(evidence.study)
    return [
        {
            "suite": link(name, f"../{name}.md") if of_suite.completed else name,
            "source": of_suite.suite.source,
            "units": ", ".join(map(str, of_suite.seeds)),
            "predictions": f"{of_suite.completed:,} of {of_suite.expected:,}",
            "registration": registration_sentence(of_suite, of_suite.registration, terms)
            if of_suite.completed
            else NOTHING,
        }
        for name, of_suite in evidence.suites.items()
    ]
