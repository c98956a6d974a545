"""`lrbench results remove`: remove results from the workspace."""

from typing import Annotated

import typer

from lrbench.cli.common import confirmed, note, show, some
from lrbench.core.wording import counted


def remove(
    patterns: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULT",
            help="Names as `results list` prints them, suites, or paths of records; with * and ? as in a shell, in quotes.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove results with their predictions. Snapshots and pages stay; `lrbench leaderboard` writes the pages again."""
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.store.selection import remove_results, select_results

    workspace = Workspace.current()
    names = select_results(workspace, patterns)
    suites: dict[str, list[str]] = {}
    for name in names:
        suites.setdefault(name.suite, []).append(name.cell)
    for suite, cells in suites.items():
        note(f"{suite}: {counted(len(cells), 'result')}: {some(cells)}")
        if (workspace.registrations / f"{suite}.json").is_file():
            note(f"  {suite} is registered; results that are computed again may count as exploratory")
    note("The next `lrbench run` of the suite computes them again.")
    if not yes and not confirmed("Remove this result?" if len(names) == 1 else f"Remove these {len(names):,} results?"):
        raise InputError("Nothing was removed. Pass --yes to remove without confirmation.")
    remove_results(workspace, names)
    show(f"removed {counted(len(names), 'result')}")
