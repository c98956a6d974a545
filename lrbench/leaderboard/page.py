"""All files of the leaderboard: the pages of each suite, the index, the figures, and the tables in the project's README.

The files depend on the results alone and hold no time, so they can be compared byte by byte.
"""

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from threadpoolctl import threadpool_limits

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.escaping import for_markdown
from lrbench.core.files import write_bytes
from lrbench.core.locks import locked
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import Decision, decide
from lrbench.leaderboard.details_page import render_details
from lrbench.leaderboard.evidence import Evidence
from lrbench.leaderboard.figures import Figure, figures
from lrbench.leaderboard.foreign_page import ForeignTable, foreign_tables, render_foreign
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.leaderboard.markup import NOTHING, bullets, link, table
from lrbench.leaderboard.measure_figures import measure_figures
from lrbench.leaderboard.registration import registration_sentence
from lrbench.leaderboard.row_pages import render_rows
from lrbench.leaderboard.source_page import render_source, source_sentence, study_path
from lrbench.leaderboard.suite_page import details_path, render_suite, suite_sentence
from lrbench.leaderboard.summary import answer, in_short, incomplete, source_accuracy
from lrbench.leaderboard.webpage import render, suite_data
from lrbench.store.index import load_index
from lrbench.store.results import suites_with_results

# Drawings differ in bytes between versions of matplotlib: they are written, but not compared.
DRAWN = (".svg", ".png")
# Drawn on request, and kept up to date from then on.
PDF = ".pdf"


@dataclass(kw_only=True)
class Built:
    """The files of the leaderboard.

    Attributes:
        files: Content by path; None for a drawing that is left as it is.
        short: The answer of each suite, in two sentences.
        problems: Errors of results that cannot be read, and are in none of the files.
        unchecked: Number of records without a checksum: those of schema 1.
    """

    files: dict[Path, bytes | None] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unchecked: int = 0

    def add(self, other: "Built") -> None:
        """Add the files and sentences of other pages; the problems of their results are here already."""
        self.files |= other.files
        self.short |= other.short

    def take(self, groups: Sequence[Evidence]) -> None:
        """Add the problems and the unchecked records of a suite's results."""
        for evidence in groups:
            self.problems += evidence.problems
            entries = [*evidence.entries, *(entry for entry, _ in evidence.excluded)]
            self.unchecked += sum(not entry.checked for entry in entries)


@contextmanager
def _single_threaded_without_gc() -> Iterator[None]:
    """Compute matrices in one thread and pause the search for reference cycles.

    The matrices are small, and threads would take longer to wait for each other. There are no reference cycles, and the search
    visits the records of all results again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        if was_enabled:
            gc.enable()


@_single_threaded_without_gc()
def build(
    workspace: Workspace, suites: Sequence[str], *, draw: bool = True, pdf: bool = False, indexed: bool = True
) -> Built:
    """Return the content of every file of the leaderboard.

    A figure is drawn if its data has changed or a drawing is missing; delete its CSV to draw it again.

    Args:
        workspace: The workspace with the results.
        suites: Suites whose pages are built, each with results; the index lists all suites with results.
        draw: Whether figures are drawn.
        pdf: Whether figures are drawn as PDF too.
        indexed: Whether results are read from the index of result files, or from the files.

    Raises:
        InputError: `suite.json` next to a suite's results, or its registration, is damaged.
    """
    built = Built()
    files = built.files
    cache = workspace.cache if indexed else None
    if FOREIGN in suites:
        files[workspace.leaderboard / f"{FOREIGN}.md"] = render_foreign(workspace.results, cache).encode()
    readme = workspace.root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else None
    lines: list[dict[str, str]] = []
    untransferred: list[dict[str, str]] = []
    answers: list[str] = []
    shown = []
    foreign: Sequence[ForeignTable] = ()
    for name in suites_with_results(workspace.results):
        if name == FOREIGN:
            index = load_index(workspace.results, name, cache)
            foreign = foreign_tables(index)
            lines.append(_line(name, "Snapshots from outside the suites", f"{len(index.entries):,}"))
            if name in suites:
                built.problems += index.problems
                built.unchecked += index.unchecked
            continue
        try:
            suite = read_suite(workspace.results, name)
            groups = gather(workspace.results, suite, cache)
        except InputError as error:
            if name in suites:
                raise
            lines.append({"suite": name, "title": str(error), "cells": NOTHING})
            continue
        if not suite.targets:
            untransferred.append(_source_line(groups[0]))
            if name in suites:
                built.take(groups)
                built.short[name] = source_sentence(groups[0])
                files[workspace.leaderboard / f"{name}.md"] = render_source(groups[0]).encode()
            continue
        decisions = [decide(evidence) for evidence in groups]
        first = groups[0]
        drawn = [*figures(first), *measure_figures(first)]
        count = f"{first.completed:,} of {first.expected:,}" + (
            " (incomplete)" if first.completed < first.expected else ""
        )
        lines.append(_line(name, f"{suite.title or name}{' (partial data)' * first.partial}", count))
        answers.append(answer(first, decisions[0]))
        lead = f"{suite_sentence(suite)} {count} cells have results. {source_accuracy(first)}".rstrip()
        lead += f" {registration_sentence(first, first.registration)}"
        shown.append(suite_data(first, decisions[0], drawn, lead))
        if name in suites:
            built.take(groups)
            built.short[name] = in_short(first, decisions[0])
            pages = _pages(suite, groups, decisions, () if first.partial else drawn)
            files |= {workspace.leaderboard / path: page.encode() for path, page in pages.items()}
            files |= figure_files(workspace.leaderboard / "figures", name, drawn, draw=draw, pdf=pdf)
            if text is not None:
                text = _between_markers(text, name, _excerpt(suite, first, decisions[0], drawn))
    files[workspace.leaderboard / "README.md"] = _index(lines, answers, untransferred).encode()
    files[workspace.leaderboard / "index.html"] = render(shown, foreign).encode()
    if text is not None:
        files[readme] = text.encode()
    return built


def _pages(
    suite: Suite, groups: Sequence[Evidence], decisions: Sequence[Sequence[Decision]], drawn: Sequence[Figure]
) -> dict[str, str]:
    """Return the pages of a suite and of its rows, by path relative to the leaderboard's folder."""
    has_partial = any(evidence.completed for evidence in groups[1:])
    return {
        f"{suite.name}.md": render_suite(suite, groups[0], decisions[0], drawn, partial=has_partial),
        details_path(suite.name): render_details(suite, groups, decisions, drawn),
        **render_rows(groups),
    }


