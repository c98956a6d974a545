"""The answer that a suite's results give: one sentence, and tables of verdicts with the evidence behind them."""

from collections.abc import Mapping, Sequence

from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import CLAIMS, MIN_SEEDS, Claim, Decision, overall
from lrbench.leaderboard.evidence import Evidence, Row, row_name
from lrbench.leaderboard.markup import CHANGE, NOTHING, Marked, verdict_word
from lrbench.leaderboard.verdicts import decisions_of, detectable, effect
from lrbench.stats.intervals import Estimate

# Longer groups of snapshots are counted, not listed.
_MOST_LISTED = 6


def answer(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """Return what the results say about learning-rate decay, as one sentence of plain text."""
    seeds = len(evidence.seeds)
    name = f"{evidence.name} ({seeds} pretraining seed{'' if seeds == 1 else 's'}{', partial data' * evidence.partial})"
    if seeds < MIN_SEEDS:
        return f"{name}: no claim is decided, because at least {MIN_SEEDS} pretraining seeds are needed."
    supported, contradicted, testable = causal_verdicts(evidence, decisions)
    if not testable:
        return f"{name}: the causal claim C3 cannot be decided, because it needs the arms hold and average."
    if supported or contradicted:
        return (
            f"{name}: that decay makes features transfer worse (C3) is supported in {supported or 'none'} and contradicted in "
            f"{contradicted or 'none'} of {testable} pairs of target and protocol."
        )
    if all(decision.verdict == "inconclusive" for decision in decisions):
        return f"{name}: no claim is decided; whether learning-rate decay makes features transfer worse remains open."
    return f"{name}: whether learning-rate decay makes features transfer worse (C3) remains open; other claims are decided."


def causal_verdicts(evidence: Evidence, decisions: Sequence[Decision]) -> tuple[int, int, int]:
    """Return in how many pairs of target and protocol C3 is supported, contradicted, and testable at all."""
    causal = next(claim for claim in CLAIMS if claim.name == "C3")
    suite = evidence.suite
    verdicts = [
        overall(decisions_of(decisions, causal, column))
        for column in evidence.columns
        # A protocol that is used on `step` and `hold` alone cannot test the claim.
        if all(arm in suite.arms and suite.uses(column.protocol, arm) for arm in ("step", "hold", "average"))
    ]
    return verdicts.count("supported"), verdicts.count("contradicted"), len(verdicts)


def in_short(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """Return the answer, the source accuracy, and the number of missing results, as plain text."""
    sentences = [answer(evidence, decisions), incomplete(evidence), source_accuracy(evidence)]
    return " ".join(sentence for sentence in sentences if sentence)


def incomplete(evidence: Evidence) -> str:
    """Return a sentence that counts the results if some are missing, else an empty string."""
    if evidence.completed == evidence.expected:
        return ""
    return f"Incomplete: {evidence.completed:,} of {evidence.expected:,} cells have results."


def source_accuracy(evidence: Evidence) -> str:
    """Return a sentence with the source accuracy of `step` at the end of each stage, over the seeds that have them all."""
    stages = range(1, evidence.suite.schedule.stages + 1)
    complete = [seed for seed in evidence.seeds if all((("step", stage), seed) in evidence.source for stage in stages)]
    if not complete:
        return ""
    means = [sum(evidence.source[("step", stage), seed] for seed in complete) / len(complete) for stage in stages]
    path = " → ".join(f"{100 * mean:.1f}" for mean in means)
    seeds = len(evidence.seeds)
    count = f"{len(complete)} of {seeds}" if len(complete) < seeds else f"{seeds}"
    return (
        f"Source accuracy of step at the end of stages 1 to {stages[-1]}: {path} % (mean over {count} pretraining "
        f"seed{'' if seeds == 1 else 's'})."
    )


def verdict_summary(evidence: Evidence, decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Return a table of the claims (rows): what each states, and on how many targets of each protocol it is decided."""
    return [
        {
            "claim": f"{claim.name} {claim.title}",
            "states that": claim.statement,
            **{
                protocol: _count_verdicts(evidence, decisions, protocol, claim) for protocol in evidence.suite.protocols
            },
        }
        for claim in CLAIMS
    ]


def _count_verdicts(evidence: Evidence, decisions: Sequence[Decision], protocol: str, claim: Claim) -> Marked:
    columns = tables.of_protocol(evidence, protocol)
    verdicts = [overall(decisions_of(decisions, claim, column)) for column in columns]
    counts = {verdict: verdicts.count(verdict) for verdict in ("supported", "contradicted", "inconclusive")}
    shown = [f"{verdict_word(verdict)} on {count}" for verdict, count in counts.items() if count]
    if len(shown) == 1:
        return Marked(f"{verdict_word(verdicts[0])} on all {len(columns)} targets")
    return Marked(f"{', '.join(shown)} of {len(columns)} targets")


def claim_evidence(evidence: Evidence, decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Return a table of the claims under each protocol (rows): the verdict, and the comparison with the smallest p.

    Empty with fewer seeds than a decision needs.
    """
    if len(evidence.seeds) < MIN_SEEDS:
        return []
    return [
        {
            "protocol": protocol,
            "claim": f"{claim.name} {claim.title}",
            "verdict": _verdict(evidence, decisions, protocol, claim),
            **_clearest(
                claim,
                [
                    decision
                    for column in tables.of_protocol(evidence, protocol)
                    for decision in decisions_of(decisions, claim, column)
                ],
            ),
        }
        for protocol in evidence.suite.protocols
        for claim in CLAIMS
    ]


def _verdict(evidence: Evidence, decisions: Sequence[Decision], protocol: str, claim: Claim) -> str:
    """Return the verdict of a claim under a protocol, with the targets on which it is decided."""
    columns = tables.of_protocol(evidence, protocol)
    verdicts = {column.task: overall(decisions_of(decisions, claim, column)) for column in columns}
    decided = {
        word: [task for task, verdict in verdicts.items() if verdict == word] for word in ("supported", "contradicted")
    }
    clauses = [f"{word} on {', '.join(tasks)}" for word, tasks in decided.items() if tasks]
    undecided = len(columns) - sum(map(len, decided.values()))
    if undecided:
        clauses.append(f"inconclusive on {'every target' if undecided == len(columns) else f'{undecided} more'}")
    return " and ".join(clauses)


def _clearest(claim: Claim, decisions: Sequence[Decision]) -> dict[str, str]:
    """Return the cells that describe the decision with the smallest p, or why nothing was tested."""
    tested = [decision for decision in decisions if decision.p is not None]
    if not tested:
        reason = next((decision.reason for decision in decisions if decision.reason), "")
        return {
            "clearest comparison": f"not tested: {reason}" if reason else NOTHING,
            "effect": NOTHING,
            "adjusted p": NOTHING,
            "smallest detectable effect": NOTHING,
        }
    nearest = min(tested, key=lambda test: (test.adjusted if test.adjusted is not None else 1.0, test.p or 0.0))
    place = f"{nearest.column.task}, stage {nearest.boundary} → {nearest.boundary + 1}"
    if nearest.reason:
        place += f" ({nearest.reason})"
    elif nearest.verdict == "supported" and any(
        other.column == nearest.column and other.verdict != "supported" for other in decisions
    ):
        place += " (supported at this boundary, but not at every boundary)"
    return {
        "clearest comparison": place,
        "effect": Marked("; ".join(f"{name}: {effect(claim, value)}" for name, value in nearest.effects)),
        "adjusted p": f"{nearest.adjusted:.2g}",
        "smallest detectable effect": _detectable_range(claim, tested),
    }


def _detectable_range(claim: Claim, tested: Sequence[Decision]) -> str:
    """Return the range of the smallest detectable effects over the inconclusive decisions."""
    effects = [
        test.detectable
        for test in tested
        if test.verdict == "inconclusive" and not test.reason and test.detectable is not None
    ]
    if not effects:
        return NOTHING
    if claim.unit == "points" and min(effects) > CHANGE[1]:
        return "none"
    if claim.unit == "points" and max(effects) > CHANGE[1]:
        return f"{detectable(claim, min(effects))}; none on some targets"
    return " to ".join(dict.fromkeys(detectable(claim, end) for end in (min(effects), max(effects))))


def which_checkpoint(evidence: Evidence, protocol: str) -> list[dict[str, str]]:
    """Return a table of the targets (rows): the snapshot with the best mean, and how the others compare with it."""
    lines = []
    for column in tables.of_protocol(evidence, protocol):
        accuracies = {
            row: accuracy for row in evidence.rows if (accuracy := evidence.accuracy(row, column)) is not None
        }
        if not accuracies:
            continue
        # A mean over fewer seeds is a mean over different runs.
        complete = [row for row, accuracy in accuracies.items() if accuracy.seeds == len(evidence.seeds)]
        best = max(complete or accuracies, key=lambda row: accuracies[row].mean)
        similar = [row for row in accuracies if row != best and not tables.is_better(evidence, best, row, column)]
        worse = [row for row in accuracies if row != best and row not in similar]
        lines.append(
            {
                "target": column.task,
                "best mean": f"{row_name(best)} ({100 * accuracies[best].mean:.1f} %)",
                "not significantly different": _names(evidence, accuracies, similar, worse),
                "significantly worse": _names(evidence, accuracies, worse, similar),
            }
        )
    return lines


def _names(evidence: Evidence, accuracies: Mapping[Row, Estimate], rows: Sequence[Row], rest: Sequence[Row]) -> str:
    """Return the names of snapshots, or their number where a long group has every seed and the rest is listed."""
    seeds = len(evidence.seeds)
    if not rows:
        return "none"
    if len(rows) > max(_MOST_LISTED, len(rest)) and all(accuracies[row].seeds == seeds for row in rows):
        return f"{len(rows)} of {len(rows) + len(rest)} others" if rest else f"all {len(rows)} others"
    notes = {row: f" ({accuracies[row].seeds} of {seeds} seeds)" for row in rows if accuracies[row].seeds < seeds}
    return ", ".join(f"{row_name(row)}{notes.get(row, '')}" for row in rows)
