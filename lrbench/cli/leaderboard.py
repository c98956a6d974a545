"""`lrbench leaderboard`: pages, tables and figures from what results there are."""

from typing import Annotated

import typer

from lrbench.cli.common import JsonOption, emit_json, note


def leaderboard(
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Only this suite's page. [default: all that have results]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a page differs from what the results say.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write the leaderboard from the results; incomplete rows say so."""
    from lrbench.errors import FailureError, InputError
    from lrbench.leaderboard import page
    from lrbench.results import suites_with_results
    from lrbench.workspace import Workspace

    workspace = Workspace.current()
    suites = [suite] if suite else suites_with_results(workspace.results)
    if not suites:
        raise InputError(
            f"there are no results in {workspace.results.absolute()}. `lrbench run quick` makes some, in minutes on a CPU."
        )
    if check:
        stale = page.check(workspace, suites)
        if json_:
            emit_json({"stale": [str(path) for path in stale]})
        if stale:
            listed = ", ".join(map(str, stale))
            raise FailureError(
                f"{listed}: not what the results say. `lrbench leaderboard` writes {'it' if len(stale) == 1 else 'them'} "
                "anew."
            )
        note(f"the pages of {', '.join(suites)} are what the results say")
        return
    written = page.write(workspace, suites)
    if json_:
        emit_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(str(path))
