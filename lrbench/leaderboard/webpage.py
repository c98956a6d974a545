"""`index.html`: the leaderboard as one file that needs no network and shows the JSON inside it."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from lrbench.config.task import METRIC_NAMES
from lrbench.leaderboard import summary, tables
from lrbench.leaderboard.claims import CLAIMS, Decision, find
from lrbench.leaderboard.evidence import Column, Evidence, Row, row_name
from lrbench.leaderboard.figure_data import null_curve, tradeoff_data
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.foreign_page import LEAD, ForeignTable, legend
from lrbench.leaderboard.markup import CHANGE, SHARE, Marked, verdict_text
from lrbench.stats.intervals import Estimate
from lrbench.store.index import Entry


def render(suites: Sequence[dict[str, Any]], foreign: Sequence[ForeignTable] = ()) -> str:
    """Return the page of suites, each from `suite_data`, and of snapshots that belong to no suite."""
    content = {
        "claims": [{"name": claim.name, "title": claim.title, "statement": claim.statement} for claim in CLAIMS],
        "suites": list(suites),
        "foreign": {"lead": LEAD, "tables": [_foreign(table) for table in foreign]},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Only these could end the script element.
    safe = text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return _template("webpage.html").replace("__STYLE__", style_sheet()).replace("__DATA__", safe)


def style_sheet() -> str:
    """Return the style sheet of every page in HTML."""
    return _template("webpage.css")


def _template(name: str) -> str:
    return files("lrbench.leaderboard").joinpath(name).read_text(encoding="utf-8")


def suite_data(evidence: Evidence, decisions: Sequence[Decision], drawn: Sequence[Figure], lead: str) -> dict[str, Any]:
    """Return everything that the page shows of one suite, with accuracies in percent.

    Args:
        evidence: The suite's results.
        decisions: The decisions on every claim.
        drawn: The suite's figures; the page draws their data itself.
        lead: Description of the suite.
    """
    suite = evidence.suite
    chosen: dict[str, int] = {}
    entries: dict[tuple[Row, Column], list[Entry]] = {}
    for entry in evidence.entries:
        if entry.arm is not None and entry.stage is not None:
            column = Column(protocol=entry.protocol, task=entry.task)
            entries.setdefault(((entry.arm, entry.stage), column), []).append(entry)
    cells: dict[str, dict[str, list[dict[str, Any] | None]]] = {}
    for column in evidence.columns:
        best = tables.leader(evidence, column)
        cells.setdefault(column.protocol, {})[column.task] = [
            _cell(evidence, row, column, entries.get((row, column), []), chosen, best=row == best)
            for row in evidence.rows
        ]
    return {
        "name": suite.name,
        "title": (suite.title or suite.name) + (" (partial data)" if evidence.partial else ""),
        "lead": lead,
        "answer": summary.answer(evidence, decisions),
        "evidence": _plain_table(summary.claim_evidence(evidence, decisions)),
        "checkpoints": {
            protocol: _plain_table(summary.which_checkpoint(evidence, protocol)) for protocol in suite.protocols
        },
        "seeds": list(suite.seeds),
        "stages": suite.schedule.stages,
        "protocols": list(suite.protocols),
        "targets": list(suite.targets),
        "arms": list(suite.arms),
        "metrics": {column.task: METRIC_NAMES[values.metric] for column, values in evidence.values.items()},
        "rows": [
            {
                "arm": row[0],
                "stage": row[1],
                "name": row_name(row),
                "protocols": [protocol for protocol in suite.protocols if suite.uses(protocol, row[0])],
                "source": _estimate(evidence.source_accuracy(row), SHARE),
                "before": None if (before := evidence.previous(row)) is None else evidence.rows.index(before),
            }
            for row in evidence.rows
        ],
        "cells": cells,
        "chosen": list(chosen),
        "verdicts": {
            protocol: {
                claim.name: [
                    [decision.verdict, verdict_text(decision.verdict, suite.margin)]
                    for task in (None, *suite.targets)
                    if (decision := find(decisions, claim, protocol, task, None)) is not None
                ]
                for claim in CLAIMS
            }
            for protocol in suite.protocols
        },
        "forest": _records(drawn, "decay-minus-control"),
        "tradeoff": _records(drawn, "source-and-target"),
        "nulls": _nulls(evidence),
        "learned": [
            {
                "title": tables.REPORT[name],
                "levels": [_estimate(evidence.reported(name, row), SHARE) for row in evidence.rows],
            }
            for name in tables.REPORT
            if name in evidence.report
        ],
    }


def _cell(
    evidence: Evidence, row: Row, column: Column, entries: Sequence[Entry], chosen: dict[str, int], *, best: bool
) -> dict[str, Any] | None:
    accuracy = _estimate(evidence.accuracy(row, column), SHARE)
    if accuracy is None:
        return None
    before = evidence.previous(row)
    gain = None if before is None else _estimate(evidence.difference(row, before, column), CHANGE)
    return {
        **accuracy,
        "best": best,
        "before": None if before is None else row_name(before),
        "gain": gain,
        "results": [
            [
                entry.pretraining_seed,
                entry.seed,
                round(100 * entry.headline, 4),
                chosen.setdefault(_describe(entry.chosen), len(chosen)),
            ]
            for entry in sorted(entries, key=lambda entry: (entry.pretraining_seed or 0, entry.seed))
        ],
    }


@lru_cache(maxsize=1 << 12)
def _describe(chosen: str) -> str:
    """Return hyperparameters, given as JSON, in words."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in json.loads(chosen).items()
    )


def _estimate(value: Estimate | None, possible: tuple[float, float]) -> dict[str, Any] | None:
    """Return a mean and interval in percent: `half` is None if a limit cuts the interval, the ends if there is none."""
    if value is None:
        return None
    ends = value.clip(*possible)
    is_whole = ends is not None and ends == (value.low, value.high)
    low, high = (None, None) if ends is None else (round(100 * end, 4) for end in ends)
    half = round(100 * value.half_width, 4) if is_whole and value.half_width is not None else None
    return {"mean": round(100 * value.mean, 4), "half": half, "low": low, "high": high, "seeds": value.seeds}


def _nulls(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the saturation null of each protocol and target that has one, as pairs of source and target accuracy."""
    curves = []
    for (protocol, target), points in tradeoff_data(evidence).groupby(["protocol", "target"], sort=False):
        null = null_curve(points)
        if null is not None:
            pairs = (100 - null[["source_error", "target_error"]]).round(2).to_numpy().tolist()
            curves.append({"protocol": protocol, "target": target, "points": pairs})
    return curves


def _foreign(table: ForeignTable) -> dict[str, Any]:
    return {
        "title": f"{table.protocol}{table.remark}",
        "table": _plain_table(table.rows),
        "scores": _plain_table(table.scores),
        "legend": legend(table),
        "logme": tables.LOGME if table.scores else "",
    }


def _plain_table(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return a table as its headings and its rows of cells, each as text and whether it is bold."""

    def plain(cell: str) -> tuple[str, bool]:
        # Text that is not `Marked` may hold any signs.
        best = isinstance(cell, Marked) and cell.startswith("**")
        return (cell.strip("*") if best else cell, best)

    return {"head": list(rows[0]) if rows else [], "rows": [[plain(cell) for cell in row.values()] for row in rows]}


def _records(drawn: Sequence[Figure], name: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for figure in drawn:
        if figure.name == name:
            records = json.loads(figure.data.to_json(orient="records"))
    return records
