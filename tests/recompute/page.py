"""The text of a suite's main page from recomputed results, and its comparison with the page."""

import html
import itertools
import re
from collections.abc import Iterator, Sequence

from tests.recompute.formulas import Estimate
from tests.recompute.results import Decision, Results, Row, row_name
from tests.recompute.sentences import sentences

Table = list[dict[str, str]]

CLAIMS = {
    "C1": ("C1 diminishing", "transferability T is smaller in the next stage than in this one"),
    "C2": ("C2 absolute", "target accuracy falls from this stage to the next"),
    "C3": (
        "C3 causal",
        "letting the rate fall transfers worse than holding it from the same weights, and worse than the average of the held "
        "weights",
    ),
    "C4": (
        "C4 beyond saturation",
        "target error after the rate falls is larger than the saturation null predicts from source error",
    ),
}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CONSTANT = re.compile(r"95 %|\bC[1-4]\b|stages? [0-9]( and 1)?\b|!?\[[^\]]*\]\([^)]*\)|`[^`]*`|[\w-]+/stage\d+")
"""Numbers that are no results: names, links and the level of the intervals."""


def compare(results: Results, page: str) -> tuple[int, list[str]]:
    """Return how many numbers of a page were compared, and the disagreements."""
    shown_tables, text = _read(page)
    decisions = results.decisions()
    expected = tables(results, decisions)
    count, wrong = 0, []
    for heading in dict.fromkeys((*expected, *shown_tables)):
        if heading not in shown_tables or heading not in expected:
            wrong.append(f"table {heading!r} is {'missing' if heading in expected else 'not recomputed'}")
            continue
        shown = shown_tables[heading]
        if len(shown) != len(expected[heading]):
            wrong.append(f"{heading!r} has {len(shown)} rows, recomputed {len(expected[heading])}")
        for wanted, row in zip(expected[heading], shown, strict=False):
            place = ", ".join([heading or "primary table", *list(wanted.values())[: 3 if "boundary" in wanted else 1]])
            for column in dict.fromkeys((*wanted, *row)):
                count += _count(wanted.get(column, ""))
                if row.get(column) not in list(_readings(wanted.get(column))):
                    difference = f"the page has {row.get(column)!r}, recomputed {wanted.get(column)!r}"
                    wrong.append(f"{place}, {column}: {difference}")
    for sentence in dict.fromkeys(sentences(results, decisions)):
        count += _count(sentence)
        if sentence not in text:
            wrong.append(f"the page does not have {sentence!r}")
        text = text.replace(sentence, "")
    rest = CONSTANT.sub("", text).splitlines()
    return count, wrong + [f"not recomputed: {line.strip()!r}" for line in rest if NUMBER.search(line)]


def _readings(text: str | None) -> Iterator[str | None]:
    """Return the texts that a recomputed cell allows; see `number`."""
    parts = [part.split("|") for part in re.split("[⟨⟩]", text or "")]
    yield from [None] if text is None else ("".join(choice) for choice in itertools.product(*parts))


def _count(text: str) -> int:
    return len(NUMBER.findall(CONSTANT.sub("", text)))


