"""A page for each row of a suite's tables: every cell of the snapshot, each linked to its record."""

from collections.abc import Sequence

from lrbench.leaderboard import tables
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.markup import NOTHING, Marked, link, table
from lrbench.store.index import Entry


def row_path(suite: str, row: Row) -> str:
    """Where a row's page lies, relative to the leaderboard's folder."""
    return f"rows/{suite}/{row[0]}-stage{row[1]}.md"


def linked(suite: str, row: Row) -> Marked:
    """A row's name, linked to its page."""
    return link(tables.row_name(row), row_path(suite, row))


def render_rows(bodies: Sequence[Evidence]) -> dict[str, str]:
    """The pages of all rows that have results, by path relative to the leaderboard's folder."""
    pages = {}
    members: dict[Row, list[tuple[Evidence, Entry]]] = {}
    for body in bodies:
        for entry in body.stored:
            if entry.arm is not None and entry.stage is not None:
                members.setdefault((entry.arm, entry.stage), []).append((body, entry))
    for row, found in members.items():
        suite = found[0][0].name
        pages[row_path(suite, row)] = _page(suite, row, found)
    return pages


def _page(suite: str, row: Row, found: Sequence[tuple[Evidence, Entry]]) -> str:
    lines: dict[tuple[str, str, bool], dict[int, list[str]]] = {}
    for body, entry in sorted(found, key=lambda pair: pair[1].cell):
        assert entry.pretraining_seed is not None
        text = link(f"{100 * entry.headline:.1f}", f"../../results/{suite}/{entry.cell}.json")
        cells = lines.setdefault((entry.protocol, entry.task, body.partial), {})
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
        f"# {tables.row_name(row)} of {suite}\n\nHeadline accuracy of each cell in percent, by pretraining seed (transfer "
        f"seeds side by side), linked to its record. The tables: [{suite}](../../{suite}.md).\n\n{table(rows)}\n"
    )
