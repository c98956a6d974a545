"""The leaderboard's files: a page a suite, the index, figures, and the README's own tables.

Everything is made from the results alone and holds no clock, so that it can be compared byte by byte.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.escaping import for_markdown
from lrbench.core.files import write_bytes
from lrbench.core.locks import locked
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard.claims import Decision, decide
from lrbench.leaderboard.evidence import Evidence
from lrbench.leaderboard.figures import Figure, figures
from lrbench.leaderboard.foreign_page import ForeignTable, foreign_tables, render_foreign
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.leaderboard.markup import NOTHING, link, table
from lrbench.leaderboard.row_pages import render_rows
from lrbench.leaderboard.suite_page import headline_block, plain_lead, progress, render_suite
from lrbench.leaderboard.summary import in_short
from lrbench.leaderboard.webpage import render, suite_data
from lrbench.store.index import load_index
from lrbench.store.results import suites_with_results

# Drawn by matplotlib, whose versions differ in bytes: written, but not compared.
DRAWN = (".svg", ".png")
# Drawn where asked for, and from then on kept up to date.
PDF = ".pdf"


@dataclass(kw_only=True)
class Built:
    """The leaderboard.

    Attributes:
        files: Path to content; None for a drawing that is left as it is.
        short: What the results of each suite say, in two sentences.
        problems: What is wrong with results that could not be read, and are in none of the files.
        unchecked: How many records have no checksum of their own: those of schema 1.
    """

    files: dict[Path, bytes | None] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unchecked: int = 0


def build(
    workspace: Workspace, suites: Sequence[str], *, draw: bool = True, pdf: bool = False, indexed: bool = True
) -> Built:
    """The content of every file of the leaderboard.

    A figure is drawn anew where its data has changed or a drawing is missing; delete its CSV to have it drawn anyway.

    Args:
        workspace: Whose results.
        suites: Suites whose pages are made, each with results; the index has all.
        draw: Whether figures are drawn at all.
        pdf: Whether they are drawn as PDF too.
        indexed: Whether results are read from the index of result files, rather than from the files.

    Raises:
        InputError: What stands beside a suite's results is damaged.
    """
    built = Built()
    files = built.files
    cache = workspace.cache if indexed else None
    known = suites_with_results(workspace.results)
    if FOREIGN in suites:
        files[workspace.leaderboard / f"{FOREIGN}.md"] = render_foreign(workspace.results, cache).encode()
    readme = workspace.root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else None
    index, shown = [], []
    foreign: Sequence[ForeignTable] = ()
    for name in known:
        if name == FOREIGN:
            found = load_index(workspace.results, name, cache)
            foreign = foreign_tables(found)
            index.append(_line(name, "Snapshots from outside the suites", f"{len(found.entries):,}"))
            if name in suites:
                built.problems += found.problems
                built.unchecked += found.unchecked
            continue
        try:
            suite = read_suite(workspace.results, name)
        except InputError as error:
            if name in suites:
                raise
            index.append({"suite": name, "what": str(error), "cells": NOTHING})
            continue
        bodies = gather(workspace.results, suite, cache)
        decisions = [decide(body) for body in bodies]
        drawn = figures(bodies[0])
        there, expected = progress(bodies)
        count = f"{there:,} of {expected:,}" + (" (incomplete)" if there < expected else "")
        partial = " (partial data)" if bodies[0].partial else ""
        index.append(_line(name, f"{suite.title or name}{partial}", count))
        shown.append(suite_data(bodies[0], decisions[0], drawn, f"{plain_lead(suite)} {count} cells."))
        if name in suites:
            built.problems += [problem for body in bodies for problem in body.problems]
            entries = [entry for body in bodies for entry in (*body.stored, *(apart for apart, _ in body.apart))]
            built.unchecked += sum(not entry.checked for entry in entries)
            built.short[name] = in_short(bodies[0], decisions[0])
            files[workspace.leaderboard / f"{name}.md"] = render_suite(suite, bodies, decisions, drawn).encode()
            files |= {workspace.leaderboard / path: page.encode() for path, page in render_rows(bodies).items()}
            files |= _figures(workspace.leaderboard / "figures", name, drawn, draw=draw, pdf=pdf)
            if text is not None:
                text = _between_markers(text, name, _excerpt(suite, bodies[0], decisions[0]))
    files[workspace.leaderboard / "README.md"] = _index(index).encode()
    files[workspace.leaderboard / "index.html"] = render(shown, foreign).encode()
    if text is not None:
        files[readme] = text.encode()
    return built


def _figures(folder: Path, suite: str, drawn: Sequence[Figure], *, draw: bool, pdf: bool) -> dict[Path, bytes | None]:
    files: dict[Path, bytes | None] = {}
    for figure in drawn:
        path = folder / f"{suite}-{figure.name}.csv"
        files[path] = data = figure.data.to_csv(index=False, lineterminator="\n").encode()
        with_pdf = pdf or path.with_suffix(PDF).is_file()
        drawings = [path.with_suffix(ending) for ending in (*DRAWN, *[PDF] * with_pdf)]
        files |= dict.fromkeys(drawings)
        if draw and not (_is(path, data) and all(each.is_file() for each in drawings)):
            content = figure.drawings(suite, [drawing.suffix for drawing in drawings])
            files |= {each: content[each.suffix] for each in drawings}
    return files


def write(workspace: Workspace, suites: Sequence[str], *, pdf: bool = False) -> Built:
    """Write the leaderboard's files, each atomically; those that are as they should be are left alone.

    Args:
        workspace: Whose results.
        suites: Suites whose pages are written.
        pdf: Whether figures are drawn as PDF too.
    """
    # Of several jobs that end together, the last to write must be one that has seen the results of all.
    with locked(workspace.cache / "pages", Control()):
        built = build(workspace, suites, pdf=pdf)
        for path, content in built.files.items():
            if content is not None and not _is(path, content):
                write_bytes(path, content)
    return built


def stale(built: Built) -> list[Path]:
    """The files that are missing or differ from what the results say; drawings only have to be there."""
    return [
        path for path, content in built.files.items() if not (path.is_file() if content is None else _is(path, content))
    ]


def _is(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _line(name: str, what: str, cells: str) -> dict[str, str]:
    return {"suite": link(name, f"{name}.md"), "what": what, "cells": cells}


def _index(rows: Sequence[dict[str, str]]) -> str:
    return (
        "# Leaderboard\n\nHow the snapshots of each stage of pretraining transfer. Made by `lrbench leaderboard` from "
        "[results](results); nothing here is written by hand. Open [index.html](index.html) in a browser for tables that sort "
        f"and filter.\n\n{table(rows)}\n"
    )


def _excerpt(suite: Suite, body: Evidence, decisions: Sequence[Decision]) -> str:
    return (
        f"{for_markdown(in_short(body, decisions))}\n\n{headline_block(body, suite.protocols[0])}\n\n"
        f"![Target accuracy against stage, a line for each target](leaderboard/figures/{suite.name}-stages.svg)\n\n"
        f"Verdicts, differences, T, controls and the other protocols: "
        f"[leaderboard/{suite.name}.md](leaderboard/{suite.name}.md)."
    )


def _between_markers(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- lrbench:begin {name} -->", f"<!-- lrbench:end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)
