"""`lrbench leaderboard`: pages, tables and figures from the results."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lrbench.cli.common import JsonOption, emit_json, note, show, show_bytes, table, warn

if TYPE_CHECKING:
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.frames import Format

# Most damaged results in one warning.
_SHOWN = 3


def leaderboard(
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Only this suite's page. [default: all suites with results]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a page does not match the results.")
    ] = False,
    form: Annotated[
        Literal["md", "csv", "json", "parquet", "latex"] | None,
        typer.Option(
            "--format",
            help="Print instead of writing pages. csv, json, parquet: one row per cell; md, latex: the headline tables.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write to this file, in the format of its extension unless --format is given.",
        ),
    ] = None,
    figures: Annotated[
        Literal["pdf"] | None,
        typer.Option("--figures", help="pdf: also write each figure as PDF next to its SVG; later runs update it."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="NAME", help="Print only this protocol (as md, unless --format is given)."),
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", metavar="ARM", help="Print only this arm (as md, unless --format is given).")
    ] = None,
    rules: Annotated[
        bool,
        typer.Option(
            "--rules",
            help="Print how well LogME and static rules rank the snapshots of SUITE by their accuracy (--protocol, or else the "
            "suite's first). Writes nothing.",
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write the leaderboard from the results; incomplete rows are marked."""
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard import page
    from lrbench.store.index import load_index
    from lrbench.store.results import suites_with_results
    from lrbench.studies.page import build_studies, studies_of, write_studies

    workspace = Workspace.current() if check else Workspace.for_writing()
    suites = [suite_with_results(workspace, suite)] if suite else suites_with_results(workspace.results)
    if not suites:
        raise InputError(
            f"There are no results in {workspace.results.absolute()}. Run `lrbench run quick`, which takes minutes on a CPU."
        )
    if check and (form or protocol or arm or out):
        raise InputError(
            "--check compares the pages with the results and prints no tables. Remove --format, --out, --protocol and --arm."
        )
    if rules:
        if suite is None or check or form or out or figures or arm:
            raise InputError(
                "--rules judges rules on one suite and prints a table. Name the suite, and remove --check, --format, --out, "
                "--figures and --arm."
            )
        _show_rules(workspace, suites[0], protocol, as_json=json_)
        return
    if figures and (check or form or protocol or arm or out):
        raise InputError(
            "--figures applies to pages, and this command writes none. Remove --check, --format, --out, --protocol and --arm."
        )
    if form or protocol or arm or out:
        _print(workspace, suites, form or _form_of(out), out, protocol, arm)
        indices = [load_index(workspace.results, name, workspace.cache) for name in suites]
        _warn_of([problem for index in indices for problem in index.problems])
        return
    if check:
        built = page.build(workspace, suites, draw=False, indexed=False)
        built.add(build_studies(workspace, studies_of(suites), draw=False, indexed=False))
        stale = page.stale(built)
        _warn_of(built.problems)
        _note_unchecked(built.unchecked)
        if json_:
            emit_json({"stale": [str(path) for path in stale]})
        if stale:
            groups = {"missing": [path for path in stale if not path.exists()]}
            groups["out of date"] = [path for path in stale if path.exists()]
            listed = ". ".join(f"{', '.join(map(str, paths))}: {state}" for state, paths in groups.items() if paths)
            raise FailureError(f"{listed}. Run `lrbench leaderboard` to update {'it' if len(stale) == 1 else 'them'}.")
        note(f"the pages of {', '.join(suites)} match the results")
        return
    written = page.write(workspace, suites, pdf=figures == "pdf")
    written.add(write_studies(workspace, studies_of(suites)))
    if json_:
        emit_json({"written": [str(path) for path in written.files]})
    else:
        # The entry pages: neither pages of single rows nor figures.
        entries = (workspace.leaderboard, workspace.leaderboard / "studies", workspace.root)
        pages = [path for path in written.files if path.parent in entries]
        for path in pages:
            show(str(path))
        if others := len(written.files) - len(pages):
            note(f"and {others} files they link to: figures, their data, and pages of single rows")
    _warn_of(written.problems)
    _note_unchecked(written.unchecked)


def _show_rules(workspace: "Workspace", name: str, protocol: str | None, *, as_json: bool) -> None:
    from lrbench.config import suggestion
    from lrbench.core.errors import InputError
    from lrbench.leaderboard.gathering import read_suite
    from lrbench.leaderboard.rules import judge, judgement_rows, judgement_text

    suite = read_suite(workspace.results, name)
    if not suite.protocols:
        raise InputError(f"suite {name} has no targets, so there is nothing to rank its snapshots for.")
    if protocol is not None and protocol not in suite.protocols:
        raise InputError(
            f"suite {name} has no protocol {protocol!r}.{suggestion(protocol, suite.protocols)} It has "
            f"{', '.join(suite.protocols)}."
        )
    judgement = judge(workspace, suite, protocol or suite.protocols[0])
    if as_json:
        emit_json(asdict(judgement))
        return
    if judgement.rules:
        show(f"{table(judgement_rows(judgement), wrapped='rule')}\n")
    show(judgement_text(judgement))


def _warn_of(problems: Sequence[str]) -> None:
    """Warn of results whose files are damaged."""
    if problems:
        count = len(problems)
        more = f" And {count - _SHOWN} more, listed on the pages of the leaderboard." if count > _SHOWN else ""
        warn(
            f"{count} result{' is' if count == 1 else 's are'} left out because the files cannot be read: "
            f"{' '.join(problems[:_SHOWN])}{more}"
        )


def _note_unchecked(count: int) -> None:
    """Print the number of records without a checksum."""
    if count:
        note(
            f"{count:,} {'result has' if count == 1 else 'results have'} schema 1, without a checksum: a changed record is "
            "detected only if it contradicts its predictions"
        )


def suite_with_results(workspace: "Workspace", name: str) -> str:
    """Return the name of a suite with results, given its name or the path of its TOML.

    Raises:
        InputError: The suite has no results.
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
    advice = (
        f"Run `lrbench run {name}`"
        if by_path or name in find_suites() or effective_path(workspace, name).is_file()
        else f"Suites with results: {', '.join(known) or 'none'}"
    )
    raise InputError(
        f"There are no results of suite {name!r} in {workspace.results.absolute()}.{suggestion(name, known)} {advice}."
    )


def _form_of(out: Path | None) -> "Format":
    """Return the format of a file's extension; Markdown without a file.

    Raises:
        InputError: The extension is unknown.
    """
    from lrbench.core.errors import InputError

    endings: dict[str, Format] = {
        ".md": "md", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".tex": "latex",
    }  # fmt: skip
    ending = ".md" if out is None else out.suffix.lower()
    if ending not in endings:
        raise InputError(f"--out {out} has no known extension. Use {', '.join(endings)}, or add --format.")
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
        raise InputError("Parquet is binary, and stdout is a terminal. Name a file: --out results.parquet")
    content = formatted(workspace, suites, form, protocol=protocol, arm=arm)
    if out is None and form == "parquet":
        show_bytes(content)
    elif out is None:
        show(content.decode().removesuffix("\n"))
    else:
        write_bytes(out, content)
        note(f"wrote {out}")
