"""Rate × averaging: the 2 × 2 of weights that the rate has fallen for or not, and that are averaged over epochs or not."""

from lrbench.leaderboard.evidence import MEAN_OF_TARGETS, Column, Evidence, Row
from lrbench.leaderboard.markup import points, table
from lrbench.stats.effects import Effect, mean_effect
from lrbench.stats.intervals import Floats

AVERAGES = {
    "average": "step-average",
    "tail-average": "step-tail-average",
    "moving-average": "step-moving-average",
}
"""The average of `hold`'s weights and that of `step`'s, by kind of average."""

_EFFECTS = ("rate falls − held", "averaged − not", "interaction")


def factorial_table(evidence: Evidence, protocol: str) -> str:
    """Return the main effects and the interaction at each stage (rows) on average over targets and for each (columns).

    With the accuracies a of `step` and of its average, b of `hold` and of its average, the effect of the rate is the mean of
    a − b over plain and averaged weights, the effect of averaging is the mean of averaged − plain over `step` and `hold`, and
    the interaction is a − b of averaged weights minus that of plain ones.
    """
    lines = []
    stages = range(2, evidence.suite.schedule.stages + 1)
    for held, fallen in AVERAGES.items():
        if not {"hold", held, fallen} <= set(evidence.suite.arms):
            continue
        for stage in stages:
            rows = [("step", stage), ("hold", stage), (fallen, stage), (held, stage)]
            by_task = [
                _effects(evidence, rows, Column(protocol=protocol, task=task)) for task in evidence.suite.targets
            ]
            for position, name in enumerate(_EFFECTS):
                effects = [effects[position] for effects in by_task if effects is not None]
                complete = len(effects) == len(by_task)
                mean = mean_effect(effects) if complete else None
                line: dict[str, str] = {"average": held, "stage": str(stage), "effect": name}
                shown = [mean, *(None if effects is None else effects[position] for effects in by_task)]
                for heading, effect in zip((MEAN_OF_TARGETS, *evidence.suite.targets), shown, strict=True):
                    estimate = None if effect is None else effect.estimate()
                    line[heading] = points(estimate, len(evidence.seeds), signed=True)
                lines.append(line)
    return table(lines)


def _effects(evidence: Evidence, rows: list[Row], column: Column) -> tuple[Effect, Effect, Effect] | None:
    """Return the effect of the rate, that of averaging, and their interaction; None without common seeds."""
    data = evidence.select(column, rows)
    if data is None:
        return None
    step, hold, step_average, average = data.correct
    rate: Floats = ((step - hold) + (step_average - average)) / 2
    averaging: Floats = ((step_average - step) + (average - hold)) / 2
    return data.effect(rate), data.effect(averaging), data.effect((step_average - average) - (step - hold), 2.0)
