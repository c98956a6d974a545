"""Report on a recommendation: a folder with one page in Markdown and in HTML, the figures, and their data."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lrbench.config import Task
from lrbench.config.task import METRIC_NAMES
from lrbench.core.files import write_bytes
from lrbench.leaderboard.cost_figures import comparison_figures
from lrbench.leaderboard.document import Document, Section, render_html, render_markdown
from lrbench.leaderboard.page import figure_files
from lrbench.store.results import Result
from lrbench.transfer.recommendation import Candidate, Recommendation
from lrbench.transfer.recommendation_text import (
    answer_text,
    basis_text,
    cost_text,
    recommendation_rows,
    recommendation_text,
)
from lrbench.transfer.rules import apply_rules, rule_rows, rules_text

# Start of the names of the figures' files.
_NAME = "recommendation"
MARKDOWN, HTML = "report.md", "report.html"


def write_report(folder: Path, outcome: Recommendation, task: Task, *, pdf: bool = False) -> list[Path]:
    """Write the report; files of an earlier report in the folder are replaced.

    Args:
        folder: The folder.
        outcome: The comparison.
        task: The target.
        pdf: Whether figures are drawn as PDF too.

    Returns:
        The files.
    """
    document = report(outcome, task)
    files = figure_files(folder / "figures", _NAME, document.figures, draw=True, pdf=pdf)
    for path, content in files.items():
        if content is not None:
            write_bytes(path, content)
    drawings = {
        figure.name: (folder / "figures" / f"{_NAME}-{figure.name}.svg").read_bytes() for figure in document.figures
    }
    pages = {
        folder / MARKDOWN: render_markdown(document, _NAME).encode(),
        folder / HTML: render_html(document, drawings).encode(),
    }
    for path, page in pages.items():
        write_bytes(path, page)
    return [*pages, *files]


def report(outcome: Recommendation, task: Task) -> Document:
    """Return the report on a recommendation: the answer, the table, the figures, rules, failures, and what it rests on."""
    metric = METRIC_NAMES[task.metric]
    timed = [candidate.is_measured for candidate in outcome.ranked if candidate.speed is not None]
    sections = [
        Section(
            heading="Ranking",
            rows=_rows(outcome, metric),
            paragraphs=[
                basis_text(outcome.basis, metric),
                cost_text(stored=timed.count(False), measured=timed.count(True)),
            ],
        )
    ]
    if figures := comparison_figures(outcome, metric):
        sections.append(Section(heading="Figures", figures=figures))
    if rules := apply_rules(outcome):
        sections.append(
            Section(heading="Simple rules", rows=rule_rows(rules), paragraphs=[rules_text(len(outcome.compared))])
        )
    if outcome.failed:
        items = [f"{candidate.reference.text}: {candidate.problem}" for candidate in outcome.failed]
        sections.append(Section(heading="Snapshots that failed", items=items))
    sections.append(Section(heading="What this rests on", items=_grounds(outcome, task)))
    best = outcome.best is not None
    return Document(
        title=f"Which snapshot for {task.title or task.name}?",
        answer=answer_text(outcome, metric),
        paragraphs=recommendation_text(outcome, metric).split("\n\n") if best else (),
        sections=sections,
    )


def _rows(outcome: Recommendation, metric: str) -> list[dict[str, str]]:
    """Return the rows of the table: the snapshot first, and without those that failed, which have a list of their own."""
    rows = zip(recommendation_rows(outcome, metric), outcome.ranked, strict=True)
    return [
        {"snapshot": row["snapshot"], **{name: cell for name, cell in row.items() if name != "time"}}
        for row, candidate in rows
        if candidate.failure is None
    ]


def _grounds(outcome: Recommendation, task: Task) -> list[str]:
    """Return what a recommendation rests on: task, split, seeds, controls, settings, weights, versions and limits."""
    records = [record for candidate in outcome.ranked for record in candidate.records]
    if not records:
        return ["No snapshot has a result."]
    basis, lead = outcome.basis, outcome.lead
    described = records[0].task
    settings = _unique(
        f"{record.protocol} version {record.protocol_version}, settings "
        f"{json.dumps({name: value for name, value in record.settings.items() if name != 'task_sha256'})}"
        for record in records
    )
    lines = [
        f"Task: {task.name}, {described.classes:,} classes, {records[0].train_count:,} training and validation images, "
        f"{records[0].test_count:,} test images; fingerprint of names and labels {described.fingerprint[:16]}.",
        "Incomplete data: images are missing, and these results are never ranked with full ones."
        if any(record.partial for record in records)
        else "",
        _split(outcome),
        f"Transfer seed: {records[0].seed}. "
        + (
            f"Pretraining seeds of the comparison: {', '.join(map(str, lead.seeds))}."
            if lead is not None and lead.seeds
            else "Pretraining seeds: one network each, so another pretraining run may reverse the order."
        ),
        "Test labels: opened once for each result, after its choice and predictions were fixed. They do not rank.",
        "Controls: snapshots with random weights are refused; the same weights under several names count once; "
        f"{_excluded(outcome)}.",
        *[f"Protocol: {line}." for line in settings],
        *[
            f"Weights of {candidate.reference.text}: SHA-256 {candidate.snapshot.sha256[:16]}, "
            f"{candidate.snapshot.batchnorm} BatchNorm statistics, {_input(candidate)}."
            for candidate in outcome.ranked
            if candidate.snapshot is not None
        ],
        *[f"Device: {device}." for device in _unique(record.device for record in records) if device],
        *[
            f"Versions: {', '.join(f'{name} {version}' for name, version in json.loads(line).items())}."
            for line in _unique(json.dumps(record.versions) for record in records)
        ],
        f"Computed: {_period(records)}.",
        "Limits: one task and one split of it; intervals cover the test images"
        f"{' and the pretraining seeds' if lead is not None and lead.seeds else ''}, not other tasks"
        f"{'' if basis.protocol == 'finetune' else ', and frozen features may rank differently than fine-tuning'}.",
    ]
    return [line for line in lines if line]


def _split(outcome: Recommendation) -> str:
    basis = outcome.basis
    if basis.protocol == "logme":
        return f"Split: none; LogME reads all {basis.images:,} training and validation images."
    if basis.folds is not None:
        return (
            f"Split: {basis.folds} folds of {basis.images:,} training images, stratified by class and drawn with the transfer "
            "seed."
        )
    result = outcome.ranked[0].result
    on = "validation images" if result is None else str(result.result.selection["on"])
    return f"Split: {basis.images:,} images ({on}), the same for all snapshots."


def _excluded(outcome: Recommendation) -> str:
    excluded = sum(
        candidate.result is None and candidate.failure is None and candidate.logme is not None
        for candidate in outcome.ranked
    )
    if outcome.basis.protocol == "logme" or not excluded:
        return "no snapshot was excluded by LogME"
    return f"{excluded} were excluded by LogME alone (--top)"


def _input(candidate: Candidate) -> str:
    given = candidate.records[-1].preprocessing
    return f"input {given.get('size', '?')} px after resizing to {given.get('resize', '?')} px"


def _period(records: Sequence[Result]) -> str:
    times = sorted({record.computed for record in records if record.computed is not None})
    if not times:
        return "at an unknown time"
    return times[0] if len(times) == 1 else f"{times[0]} to {times[-1]}"


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
