"""One page for each row of a suite's tables: every result of the snapshot, linked to its record."""

from collections.abc import Sequence

from lrbench.leaderboard.evidence import Evidence, Row, row_name
from lrbench.leaderboard.markup import NOTHING, Marked, link, table
from lrbench.store.index import Entry


def row_path(suite: str, row: Row) -> str:
    """Return the path of a row's page, relative to the leaderboard's folder."""
    return f"rows/{suite}/{row[0]}-stage{row[1]}.md"


def row_link(suite: str, row: Row) -> Marked:
    """Return a row's name, linked to its page."""
    return link(row_name(row), row_path(suite, row))


def render_rows(groups: Sequence[Evidence]) -> dict[str, str]:
    """Return the page of every row that has results, by path relative to the leaderboard's folder."""
    results: dict[Row, list[tuple[Evidence, Entry]]] = {}
    for evidence in groups:
        for entry in evidence.entries:
            if entry.arm is not None and entry.stage is not None:
                results.setdefault((entry.arm, entry.stage), []).append((evidence, entry))
    suite = groups[0].name
    return {row_path(suite, row): _page(suite, row, row_results) for row, row_results in results.items()}


def _page(suite: str, row: Row, results: Sequence[tuple[Evidence, Entry]]) -> str:
    lines: dict[tuple[str, str, bool], dict[int, list[str]]] = {}
    for evidence, entry in sorted(results, key=lambda pair: pair[1].cell):
        assert entry.pretraining_seed is not None
        text = link(f"{100 * entry.headline:.1f}", f"../../results/{suite}/{entry.cell}.json")
        cells = lines.setdefault((entry.protocol, entry.task, evidence.partial), {})
        cells.setdefault(entry.pretraining_seed, []).append(text)
    seeds = sorted({seed for cells in lines.values() for seed in cells})
    rows = [
        {
            "protocol": protocol,
            "target": f"{task} (partial data)" if partial else task,
            **{f"seed {seed}": Marked(", ".join(cells.get(seed, [NOTHING]))) for seed in seeds},
        }
        for (protocol, task, partial), cells in sorted(lines.items())
    ]
    return (
        f"# {row_name(row)} of {suite}\n\nHeadline accuracy of each result in percent, a column for each pretraining seed, "
        f"linked to its record. Several transfer seeds share a cell. Tables: [{suite}](../../{suite}.md).\n\n{table(rows)}\n"
    )
