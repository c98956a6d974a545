"""Page of a suite without targets, whose snapshots only predict images of their source."""

from lrbench.core.escaping import for_markdown
from lrbench.leaderboard import tables
from lrbench.leaderboard.evidence import Evidence, row_name
from lrbench.leaderboard.markup import link, points, table
from lrbench.leaderboard.registration import registration_sentence
from lrbench.leaderboard.suite_page import arm_list


def study_path(study: str) -> str:
    """Return the path of a study's page, relative to the leaderboard's folder."""
    return f"studies/{study}.md"


def source_sentence(evidence: Evidence) -> str:
    """Return one sentence on the results of a suite without targets, as plain text."""
    suite = evidence.suite
    study = f"; study {suite.study} decides its claims" if suite.study else ""
    source = f"{tables.task_title(suite.source)} at {suite.input.size} px"
    return (
        f"{suite.name}: {suite.model.architecture} is pretrained on {source}. The suite has no targets{study}; "
        f"{evidence.completed:,} of {evidence.expected:,} predictions of the source are done."
    )


def render_source(evidence: Evidence) -> str:
    """Return the page of a suite without targets: a link to its study, and accuracies on the source."""
    suite = evidence.suite
    seeds = len(evidence.seeds)
    accuracies = [
        {"snapshot": row_name(row), "all test images": points(evidence.source_accuracy(row), seeds)}
        for row in evidence.rows
    ]
    books = " Each seed has its own code book." if suite.books else ""
    parts = [
        f"# {for_markdown(suite.title or suite.name)}",
        f"**{for_markdown(source_sentence(evidence))}**",
        f"Claims and their evidence: {link(f'study {suite.study}', study_path(suite.study))}." if suite.study else "",
        for_markdown(registration_sentence(evidence, evidence.registration)),
        "## Accuracy on the source",
        tables.source_report(evidence) or table(accuracies),
        f"Percent of images, with the 95 % interval over {seeds} pretraining seed{'' if seeds == 1 else 's'}.{books}",
        f"## Arms\n\n{arm_list(suite)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
