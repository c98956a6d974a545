"""Evaluation of rules that rank the snapshots of a suite for its targets, by the accuracy measured on each target.

Shapes: N snapshots, S pretraining seeds, T targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lrbench.config import Suite
from lrbench.config.protocols import gives_evidence
from lrbench.core.seeds import generator
from lrbench.core.workspace import Workspace
from lrbench.leaderboard.evidence import Column, Evidence, Row
from lrbench.leaderboard.figure_data import staged_rows
from lrbench.leaderboard.gathering import gather
from lrbench.leaderboard.markup import Marked, bracketed, rounded
from lrbench.leaderboard.tables import logme_score
from lrbench.stats.images import compute_headlines
from lrbench.stats.intervals import Floats
from lrbench.stats.ranking import MIN_RANKED, crossed_interval, rank_agreement, regret

Accuracies = Floats
"""Accuracies of the snapshots by seed and target. Shape `(S, T, N)`."""


@dataclass(frozen=True, kw_only=True)
class JudgedRule:
    """One rule over the targets of a suite.

    Attributes:
        name: The rule.
        tau: Mean of Kendall's tau-b with the accuracies, over seeds and targets; None if the rule orders nothing.
        interval: Its 95 % interval, by a bootstrap over seeds and targets.
        weighted: Mean of the weighted tau.
        weighted_interval: Its interval.
        regret: Accuracy of the best snapshot minus that of the rule's first choice, on average, in [0, 1].
    """

    name: str
    tau: float | None
    interval: tuple[float, float] | None
    weighted: float | None
    weighted_interval: tuple[float, float] | None
    regret: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The rules of a suite.

    Attributes:
        suite: Name of the suite.
        protocol: Protocol whose accuracies are to be predicted.
        snapshots: Arms and stages that are ranked.
        seeds: Pretraining seeds with every result.
        targets: Targets.
        rules: The rules; empty if there are too few snapshots or no complete seed.
        problem: Why there are none.
    """

    suite: str
    protocol: str
    snapshots: tuple[Row, ...]
    seeds: tuple[int, ...]
    targets: tuple[str, ...]
    rules: tuple[JudgedRule, ...] = ()
    problem: str = ""


def judge(workspace: Workspace, suite: Suite, protocol: str) -> Judgement:
    """Judge the rules on a suite's results. Nothing is computed again.

    The initialisation is left out, because every rule ranks it last, and so are intermediate snapshots.

    Args:
        workspace: The workspace with the results.
        suite: The suite.
        protocol: Protocol whose accuracies the rules are to predict.

    Raises:
        InputError: The suite's registration is damaged.
    """
    evidence = gather(workspace.results, suite, workspace.cache)[0]
    rows = tuple(row for row in staged_rows(evidence) if row[1] > 0 and suite.uses(protocol, row[0]))
    columns = [Column(protocol=protocol, task=task) for task in suite.targets]
    known = [evidence.values[column].correct if column in evidence.values else {} for column in columns]
    seeds = tuple(seed for seed in evidence.seeds if all((row, seed) in correct for correct in known for row in rows))
    judgement = partial(
        Judgement, suite=suite.name, protocol=protocol, snapshots=rows, seeds=seeds, targets=tuple(suite.targets)
    )
    if len(rows) < MIN_RANKED:
        return judgement(problem=f"it has only {len(rows)} trained snapshots, fewer than {MIN_RANKED}")
    if not seeds or not columns:
        return judgement(problem=f"no pretraining seed has {protocol} results of every snapshot and target")
    accuracies = np.array(
        [
            [
                compute_headlines(
                    np.array([evidence.values[column].correct[row, seed] for row in rows], dtype=np.float64),
                    evidence.values[column].labels,
                    evidence.values[column].metric,
                )
                for column in columns
            ]
            for seed in seeds
        ]
    )
    rules = [
        _judge_rule(name, values, accuracies, suite.name)
        for name, values_of in _RULES.items()
        if (values := values_of(evidence, rows, seeds, accuracies)) is not None
    ]
    return judgement(rules=tuple(rules))


def _judge_rule(name: str, values: Floats, accuracies: Accuracies, suite: str) -> JudgedRule:
    """Judge a rule.

    Args:
        name: The rule.
        values: Its value of each snapshot, by seed and target. Shape `(S, T, N)`.
        accuracies: Shape `(S, T, N)`.
        suite: Name of the suite, which keys the bootstrap.
    """
    seeds, targets, _ = accuracies.shape
    pairs = [(values[seed, target], accuracies[seed, target]) for seed in range(seeds) for target in range(targets)]
    agreements = [rank_agreement(*pair) for pair in pairs]
    lost = float(np.mean([regret(*pair) for pair in pairs]))
    complete = [agreement for agreement in agreements if agreement is not None]
    if len(complete) < len(agreements):
        return JudgedRule(name=name, tau=None, interval=None, weighted=None, weighted_interval=None, regret=lost)
    tau = np.array([agreement.tau for agreement in complete]).reshape(seeds, targets)
    weighted = np.array([agreement.weighted for agreement in complete]).reshape(seeds, targets)
    return JudgedRule(
        name=name,
        tau=float(tau.mean()),
        # Both measures resample the same seeds and targets.
        interval=crossed_interval(tau, generator(0, "rules", suite)),
        weighted=float(weighted.mean()),
        weighted_interval=crossed_interval(weighted, generator(0, "rules", suite)),
        regret=lost,
    )


