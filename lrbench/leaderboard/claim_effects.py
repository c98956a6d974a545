"""Effects that the claims test, by target and boundary; boundary i is between stages i and i + 1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lrbench.config.relatives import CONTROLS
from lrbench.leaderboard.evidence import Column, Evidence, Row, Selection, fits_null, row_name
from lrbench.stats.effects import Effect, mean_effect
from lrbench.stats.ratios import change_of_ratio
from lrbench.stats.saturation import MIN_SNAPSHOTS, Scored, residual


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Effects of a claim by name, and those that are tested; a reason if there are none.

    Attributes:
        effects: Effects with the names that pages show.
        tested: Effects whose tests decide, if they differ from those shown.
        reason: Reason why nothing can be tested, in a few words.
        testable: Whether the suite has the arms that the test needs under this protocol.
    """

    effects: tuple[tuple[str, Effect], ...] = ()
    tested: tuple[Effect, ...] = ()
    reason: str = ""
    testable: bool = True


def claim_outcomes(evidence: Evidence, claim: str, protocol: str) -> dict[tuple[str, int], Outcome]:
    """Return the outcome of a claim by target and boundary."""
    measure = _MEASURES[claim]
    return {
        (task, boundary): measure(evidence, Column(protocol=protocol, task=task), boundary)
        for task in evidence.suite.targets
        for boundary in range(1, evidence.suite.schedule.stages)
    }


def mean_outcome(named: Mapping[str, Outcome]) -> Outcome:
    """Return the mean of the outcomes of targets or boundaries; one that could not be tested leaves it without a test.

    Its reason names the target or boundary, unless it is the reason of all.
    """
    outcomes = list(named.values())
    for name, outcome in named.items():
        if outcome.reason:
            shared = all(other.reason == outcome.reason for other in outcomes)
            return outcome if shared else replace(outcome, reason=f"{name}: {outcome.reason}")
    first = outcomes[0]
    means = [
        mean_effect([outcome.effects[position][1] for outcome in outcomes]) for position in range(len(first.effects))
    ]
    tested = [mean_effect([outcome.tested[position] for outcome in outcomes]) for position in range(len(first.tested))]
    effects = tuple((name, mean) for (name, _), mean in zip(first.effects, means, strict=True) if mean is not None)
    if len(effects) < len(means):
        return Outcome(reason="no seed has results of all snapshots needed on all targets")
    return Outcome(effects=effects, tested=tuple(mean for mean in tested if mean is not None))


def causal_effects(evidence: Evidence, protocol: str, task: str, boundary: int) -> tuple[tuple[str, Effect], ...]:
    """Return the two differences of C3 with their names; empty without results."""
    return _causal(evidence, Column(protocol=protocol, task=task), boundary).effects


def _missing_results(evidence: Evidence, column: Column, rows: Sequence[Row], *, with_source: bool = False) -> Outcome:
    """Return the reason why rows have no seed in common, or none with predictions on the source's test images too."""
    missing = [row_name(row) for row in rows if evidence.accuracy(row, column) is None]
    if len(missing) == len(rows):
        return Outcome(reason="no results")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return Outcome(reason=f"no results of {missing[0]}{more}")
    if with_source and not {row for row, _ in evidence.source_correct}.issuperset(rows):
        return Outcome(reason="no predictions on the source's test images are stored")
    return Outcome(reason="no seed has results of all snapshots needed")


def _absolute(evidence: Evidence, column: Column, boundary: int) -> Outcome:
    later, earlier = ("step", boundary + 1), ("step", boundary)
    effect = evidence.difference_effect(later, earlier, column)
    if effect is None:
        return _missing_results(evidence, column, [earlier, later])
    return Outcome(effects=(("this stage − previous stage", effect),))


def _causal(evidence: Evidence, column: Column, boundary: int) -> Outcome:
    stage = boundary + 1
    for control in CONTROLS:
        if control not in evidence.suite.arms:
            return Outcome(reason=f"the suite has no arm {control}", testable=False)
        if not evidence.suite.uses(column.protocol, control):
            reason = f"the suite does not use {column.protocol} on the arm {control}"
            return Outcome(reason=reason, testable=False)
    effects = []
    for control in CONTROLS:
        effect = evidence.difference_effect(("step", stage), (control, stage), column)
        if effect is None:
            return _missing_results(evidence, column, [("step", stage), *((name, stage) for name in CONTROLS)])
        effects.append((f"step − {control}", effect))
    return Outcome(effects=tuple(effects))


def _diminishing(evidence: Evidence, column: Column, boundary: int) -> Outcome:
    rows: list[Row] = [("step", boundary - 1), ("step", boundary), ("step", boundary + 1)]
    gains = [evidence.gains(after, before, column) for before, after in pairwise(rows)]
    data = evidence.select(column, rows, with_source=True)
    if data is None or gains[0] is None or gains[1] is None:
        return _missing_results(evidence, column, rows, with_source=True)
    (first, first_source), (second, second_source) = (
        (target.over(data.seeds), source.over(data.seeds)) for target, source in (gains[0], gains[1])
    )
    for row, effect in zip(rows[1:], (first_source, second_source), strict=True):
        gain = effect.estimate()
        if gain.mean == 0 or (gain.half_width is not None and not gain.excludes_zero):
            return Outcome(
                reason=f"T of stage {row[1]} is undefined: the source's gain is not significantly different from zero"
            )
        if gain.mean < 0 and gain.half_width is not None:
            return Outcome(reason=f"T of stage {row[1]} is undefined: the source lost accuracy")
    difference, product = change_of_ratio((first, second), (first_source, second_source))
    return Outcome(effects=(("T of the next stage − T of this stage", difference),), tested=(product,))


def _beyond_saturation(evidence: Evidence, column: Column, boundary: int) -> Outcome:
    row: Row = ("step", boundary + 1)
    suite = evidence.suite
    null_rows = [other for other in evidence.rows if fits_null(suite, other) and suite.uses(column.protocol, other[0])]
    if len(null_rows) < MIN_SNAPSHOTS:
        count = f"{len(null_rows)} snapshot{'' if len(null_rows) == 1 else 's'} without decay and averaging"
        reason = f"not identified: the suite has {count}, {MIN_SNAPSHOTS} are needed"
        return Outcome(reason=reason, testable=False)
    target = evidence.select(column, [*null_rows, row], with_source=True)
    source = None if target is None else evidence.select_source([*null_rows, row], target.seeds)
    if target is None or source is None:
        return _missing_results(evidence, column, [row, *null_rows], with_source=True)
    effect = residual(_scored(target), _scored(source), target.seeds, evidence.name, column.task)
    if isinstance(effect, str):
        return Outcome(reason=effect)
    return Outcome(effects=(("error observed − predicted", effect),))


def _scored(data: Selection) -> Scored:
    return Scored(correct=data.correct, labels=data.labels, metric=data.metric)


_MEASURES: dict[str, Callable[[Evidence, Column, int], Outcome]] = {
    "C1": _diminishing,
    "C2": _absolute,
    "C3": _causal,
    "C4": _beyond_saturation,
}
