"""The answer that a suite's results give: one sentence, and tables of verdicts with the evidence behind them."""

import math
from collections.abc import Mapping, Sequence

from lrbench.core.escaping import for_markdown
from lrbench.leaderboard import tables
from lrbench.leaderboard.claims import (
    CAUSAL,
    CLAIMS,
    MIN_SEEDS,
    Decision,
    Verdict,
    boundary_name,
    find,
    tested_protocols,
)
from lrbench.leaderboard.evidence import Evidence, Row, row_name
from lrbench.leaderboard.markup import NOTHING, Marked, p_value, verdict_word
from lrbench.leaderboard.verdicts import detectable, effect
from lrbench.stats.intervals import Estimate

# Longer groups of snapshots are counted, not listed.
_MOST_LISTED = 6


def answer(evidence: Evidence, decisions: Sequence[Decision]) -> str:
    """Return what the results say about learning-rate decay, as one sentence of plain text.

    It is the primary verdict on C3, of the mean over targets, for each protocol and boundary and over the boundaries.
    """
    seeds = len(evidence.seeds)
    name = f"{evidence.name} ({seeds} pretraining seed{'' if seeds == 1 else 's'}{', partial data' * evidence.partial})"
    if seeds < MIN_SEEDS:
        return f"{name}: no claim is decided, because at least {MIN_SEEDS} pretraining seeds are needed."
    causal = [decision for decision in primary_decisions(decisions) if decision.testable]
    if not causal:
        return f"{name}: the causal claim C3 cannot be decided, because it needs the arms hold and average."
    margin = evidence.suite.margin
    meanings: dict[Verdict, str] = {
        "supported": "makes features transfer worse",
        "contradicted": "makes features transfer better",
        "mixed": "transfers worse than one control and better than the other",
        "equivalent": f"makes no difference beyond {margin:g} points",
        "inconclusive": "has an open effect",
    }
    if {decision.verdict for decision in causal} == {"inconclusive"}:
        return f"{name}: whether learning-rate decay makes features transfer worse remains open under every protocol."
    clauses = [
        f"{meaning} under {_listed(places)}"
        for verdict, meaning in meanings.items()
        if (places := _places(causal, verdict))
    ]
    return f"{name}: on average over {count_targets(evidence)}, learning-rate decay {'; it '.join(clauses)}."


def count_targets(evidence: Evidence) -> str:
    """Return the number of the suite's targets in words: `5 targets`."""
    count = len(evidence.suite.targets)
    return f"{count} target{'' if count == 1 else 's'}"


def _places(causal: Sequence[Decision], verdict: Verdict) -> list[str]:
    """Return the protocols and boundaries with a verdict: a protocol's name alone if all its decisions have it."""
    places = []
    for protocol in dict.fromkeys(decision.protocol for decision in causal):
        members = [decision for decision in causal if decision.protocol == protocol]
        matching = [decision for decision in members if decision.verdict == verdict]
        if len(matching) == len(members):
            places.append(protocol)
        else:
            places += [
                f"{protocol} ({'mean over boundaries' if decision.boundary is None else boundary_name(decision.boundary)})"
                for decision in matching
            ]
    return places


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def primary_decisions(decisions: Sequence[Decision]) -> list[Decision]:
    """Return the decisions of the primary endpoint: C3 on average over targets, by protocol, then boundary, then the mean."""
    causal = [decision for decision in decisions if decision.claim == CAUSAL and decision.is_primary]
    protocols = list(dict.fromkeys(decision.protocol for decision in causal))
    return sorted(causal, key=lambda decision: (protocols.index(decision.protocol), decision.boundary or math.inf))


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


def primary_table(evidence: Evidence, decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Return a table of the verdict on C3 on average over targets, by protocol and boundary and over the boundaries."""
    lines = []
    for decision in primary_decisions(decisions):
        effects = dict(decision.effects)
        line: dict[str, str] = {"protocol": decision.protocol, "boundary": boundary_name(decision.boundary)}
        for name in ("step − hold", "step − average"):
            line[name] = effect(CAUSAL, effects[name]) if name in effects else Marked(NOTHING)
        line["p (Holm)"] = p_value(decision.adjusted)
        line["detectable"] = NOTHING if decision.reason else detectable(CAUSAL, decision.detectable)
        reason = f" ({for_markdown(decision.reason)})" if decision.reason else ""
        line["verdict"] = Marked(verdict_word(decision.verdict, evidence.suite.margin) + reason)
        lines.append(line)
    return lines


def claim_table(evidence: Evidence, decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Return a table of the claims (rows): what each states, and the verdict of each protocol on average over targets."""
    lines = []
    for claim in CLAIMS:
        line: dict[str, str] = {"claim": f"{claim.name} {claim.title}", "states that": claim.statement}
        for protocol in tested_protocols(evidence):
            decision = find(decisions, claim, protocol, None, None)
            if decision is not None:
                line[protocol] = verdict_word(decision.verdict, evidence.suite.margin)
        lines.append(line)
    return lines


def claim_evidence(evidence: Evidence, decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Return a table of the evidence for each claim on average over targets, by protocol and boundary.

    Empty with fewer seeds than a decision needs.
    """
    if len(evidence.seeds) < MIN_SEEDS:
        return []
    lines = []
    for protocol in tested_protocols(evidence):
        for claim in CLAIMS:
            for boundary in (*range(1, evidence.suite.schedule.stages), None):
                decision = find(decisions, claim, protocol, None, boundary)
                if decision is not None:
                    lines.append(_evidence_row(evidence, decision))
    return lines


def _evidence_row(evidence: Evidence, decision: Decision) -> dict[str, str]:
    claim = decision.claim
    effects = "; ".join(f"{name}: {effect(claim, value)}" for name, value in decision.effects)
    reason = f" ({for_markdown(decision.reason)})" if decision.reason else ""
    return {
        "protocol": decision.protocol,
        "claim": f"{claim.name} {claim.title}",
        "boundary": boundary_name(decision.boundary),
        "effect": Marked(effects or NOTHING),
        "p (Holm)": p_value(decision.adjusted),
        "detectable": NOTHING if decision.reason else detectable(claim, decision.detectable),
        "verdict": Marked(verdict_word(decision.verdict, evidence.suite.margin) + reason),
    }


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
