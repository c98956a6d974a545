"""`lrbench leaderboard`: pages, tables and figures from what results there are."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lrbench.cli.common import JsonOption, emit_json, note, show, show_bytes, warn

if TYPE_CHECKING:
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.frames import Format

# Damaged results in one warning.
_SHOWN = 3


def leaderboard(
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Only this suite's page. [default: all that have results]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a page differs from what the results say.")
    ] = False,
    form: Annotated[
        Literal["md", "csv", "json", "parquet", "latex"] | None,
        typer.Option(
            "--format",
            help="Print instead of writing pages. csv, json, parquet: a row a cell; md, latex: the headline tables.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Print into this file, in the format of its ending unless --format names one."
        ),
    ] = None,
    figures: Annotated[
        Literal["pdf"] | None,
        typer.Option(
            "--figures", help="pdf: draw each figure as PDF too, next to its SVG; from then on it is kept up to date."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="NAME", help="Print only this protocol's (as md, unless --format)."),
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", metavar="ARM", help="Print only this arm's (as md, unless --format).")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write the leaderboard from the results; incomplete rows say so."""
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard import page
    from lrbench.store.index import load_index
    from lrbench.store.results import suites_with_results

    workspace = Workspace.current() if check else Workspace.for_writing()
    suites = [_with_results(workspace, suite)] if suite else suites_with_results(workspace.results)
    if not suites:
        raise InputError(
            f"there are no results in {workspace.results.absolute()}. `lrbench run quick` makes some, in minutes on a CPU."
        )
    if check and (form or protocol or arm or out):
        raise InputError(
            "--check compares the pages with the results and prints no table. Use it without --format, --out, --protocol and "
            "--arm."
        )
    if figures and (check or form or protocol or arm or out):
        raise InputError(
            "--figures draws the pages' figures, and this command writes no pages. Use it without --check, --format, --out, "
            "--protocol and --arm."
        )
    if form or protocol or arm or out:
        _print(workspace, suites, form or _form_of(out), out, protocol, arm)
        found = [load_index(workspace.results, name, workspace.cache) for name in suites]
        _warn_of([problem for each in found for problem in each.problems])
        return
    if check:
        built = page.build(workspace, suites, draw=False, indexed=False)
        stale = page.stale(built)
        _warn_of(built.problems)
        _note_unchecked(built.unchecked)
        if json_:
            emit_json({"stale": [str(path) for path in stale]})
        if stale:
            groups = {"not there": [path for path in stale if not path.exists()]}
            groups["not what the results say"] = [path for path in stale if path.exists()]
            said = ". ".join(f"{', '.join(map(str, paths))}: {what}" for what, paths in groups.items() if paths)
            raise FailureError(f"{said}. `lrbench leaderboard` writes {'it' if len(stale) == 1 else 'them'} anew.")
        note(f"the pages of {', '.join(suites)} are what the results say")
        return
    written = page.write(workspace, suites, pdf=figures == "pdf")
    if json_:
        emit_json({"written": [str(path) for path in written.files]})
    else:
        # Where to begin reading: no pages of single rows, and no figures.
        pages = [path for path in written.files if path.parent in (workspace.leaderboard, workspace.root)]
        for path in pages:
            show(str(path))
        if others := len(written.files) - len(pages):
            note(f"and {others} files that they show or lead to: figures with their data, a page a row")
    _warn_of(written.problems)
    _note_unchecked(written.unchecked)


def _warn_of(problems: Sequence[str]) -> None:
    """Say which results are left out because their files are damaged."""
    if problems:
        count = len(problems)
        more = f" And {count - _SHOWN} more, listed on the pages of the leaderboard." if count > _SHOWN else ""
        warn(
            f"{count} result{' is' if count == 1 else 's are'} left out, whose files cannot be read: "
            f"{' '.join(problems[:_SHOWN])}{more}"
        )


def _note_unchecked(count: int) -> None:
    """Say how many records cannot be checked."""
    if count:
        note(
            f"{count:,} {'result is' if count == 1 else 'results are'} of schema 1, whose records have no checksum: a changed "
            "record is noticed only where it contradicts its predictions"
        )


def _with_results(workspace: "Workspace", name: str) -> str:
    """The name of a suite that has results here, given that name or the path of its TOML.

    Raises:
        InputError: It has none.
    """
    from lrbench.config import find_suites, load_suite, suggestion
    from lrbench.config.registry import is_path
    from lrbench.core.errors import InputError
    from lrbench.store.results import suites_with_results
    from lrbench.store.suites import effective_path

    known = suites_with_results(workspace.results)
    if name in known:
        return name
    by_path = is_path(name)
    if by_path and (named := load_suite(name).name) in known:
        return named
    ways = (
        f"`lrbench run {name}` makes them"
        if by_path or name in find_suites() or effective_path(workspace, name).is_file()
        else f"There are: {', '.join(known) or 'none'}"
    )
    raise InputError(
        f"there are no results of a suite {name!r} in {workspace.results.absolute()}.{suggestion(name, known)} {ways}."
    )


def _form_of(out: Path | None) -> "Format":
    """The format that a file's ending asks for; Markdown where there is no file.

    Raises:
        InputError: An ending that names none.
    """
    from lrbench.core.errors import InputError

    endings: dict[str, Format] = {
        ".md": "md", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".tex": "latex",
    }  # fmt: skip
    ending = ".md" if out is None else out.suffix.lower()
    if ending not in endings:
        raise InputError(
            f"--out {out}: its ending names no format. Use one of {', '.join(endings)}, or say --format beside it."
        )
    return endings[ending]


def _print(
    workspace: "Workspace",
    suites: Sequence[str],
    form: "Format",
    out: Path | None,
    protocol: str | None,
    arm: str | None,
) -> None:
    from lrbench.core.errors import InputError
    from lrbench.core.files import write_bytes
    from lrbench.leaderboard.frames import formatted

    if form == "parquet" and out is None and sys.stdout.isatty():
        raise InputError("Parquet is binary, and standard output is a terminal. Name a file: --out results.parquet")
    content = formatted(workspace, suites, form, protocol=protocol, arm=arm)
    if out is None and form == "parquet":
        show_bytes(content)
    elif out is None:
        show(content.decode().removesuffix("\n"))
    else:
        write_bytes(out, content)
        note(f"written to {out}")