def _read(text: str) -> tuple[dict[str, Table], str]:
    """Return the tables of a page by the heading above them, and its other text."""
    found: dict[str, Table] = {}
    heading, cells = "", list[list[str]]()
    lines = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells.append([_plain(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            continue
        if cells:
            found[heading] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
            cells = []
        heading = line.removeprefix("## ") if line.startswith("## ") else heading
        lines.append(line)
    return found, html.unescape(re.sub(r"\\(.)", r"\1", "\n".join(lines)))


def _plain(cell: str) -> str:
    """Return a cell without links and escapes."""
    return html.unescape(re.sub(r"\\(.)", r"\1", re.sub(r"\[(.+?)\]\(.+?\)", r"\1", cell))).strip()


def number(value: float, digits: int = 1, *, sign: str = "") -> str:
    """Return a rounded number, or `⟨88.7|88.8⟩` for 88.75, which rounding errors may round either way."""
    texts = []
    for shift in (-1e-9, 1e-9):
        text = f"{value + shift:{sign}.{digits}f}"
        texts.append(text.strip("+-") if float(text) == 0 else text.replace("-", "−"))
    return texts[0] if texts[0] == texts[1] else f"⟨{texts[0]}|{texts[1]}⟩"


def interval(estimate: Estimate, limits: tuple[float, float] | None, *, sign: str = "") -> str:
    """Return an estimate in points, or of T without limits."""
    scale, digits = (100, 1) if limits else (1, 2)
    mean = number(scale * estimate.mean, digits, sign=sign)
    if estimate.n < 2:
        return mean
    width = estimate.half_width()
    low, high = estimate.mean - width, estimate.mean + width
    least, most = limits or (-float("inf"), float("inf"))
    if low >= least and high <= most:
        return f"{mean} ± {number(scale * width, digits)}"
    if low <= least and high >= most:
        return mean
    return f"{mean} [{number(scale * max(low, least), digits)}, {number(scale * min(high, most), digits)}]"


def probability(p: float | None) -> str:
    return "—" if p is None else "<0.001" if p < 0.001 else number(p, 3)


def effect(decision: Decision, estimate: Estimate) -> str:
    return interval(estimate, None if decision.claim == "C1" else (-1, 1), sign="+")


def verdict(results: Results, decision: Decision, *, with_reason: bool = True) -> str:
    word = f"no difference beyond {results.margin:g} points" if decision.verdict == "equivalent" else decision.verdict
    reason = f" ({decision.reason})" if decision.reason and with_reason else ""
    return (word if decision.verdict == "inconclusive" else f"**{word}**") + reason


def judged(results: Results, decision: Decision) -> dict[str, str]:
    """Return the last columns of a decision's row."""
    smallest = "—"
    if decision.detectable is not None and not decision.reason:
        smallest = number(decision.detectable, 2) if decision.claim == "C1" else number(100 * decision.detectable)
        smallest = "none" if decision.claim != "C1" and decision.detectable > 1 else smallest
    return {
        "p (Holm)": probability(decision.adjusted),
        "detectable": smallest,
        "verdict": verdict(results, decision),
    }


def tables(results: Results, decisions: Sequence[Decision]) -> dict[str, Table]:
    """Return the page's tables by heading; the primary table has none."""
    causal = results.by_place(decisions, "C3")
    found = {
        "": [
            {
                "protocol": decision.protocol,
                "boundary": decision.place,
                **dict.fromkeys(("step − hold", "step − average"), "—"),
                **{name: effect(decision, estimate) for name, estimate in decision.effects},
                **judged(results, decision),
            }
            for decision in causal
        ]
    }
    if len(results.seeds) >= 3:
        means = {(part.claim, part.protocol): part for part in decisions if part.boundary == 0}
        found["Verdict on each claim"] = [
            {"claim": title, "states that": statement}
            | {protocol: verdict(results, means[claim, protocol], with_reason=False) for protocol in results.deciding()}
            for claim, (title, statement) in CLAIMS.items()
        ]
        found["Evidence for each claim"] = [
            {
                "protocol": decision.protocol,
                "claim": title,
                "boundary": decision.place,
                "effect": "; ".join(f"{name}: {effect(decision, value)}" for name, value in decision.effects) or "—",
                **judged(results, decision),
            }
            for protocol in results.deciding()
            for claim, (title, _) in CLAIMS.items()
            for decision in results.by_place(decisions, claim)
            if decision.protocol == protocol
        ]
    for protocol in results.suite["protocols"]:
        found[f"{protocol}: accuracy"] = accuracies(results, protocol)
        found[f"{protocol}: which checkpoint?"] = checkpoints(results, protocol)
    return {heading: rows for heading, rows in found.items() if rows}


def accuracies(results: Results, protocol: str) -> Table:
    leaders = {task: leader(results, protocol, task) for task in results.suite["targets"]}
    lines = []
    for row in results.rows:
        shown = {task: results.accuracy(row, protocol, task) for task in results.suite["targets"]}
        if not results.uses(protocol, row[0]) and not any(shown.values()):
            continue
        line = {"snapshot": row_name(row), "source": source(results, row)}
        for task, estimate in shown.items():
            text = share(results, estimate) if estimate else "—"
            line[task] = f"**{text}**" if leaders[task] == row else text
        lines.append(line)
    return lines


def share(results: Results, estimate: Estimate) -> str:
    missing = f" ({estimate.n} of {len(results.seeds)} seeds)" if estimate.n < len(results.seeds) else ""
    return interval(estimate, (0, 1)) + missing


def source(results: Results, row: Row) -> str:
    """Return a row's source accuracy, with an interval where all of its seeds have predictions."""
    accuracy = results.source_accuracy
    seeds = [seed for seed in results.seeds if (row, seed) in accuracy]
    if not seeds:
        return "—"
    column = results.source
    if column is not None and list(column.seeds([row], results.seeds)) == seeds:
        return share(results, column.effect([row], seeds).estimate())
    mean = sum(accuracy[row, seed] for seed in seeds) / len(seeds)
    missing = f" ({len(seeds)} of {len(results.seeds)} seeds)" if len(seeds) < len(results.seeds) else ""
    return number(100 * mean) + missing


def measured(results: Results, protocol: str, task: str) -> dict[Row, Estimate]:
    estimates = {row: results.accuracy(row, protocol, task) for row in results.rows}
    return {row: estimate for row, estimate in estimates.items() if estimate is not None}


def leader(results: Results, protocol: str, task: str) -> Row | None:
    """Return the row that is significantly better than every other, if all rows have all seeds."""
    found = measured(results, protocol, task)
    if len(found) < 2 or any(estimate.n < len(results.seeds) for estimate in found.values()):
        return None
    best = max(found, key=lambda row: found[row].mean)
    return best if all(results.is_better(best, row, protocol, task) for row in found if row != best) else None


def checkpoints(results: Results, protocol: str) -> Table:
    lines = []
    for task in results.suite["targets"]:
        found = measured(results, protocol, task)
        if not found:
            continue
        complete = [row for row in found if found[row].n == len(results.seeds)]
        best = max(complete or found, key=lambda row: found[row].mean)
        others = [row for row in found if row != best]
        worse = [row for row in others if results.is_better(best, row, protocol, task)]
        similar = [row for row in others if row not in worse]
        lines.append(
            {
                "target": task,
                "best mean": f"{row_name(best)} ({number(100 * found[best].mean)} %)",
                "not significantly different": _names(results, found, similar, worse),
                "significantly worse": _names(results, found, worse, similar),
            }
        )
    return lines


def _names(results: Results, found: dict[Row, Estimate], rows: Sequence[Row], rest: Sequence[Row]) -> str:
    count, seeds = len(rows), len(results.seeds)
    if count > max(6, len(rest)) and all(found[row].n == seeds for row in rows):
        return f"{count} of {count + len(rest)} others" if rest else f"all {count} others"
    notes = [f" ({found[row].n} of {seeds} seeds)" if found[row].n < seeds else "" for row in rows]
    return ", ".join(row_name(row) + note for row, note in zip(rows, notes, strict=True)) or "none"