def figure_files(
    folder: Path, suite: str, drawn: Sequence[Figure], *, draw: bool, pdf: bool
) -> dict[Path, bytes | None]:
    """Return the data and drawings of figures by path; None for a drawing that is left as it is.

    Args:
        folder: Folder of the figures.
        suite: Name of the suite or study, with which their files begin.
        drawn: The figures.
        draw: Whether figures whose data has changed are drawn.
        pdf: Whether they are drawn as PDF too.
    """
    files: dict[Path, bytes | None] = {}
    for figure in drawn:
        path = folder / f"{suite}-{figure.name}.csv"
        files[path] = data = figure.data.to_csv(index=False, lineterminator="\n").encode()
        with_pdf = pdf or path.with_suffix(PDF).is_file()
        drawings = [path.with_suffix(ending) for ending in (*DRAWN, *[PDF] * with_pdf)]
        files |= dict.fromkeys(drawings)
        if draw and not (_has_content(path, data) and all(drawing.is_file() for drawing in drawings)):
            content = figure.drawings(suite, [drawing.suffix for drawing in drawings])
            files |= {drawing: content[drawing.suffix] for drawing in drawings}
    return files


def write(workspace: Workspace, suites: Sequence[str], *, pdf: bool = False) -> Built:
    """Write the leaderboard's files, each atomically; files that are up to date are not touched.

    Args:
        workspace: The workspace with the results.
        suites: Suites whose pages are written.
        pdf: Whether figures are drawn as PDF too.
    """
    # The lock covers reading: the last of several jobs to write must have read the results of all.
    with locked(workspace.cache / "pages", Control()):
        built = build(workspace, suites, pdf=pdf)
        write_files(built)
    return built


def write_files(built: Built) -> None:
    """Write the files that are out of date, each atomically."""
    for path, content in built.files.items():
        if content is not None and not _has_content(path, content):
            write_bytes(path, content)


def stale(built: Built) -> list[Path]:
    """Return the files that are missing or out of date; drawings only have to exist."""
    return [
        path
        for path, content in built.files.items()
        if not (path.is_file() if content is None else _has_content(path, content))
    ]


def _has_content(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _line(name: str, title: str, cells: str) -> dict[str, str]:
    return {"suite": link(name, f"{name}.md"), "title": title, "cells": cells}


def _source_line(evidence: Evidence) -> dict[str, str]:
    """Return a suite without targets as a row of the index."""
    suite = evidence.suite
    return {
        "suite": link(suite.name, f"{suite.name}.md"),
        "title": suite.title or suite.name,
        "study": link(suite.study, study_path(suite.study)) if suite.study else NOTHING,
        "predictions": f"{evidence.completed:,} of {evidence.expected:,}",
    }


def _index(lines: Sequence[dict[str, str]], answers: Sequence[str], untransferred: Sequence[dict[str, str]]) -> str:
    """Return the index page: the answer of each suite, then tables of the suites with and without targets."""
    question = "**Does learning-rate decay make features less transferable?**"
    parts = [
        "# Leaderboard",
        f"{question} {for_markdown(answers[0])}" if len(answers) == 1 else "",
        f"{question}\n\n{bullets(answers)}" if len(answers) > 1 else "",
        table(lines),
        f"Suites without targets, for [studies](../docs/studies.md) of the source alone:\n\n{table(untransferred)}"
        if untransferred
        else "",
        "Open [index.html](index.html) in a browser for tables that sort and filter. `lrbench leaderboard` generates these "
        "pages from the [results](results); do not edit them.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _excerpt(suite: Suite, evidence: Evidence, decisions: Sequence[Decision], drawn: Sequence[Figure]) -> str:
    """Return the part of the project's README that shows a suite: the answer, one table and one figure."""
    protocol = suite.protocols[0]
    rows = [row for row in evidence.rows if not ARMS[row[0]].intermediate]
    parts = [
        f"**{for_markdown(answer(evidence, decisions))}**",
        for_markdown(f"{incomplete(evidence)} {source_accuracy(evidence)}"),
        tables.accuracy_table(evidence, protocol, rows=rows),
        for_markdown(tables.accuracy_legend(evidence, protocol)),
        *[figure.markdown(suite.name, "leaderboard/figures") for figure in drawn if figure.name == "stages"],
        "Verdicts, controls, intermediate snapshots and the other protocols: "
        f"[leaderboard/{suite.name}.md](leaderboard/{suite.name}.md).",
    ]
    return "\n\n".join(part for part in parts if part)


def _between_markers(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- lrbench:begin {name} -->", f"<!-- lrbench:end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)
