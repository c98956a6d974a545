"""What the results say, in plain words, with the figures that the words rest on."""

from collections.abc import Sequence

from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, LEAST_SEEDS, Decision, overall
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.verdicts import effect, of


def in_short(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """What follows, and what the source did."""
    return " ".join(sentence for sentence in (_strong(evidence, decisions), _source(evidence)) if sentence)


def grounds(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """The verdicts of each protocol, with the figures that they rest on."""
    return " ".join(_protocol(evidence, decisions, protocol) for protocol in evidence.suite.protocols)


def which_checkpoint(evidence: Evidence, protocol: str) -> str:
    """For each target the best mean, and what cannot be told from it."""
    rows = []
    for column in tables.of_protocol(evidence, protocol):
        levels = {row: level for row in evidence.rows if (level := evidence.level(row, column)) is not None}
        if not levels:
            continue
        best = max(levels, key=lambda row: levels[row].mean)
        tied = [row for row in levels if row != best and not tables.leads(evidence, best, row, column)]
        behind = [row for row in levels if row != best and row not in tied]
        rows.append(
            {
                "target": column.task,
                "best mean": f"{tables.row_name(best)} ({100 * levels[best].mean:.1f} %)",
                "not told apart from it": _named(tied, behind),
                "behind it": ", ".join(map(tables.row_name, behind)) or "none",
            }
        )
    return tables.markdown(rows)


def _named(tied: list[Row], behind: list[Row]) -> str:
    if not tied:
        return "none"
    if not behind:
        return "every other"
    if len(tied) > len(behind) + 1:
        return "all but those behind it"
    return ", ".join(map(tables.row_name, tied))


def _source(evidence: Evidence) -> str:
    stages = range(1, evidence.suite.schedule.stages + 1)
    # Of the same runs at every stage.
    whole = [seed for seed in evidence.seeds if all((("step", stage), seed) in evidence.source for stage in stages)]
    if not whole:
        return ""
    levels = [sum(evidence.source[("step", stage), seed] for seed in whole) / len(whole) for stage in stages]
    path = " → ".join(f"{100 * level:.1f}" for level in levels)
    seeds = len(evidence.seeds)
    some = f"{len(whole)} of {seeds}" if len(whole) < seeds else f"{seeds}"
    return (
        f"With {some} pretraining seed{'s' if seeds != 1 else ''}, source accuracy went {path} % over stages 1 to "
        f"{stages[-1]} of `step`."
    )


def _protocol(evidence: Evidence, decisions: Sequence[Decision], protocol: str) -> str:
    columns = tables.of_protocol(evidence, protocol)
    clauses = []
    for claim in CLAIMS:
        verdicts = {column.task: overall(of(decisions, claim, column)) for column in columns}
        decided = {
            word: [task for task, verdict in verdicts.items() if verdict == word]
            for word in ("supported", "contradicted")
        }
        said = [f"{word} on {', '.join(tasks)}" for word, tasks in decided.items() if tasks]
        undecided = len(columns) - sum(map(len, decided.values()))
        if undecided:
            said.append(f"inconclusive on {'every target' if undecided == len(columns) else f'{undecided} more'}")
        members = [each for column in columns for each in of(decisions, claim, column)]
        clauses.append(f"{claim.name} ({claim.title}) is {' and '.join(said)}{_grounds(members)}")
    return f"Under `{protocol}`, {'; '.join(clauses)}."


def _grounds(decisions: Sequence[Decision]) -> str:
    """The decision with the smallest p, and what the seeds could have shown; or why nothing was tested."""
    tested = [each for each in decisions if each.p is not None]
    if not tested:
        reasons = list(dict.fromkeys(each.reason for each in decisions if each.reason))
        return f" ({reasons[0]})" if reasons else ""
    nearest = min(tested, key=lambda each: (each.adjusted if each.adjusted is not None else 1.0, each.p or 0.0))
    claim = nearest.claim
    shown = "; ".join(f"{name} {effect(claim, value)}" for name, value in nearest.effects)
    unit = " points" if claim.unit == "points" else ""
    text = f" (clearest: {nearest.column.task}, {shown}{unit}, adjusted p {nearest.adjusted:.2g}"
    found = [each.detectable for each in tested if each.verdict == "inconclusive" and each.detectable is not None]
    if found:
        scale, digits = (100, 1) if claim.unit == "points" else (1, 2)
        text += (
            f"; where inconclusive, these seeds would have shown {scale * min(found):.{digits}f} to "
            f"{scale * max(found):.{digits}f}{unit}"
        )
    return text + ")"


def _strong(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    if len(evidence.seeds) < LEAST_SEEDS:
        return f"Fewer than {LEAST_SEEDS} pretraining seeds decide nothing."
    causal = next(claim for claim in CLAIMS if claim.name == "C3")
    verdicts = [overall(of(decisions, causal, column)) for column in evidence.columns]
    supported, contradicted = verdicts.count("supported"), verdicts.count("contradicted")
    if supported and not contradicted:
        return (
            f"In the strong sense (C3), decay makes features transfer worse in {supported} of {len(verdicts)} targets and "
            "protocols here, and the contrary is shown in none."
        )
    if contradicted and not supported:
        return (
            f"In the strong sense (C3), the paper's implication is contradicted in {contradicted} of {len(verdicts)} "
            "targets and protocols here and supported in none."
        )
    if supported:
        return (
            f"In the strong sense (C3), the targets and protocols disagree: {supported} support that decay makes features "
            f"transfer worse, {contradicted} contradict it, of {len(verdicts)}."
        )
    return (
        "In the strong sense (C3), these results neither support nor contradict that learning-rate decay makes features "
        "transfer worse."
    )
