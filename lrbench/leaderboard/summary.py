"""What the results say, as plain text with the figures that it rests on."""

from collections.abc import Mapping, Sequence

from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, LEAST_SEEDS, Claim, Decision, overall
from lrbench.leaderboard.evidence import Evidence, Row
from lrbench.leaderboard.markup import CHANGE
from lrbench.leaderboard.verdicts import detectable, effect, of
from lrbench.stats.intervals import Estimate

# Up to this many snapshots are listed by name where most are in one group.
_LISTED = 6


def in_short(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """The verdict in the strong sense, what the source did, and whether results are missing."""
    sentences = [_strong(evidence, decisions), _source(evidence)]
    if evidence.partial:
        sentences.insert(0, "Of partial data (--partial):")
    if evidence.there < evidence.expected:
        sentences.append(f"Incomplete: {evidence.there:,} of {evidence.expected:,} cells are there.")
    return " ".join(sentence for sentence in sentences if sentence)


def grounds(evidence: Evidence, decisions: Sequence[Decision]) -> list[str]:
    """One line for each protocol and claim: the verdict on each target, and the figures behind it; none with too few seeds."""
    if len(evidence.seeds) < LEAST_SEEDS:
        return []
    return [
        f"{protocol}, {claim.name} {claim.title}: {_verdict(evidence, decisions, protocol, claim)}"
        for protocol in evidence.suite.protocols
        for claim in CLAIMS
    ]


def which_checkpoint(evidence: Evidence, protocol: str) -> list[dict[str, str]]:
    """For each target the snapshot with the best mean, and how the others compare with it; a row of a table each."""
    rows = []
    for column in tables.of_protocol(evidence, protocol):
        levels = {row: level for row in evidence.rows if (level := evidence.level(row, column)) is not None}
        if not levels:
            continue
        # A mean over fewer seeds is of other runs.
        whole = [row for row in levels if levels[row].seeds == len(evidence.seeds)]
        best = max(whole or levels, key=lambda row: levels[row].mean)
        similar = [row for row in levels if row != best and not tables.leads(evidence, best, row, column)]
        worse = [row for row in levels if row != best and row not in similar]
        rows.append(
            {
                "target": column.task,
                "best mean": f"{tables.row_name(best)} ({100 * levels[best].mean:.1f} %)",
                "not significantly different": _named(evidence, levels, similar, worse),
                "significantly worse": _named(evidence, levels, worse, similar),
            }
        )
    return rows


def _named(evidence: Evidence, levels: Mapping[Row, Estimate], rows: Sequence[Row], rest: Sequence[Row]) -> str:
    """Snapshots by name; the number of them where they are many, all have every seed, and the rest is named."""
    expected = len(evidence.seeds)
    if not rows:
        return "none"
    if len(rows) > max(_LISTED, len(rest)) and all(levels[row].seeds == expected for row in rows):
        return f"all {len(rows)} others" if not rest else f"{len(rows)} of {len(rows) + len(rest)} others"
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
        f"{stages[-1]} of step."
    )


def _verdict(evidence: Evidence, decisions: Sequence[Decision], protocol: str, claim: Claim) -> str:
    columns = tables.of_protocol(evidence, protocol)
    verdicts = {column.task: overall(of(decisions, claim, column)) for column in columns}
    decided = {
        word: [task for task, verdict in verdicts.items() if verdict == word] for word in ("supported", "contradicted")
    }
    clauses = [f"{word} on {', '.join(tasks)}" for word, tasks in decided.items() if tasks]
    undecided = len(columns) - sum(map(len, decided.values()))
    if undecided:
        clauses.append(f"inconclusive on {'every target' if undecided == len(columns) else f'{undecided} more'}")
    members = [decision for column in columns for decision in of(decisions, claim, column)]
    return f"{' and '.join(clauses)}. {_clearest(members)}".rstrip()


def _clearest(decisions: Sequence[Decision]) -> str:
    """The decision with the smallest p, and what the seeds can detect; or why nothing was tested."""
    tested = [decision for decision in decisions if decision.p is not None]
    if not tested:
        reasons = list(dict.fromkeys(decision.reason for decision in decisions if decision.reason))
        return f"Not tested: {reasons[0]}." if reasons else ""
    nearest = min(tested, key=lambda test: (test.adjusted if test.adjusted is not None else 1.0, test.p or 0.0))
    claim = nearest.claim
    unit = " points" if claim.unit == "points" else ""
    effects = "; ".join(f"{name} {effect(claim, value)}" for name, value in nearest.effects)
    place = "" if "stage" in effects else f" at stage {nearest.boundary} → {nearest.boundary + 1}"
    text = f"Clearest: {nearest.column.task}{place}, {effects}{unit}, adjusted p {nearest.adjusted:.2g}"
    if nearest.reason:
        text += f", but {nearest.reason}"
    elif nearest.verdict == "supported" and any(
        other.column == nearest.column and other.verdict != "supported" for other in decisions
    ):
        text += ", supported there and not at every boundary"
    return f"{text}.{_detectable(claim, tested, unit)}"


def _detectable(claim: Claim, tested: Sequence[Decision], unit: str) -> str:
    effects = [
        test.detectable
        for test in tested
        if test.verdict == "inconclusive" and not test.reason and test.detectable is not None
    ]
    if not effects:
        return ""
    if claim.unit == "points" and min(effects) > CHANGE[1]:
        return " With these seeds, no possible effect is detectable."
    if claim.unit == "points" and max(effects) > CHANGE[1]:
        return f" Smallest detectable effect where inconclusive: {detectable(claim, min(effects))}{unit}; on some targets none."
    ends = dict.fromkeys(detectable(claim, end) for end in (min(effects), max(effects)))
    return f" Smallest detectable effect where inconclusive: {' to '.join(ends)}{unit}."


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
        return "The strong sense (C3) cannot be decided: it needs the arms hold and average."
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
