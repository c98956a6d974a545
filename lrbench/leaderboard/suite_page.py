"""Main page of a suite in Markdown: the answer, the verdicts, one figure, and the tables of accuracy."""

from collections.abc import Sequence

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.core.escaping import for_markdown
from lrbench.leaderboard import summary, tables
from lrbench.leaderboard.claims import Decision
from lrbench.leaderboard.evidence import Evidence
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.markup import link, table
from lrbench.leaderboard.registration import registration_sentence


def details_path(suite: str) -> str:
    """Return the path of a suite's second page, relative to the leaderboard's folder."""
    return f"{suite}-details.md"


def render_suite(
    suite: Suite, evidence: Evidence, decisions: Sequence[Decision], drawn: Sequence[Figure], *, partial: bool
) -> str:
    """Return the main page of a suite.

    Args:
        suite: The suite.
        evidence: Its full results, or those of partial data if there are no others.
        decisions: The decisions on every claim.
        drawn: Figures of the results.
        partial: Whether the details page also has results of partial data.
    """
    details = link("details", details_path(suite.name))
    parts = [f"# {for_markdown(suite.title or suite.name)}", f"**{for_markdown(summary.answer(evidence, decisions))}**"]
    parts.append(for_markdown(registration_sentence(evidence, evidence.registration)))
    if evidence.completed or not evidence.partial:
        if rows := summary.primary_table(evidence, decisions):
            parts.append(
                f"{table(rows)}\n\nTarget accuracy of `step`, whose rate falls, minus that of its controls, in points on "
                f"average over {summary.count_targets(evidence)}; *mean* is the average over boundaries. Claim C3 is supported "
                "if both differences are significantly below zero."
            )
        parts += [figure.markdown(suite.name) for figure in main_figures(drawn)]
    context = [
        for_markdown(suite_sentence(suite)),
        summary.source_accuracy(evidence),
        "Results on partial data (`--partial`) are on the details page." if partial else "",
    ]
    parts += [
        f"**{summary.incomplete(evidence)}** The missing cells are listed in the {details}."
        if summary.incomplete(evidence)
        else "",
        f"Suite `{suite.name}`: {' '.join(sentence for sentence in context if sentence)} Differences, T, controls, every "
        f"decision and the settings: {details}.",
    ]
    if evidence.completed or not evidence.partial:
        parts += result_sections(evidence, decisions)
    parts.append(f"## Arms\n\n{arm_list(suite)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def main_figures(drawn: Sequence[Figure]) -> Sequence[Figure]:
    """Return the figure of the main page, decay against its controls if the suite has them; empty without figures."""
    return [figure for figure in drawn if figure.name == "decay-minus-control"] or drawn[:1]


def result_sections(evidence: Evidence, decisions: Sequence[Decision], level: str = "##") -> list[str]:
    """Return sections with the evidence for each claim and the accuracies of each protocol, under headings of a level."""
    parts = []
    if rows := summary.claim_evidence(evidence, decisions):
        parts.append(
            f"{level} Verdict on each claim\n\n{table(summary.claim_table(evidence, decisions))}\n\n"
            f"On average over targets and boundaries.\n\n{level} Evidence for each claim\n\n{table(rows)}\n\n"
            "On average over targets, with the 95 % interval, and the smallest effect that these seeds can detect. Effects are "
            "in points of accuracy (C2, C3), points of error (C4) or differences of T (C1), the gain on the target divided by "
            "the gain on the source."
        )
    for protocol in evidence.suite.protocols:
        parts += [
            f"{level} {protocol}: accuracy\n\n{tables.accuracy_table(evidence, protocol, linked=True)}\n\n"
            + for_markdown(tables.accuracy_legend(evidence, protocol)),
            f"{level} {protocol}: which checkpoint?\n\n{table(summary.which_checkpoint(evidence, protocol))}\n\n"
            "By paired differences, each at 95 %.",
        ]
    return parts


def suite_sentence(suite: Suite) -> str:
    """Return one sentence on what a suite does, as plain text."""
    return (
        f"{suite.model.architecture} is pretrained on {tables.task_title(suite.source)} at {suite.input.size} px; "
        f"a snapshot is saved at every boundary of the learning rate and transferred to {len(suite.targets)} targets."
    )


def arm_list(suite: Suite) -> str:
    """Return a list of what each arm of the suite does."""
    schedule = suite.schedule
    lines = [f"- `{arm}`: {ARMS[arm].describe(schedule)}." for arm in suite.arms]
    if schedule.warmup:
        lines.append(f"- In every arm the rate rises to its first value over the first {schedule.warmup} epochs.")
    lines.append("- `stage0` is the initialisation.")
    return "\n".join(lines)
