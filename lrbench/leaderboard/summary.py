"""What the results say, in plain words, with the figures that the words rest on."""

from collections.abc import Mapping, Sequence

from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, LEAST_SEEDS, Decision, overall
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.statistics import Estimate
from lrbench.leaderboard.verdicts import effect, of


def in_short(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """What follows, what the source did, and whether that is of all there should be."""
    said = [_strong(evidence, decisions), _source(evidence)]
    if evidence.partial:
        said.insert(0, "Of partial data (`--partial`):")
    if evidence.there < evidence.expected:
        said.append(f"Incomplete: {evidence.there:,} of {evidence.expected:,} cells are there.")
    return " ".join(sentence for sentence in said if sentence)


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
        # A mean over fewer seeds is of other runs.
        whole = [row for row in levels if levels[row].seeds == len(evidence.seeds)]
        best = max(whole or levels, key=lambda row: levels[row].mean)
        tied = [row for row in levels if row != best and not tables.leads(evidence, best, row, column)]
        behind = [row for row in levels if row != best and row not in tied]
        rows.append(
            {
                "target": column.task,
                "best mean": f"{tables.row_name(best)} ({100 * levels[best].mean:.1f} %)",
                "not told apart from it": _named(evidence, levels, tied, behind),
                "behind it": _listed(evidence, levels, behind) or "none",
            }
        )
    return tables.markdown(rows)


def _named(evidence: Evidence, levels: Mapping[Row, Estimate], tied: list[Row], behind: list[Row]) -> str:
    if not tied:
        return "none"
    if all(row in levels and levels[row].seeds == len(evidence.seeds) for row in evidence.rows):
        if not behind:
            return "every other"
        if len(tied) > len(behind) + 1:
            return "all but those behind it"
    return _listed(evidence, levels, tied)


def _listed(evidence: Evidence, levels: Mapping[Row, Estimate], rows: Sequence[Row]) -> str:
    expected = len(evidence.seeds)
    some = {row: f" ({levels[row].seeds} of {expected} seeds)" for row in rows if levels[row].seeds < expected}
    return ", ".join(f"{tables.row_name(row)}{some.get(row, '')}" for row in rows)


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
    place = "" if "stage" in shown else f" at stage {nearest.boundary} → {nearest.boundary + 1}"
    text = f" (clearest: {nearest.column.task}{place}, {shown}{unit}, adjusted p {nearest.adjusted:.2g}"
    if nearest.reason:
        text += f", but {nearest.reason}"
    elif nearest.verdict == "supported" and any(
        each.column == nearest.column and each.verdict != "supported" for each in decisions
    ):
        text += ", supported there and not at every boundary"
    found = [each.detectable for each in tested if each.verdict == "inconclusive" and each.detectable is not None]
    if found:
        scale, digits = (100, 1) if claim.unit == "points" else (1, 2)
        ends = dict.fromkeys(f"{scale * end:.{digits}f}" for end in (min(found), max(found)))
        text += f"; where inconclusive, these seeds would have shown {' to '.join(ends)}{unit}"
    return text + ")"


def _strong(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    if len(evidence.seeds) < LEAST_SEEDS:
        return f"Fewer than {LEAST_SEEDS} pretraining seeds decide nothing."
    causal = next(claim for claim in CLAIMS if claim.name == "C3")
    suite = evidence.suite
    # Where a protocol is used on `step` and `hold` alone, it has nothing to say here.
    able = [
        column
        for column in evidence.columns
        if all(arm in suite.arms and suite.uses(column.protocol, arm) for arm in ("step", "hold", "average"))
    ]
    if not able:
        return "The strong sense (C3) cannot be decided: it needs the arms `hold` and `average`."
    verdicts = [overall(of(decisions, causal, column)) for column in able]
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
