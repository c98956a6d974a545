"""`lrbench suites`: the available suites."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import JsonOption, emit_json, show, table

if TYPE_CHECKING:
    from lrbench.config import Suite


def suites(
    name: Annotated[
        str | None,
        typer.Argument(metavar="SUITE", help="Show this suite in full: a name, or the path of a suite TOML."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List the suites, or show one in full with its defaults."""
    from lrbench.config import find_suites, load_suite

    if name is not None:
        content = load_suite(name).model_dump(mode="json", exclude_none=True)
        if json_:
            emit_json(content)
            return
        import tomli_w

        show(tomli_w.dumps(content).rstrip())
        return
    known = [load_suite(suite) for suite in find_suites()]
    rows = [_row(suite) for suite in known]
    if json_:
        emit_json(rows)
        return
    show(table([_words(row) for row in rows], wrapped="protocols", spare=["network", "source"]))
    show("\n`lrbench suites SUITE` shows one in full; `lrbench plan SUITE` its cost.")


def _row(suite: "Suite") -> dict[str, Any]:
    from lrbench.config.schedule import snapshot_keys

    keys = snapshot_keys(suite)
    cells = sum(suite.uses(protocol, key.arm) for key in keys for protocol in suite.protocols)
    return {
        "suite": suite.name,
        "network": suite.model.architecture,
        "source": suite.source,
        "arms": list(suite.arms),
        "seeds": list(suite.seeds),
        "targets": list(suite.targets),
        "protocols": list(suite.protocols),
        "snapshots": len(keys),
        "cells": cells * len(suite.targets) * len(suite.transfer_seeds),
    }


def _words(row: dict[str, Any]) -> dict[str, str]:
    counted = {name: str(len(row[name])) for name in ("arms", "seeds", "targets")}
    numbers = {name: f"{row[name]:,}" for name in ("snapshots", "cells")}
    return (
        {name: str(value) for name, value in row.items()}
        | counted
        | numbers
        | {"protocols": ", ".join(row["protocols"])}
    )
