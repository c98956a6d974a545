"""Rules that choose a snapshot without the ranking protocol: LogME, and static rules that need no data of the target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lrbench.stats.ranking import MIN_RANKED, Agreement, rank_agreement
from lrbench.transfer.recommendation import Candidate, Recommendation

# Names in a cell of a table; ties of more are counted.
_MOST_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class RuleOutcome:
    """Outcome of one rule among the snapshots with a score.

    Attributes:
        name: The rule.
        choices: References that it ranks first; several if they tie.
        score: Score of its choice, the mean of several.
        agreement: Agreement with the scores; None if there are too few snapshots or the rule is constant.
    """

    name: str
    choices: tuple[str, ...]
    score: float
    agreement: Agreement | None


def _source(candidates: Sequence[Candidate]) -> list[float | None]:
    records = [candidate.snapshot for candidate in candidates]
    # Accuracies on different sources are not comparable.
    if len({record and (record.source_task, record.source_fingerprint) for record in records}) > 1:
        return [None] * len(records)
    return [None if record is None else record.source_accuracy for record in records]


_RULES: dict[str, Callable[[Sequence[Candidate]], list[float | None]]] = {
    "largest LogME": lambda candidates: [candidate.logme for candidate in candidates],
    "best source accuracy": _source,
    "last stage": lambda candidates: [
        None if candidate.snapshot is None else candidate.snapshot.stage for candidate in candidates
    ],
    "most parameters": lambda candidates: [
        None if candidate.cost is None else candidate.cost.parameters for candidate in candidates
    ],
}


def apply_rules(outcome: Recommendation) -> list[RuleOutcome]:
    """Return the outcome of each rule that applies: it has a value for every snapshot with a score, and they differ."""
    candidates = outcome.compared
    scores = np.array([candidate.score for candidate in candidates], dtype=float)
    outcomes = []
    for name, values_of in _RULES.items():
        values = values_of(candidates)
        if len(candidates) < 2 or None in values or len(set(values)) < 2:
            continue
        array = np.array(values, dtype=float)
        first = array == array.max()
        outcomes.append(
            RuleOutcome(
                name=name,
                choices=tuple(
                    candidate.reference.text for candidate, chosen in zip(candidates, first, strict=True) if chosen
                ),
                score=float(scores[first].mean()),
                agreement=rank_agreement(array, scores),
            )
        )
    return outcomes


def rule_rows(outcomes: Sequence[RuleOutcome]) -> list[dict[str, str]]:
    """Return the outcomes of rules as rows of a table, in plain text."""
    return [
        {
            "rule": rule.name,
            "its choice": ", ".join(rule.choices)
            if len(rule.choices) <= _MOST_NAMED
            else f"{len(rule.choices)} tie, {rule.choices[0]} among them",
            "score of its choice %": f"{100 * rule.score:.1f}",
            "tau-b": "" if rule.agreement is None else f"{rule.agreement.tau:.2f}",
            "weighted tau": "" if rule.agreement is None else f"{rule.agreement.weighted:.2f}",
        }
        for rule in outcomes
    ]


def rules_text(count: int) -> str:
    """Return how to read the table of rules.

    Args:
        count: Number of snapshots with a score.
    """
    if count < MIN_RANKED:
        return f"Rank correlations are not computed: only {count} snapshots have a score, fewer than {MIN_RANKED}."
    return (
        f"Kendall's tau of each rule with the scores of {count} snapshots: 1 is the same order, and chance gives 0. It "
        "describes this task alone and has no interval. If --top left out snapshots, it is of the best by LogME only. "
        "`lrbench leaderboard SUITE --rules` judges rules over the targets of a suite."
    )
