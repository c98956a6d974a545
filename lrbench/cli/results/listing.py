"""`lrbench results list`: results by name."""

from typing import Annotated

import typer

from lrbench.cli.common import JsonOption, emit_json, note, show, table

PatternsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RESULT",
        help="Names as `results list` prints them, suites, or paths of records; with * and ? as in a shell, in quotes. "
        "[default: all]",
    ),
]


def list_(patterns: PatternsArgument = None, json_: JsonOption = False) -> None:
    """List the results of the workspace by name."""
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.store.results import load_result
    from lrbench.store.selection import select_results

    workspace = Workspace.current()
    rows = []
    for name in select_results(workspace, patterns or ()):
        row: dict[str, object] = {"result": str(name)}
        try:
            result = load_result(name.path(workspace), name.suite).result
        except InputError as error:
            rows.append(
                {**row, "headline": None, "metric": None, "computed": None, "origin": None, "problem": str(error)}
            )
            continue
        origin = None if result.origin is None else result.origin.name
        rows.append(
            {
                **row,
                "headline": result.headline,
                "metric": result.task.metric,
                "computed": result.computed,
                "origin": origin,
            }
        )
    if json_:
        emit_json(rows)
        return
    if not rows:
        note("there are no results. `lrbench run` and `lrbench transfer` compute some.")
        return
    shown = [
        {
            "result": row["result"],
            "accuracy": "damaged" if row["headline"] is None else f"{100 * float(str(row['headline'])):.2f} %",
            "computed": row["computed"] or "",
            "received from": row["origin"] or "",
        }
        for row in rows
    ]
    if not any(row["received from"] for row in shown):
        shown = [{key: value for key, value in row.items() if key != "received from"} for row in shown]
    show(table(shown, wrapped="result"))