Rule = Callable[[Evidence, Sequence[Row], Sequence[int], Accuracies], Floats | None]


def _last_stage(evidence: Evidence, rows: Sequence[Row], seeds: Sequence[int], accuracies: Accuracies) -> Floats:
    return np.broadcast_to(np.array([stage for _, stage in rows], dtype=float), accuracies.shape)


def _source_accuracy(
    evidence: Evidence, rows: Sequence[Row], seeds: Sequence[int], accuracies: Accuracies
) -> Floats | None:
    if any((row, seed) not in evidence.source for row in rows for seed in seeds):
        return None
    values = np.array([[evidence.source[row, seed] for row in rows] for seed in seeds])
    return np.broadcast_to(values[:, None], accuracies.shape)


def _logme(evidence: Evidence, rows: Sequence[Row], seeds: Sequence[int], accuracies: Accuracies) -> Floats | None:
    scores: dict[tuple[str, int, Row], list[float]] = {}
    for entry in evidence.entries:
        if not gives_evidence(entry.protocol) or (score := logme_score(entry)) is None:
            continue
        assert entry.arm is not None and entry.stage is not None and entry.pretraining_seed is not None
        scores.setdefault((entry.task, entry.pretraining_seed, (entry.arm, entry.stage)), []).append(score)
    targets = evidence.suite.targets
    if any((task, seed, row) not in scores for task in targets for seed in seeds for row in rows):
        return None
    return np.array(
        [[[np.mean(scores[task, seed, row]) for row in rows] for task in targets] for seed in seeds], dtype=float
    )


def _other_targets(
    evidence: Evidence, rows: Sequence[Row], seeds: Sequence[int], accuracies: Accuracies
) -> Floats | None:
    targets = accuracies.shape[1]
    if targets < 2:
        return None
    means: Floats = (accuracies.sum(axis=1, keepdims=True) - accuracies) / (targets - 1)
    return means


def _other_seeds(
    evidence: Evidence, rows: Sequence[Row], seeds: Sequence[int], accuracies: Accuracies
) -> Floats | None:
    count = len(seeds)
    if count < 2:
        return None
    means: Floats = (accuracies.sum(axis=0, keepdims=True) - accuracies) / (count - 1)
    return means


_RULES: dict[str, Rule] = {
    "LogME": _logme,
    "source accuracy": _source_accuracy,
    "last stage": _last_stage,
    "static list: mean accuracy on the other targets": _other_targets,
    "control: the same target with the other seeds": _other_seeds,
}


def judgement_rows(judgement: Judgement) -> list[dict[str, str]]:
    """Return the rules as rows of a table."""
    return [
        {
            "rule": rule.name,
            "tau-b": _with_ends(rule.tau, rule.interval),
            "weighted tau": _with_ends(rule.weighted, rule.weighted_interval),
            "regret, points": rounded(100 * rule.regret, 2),
        }
        for rule in judgement.rules
    ]


def _with_ends(value: float | None, interval: tuple[float, float] | None) -> Marked:
    if value is None:
        return Marked("")
    return Marked(f"{rounded(value, 2)} {bracketed(*interval, 1, 2)}" if interval is not None else rounded(value, 2))


def judgement_text(judgement: Judgement) -> str:
    """Return how to read the table, in plain text."""
    if judgement.problem:
        return f"{judgement.suite}: rules are not judged, because {judgement.problem}."
    seeds, targets = len(judgement.seeds), len(judgement.targets)
    resampled = " and ".join(
        f"{count} {unit}" for count, unit in ((targets, "targets"), (seeds, "pretraining seeds")) if count > 1
    )
    interval = (
        f" In brackets: 95 % interval from a bootstrap over {resampled}, too narrow if there are few; it does not cover the "
        "test images or the choice of snapshots."
    ) * bool(resampled)
    names = {rule.name for rule in judgement.rules}
    missing = " LogME is missing, because not every snapshot has a LogME result." * ("LogME" not in names)
    control = (
        " The control ranks by the mean of the other seeds on the same target and test images: it shows how much of the "
        "order another pretraining run keeps."
    ) * (seeds > 1)
    return (
        f"{judgement.suite}: {len(judgement.snapshots)} trained snapshots of {seeds} pretraining seed{'s' * (seeds != 1)}, "
        f"ranked for {targets} target{'s' * (targets != 1)} and compared with the {judgement.protocol} accuracy on its test "
        "images. Kendall's tau, mean over seeds and targets: 1 is the same order, and chance gives 0; the weighted tau counts "
        f"exchanges near the top more.{interval} Regret: points by which the rule's first choice is below the "
        f"best snapshot on the test images, noise included.{control}{missing}"
    )
