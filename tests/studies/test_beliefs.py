"""Decision rules of the claims on common beliefs, in simulated worlds."""

import numpy as np
import pytest

from lrbench.stats.intervals import estimate_over_seeds
from lrbench.studies.beliefs import best_of_trail, judge_escape, judge_noise, judge_oscillation

WORLDS, UNITS = 300, 5


def worlds(seed, **means):
    """Return for each world the differences of every unit, by name; they share a normal noise of each unit."""
    draw = np.random.default_rng(seed)
    for _ in range(WORLDS):
        shared = draw.normal(size=UNITS)
        yield {
            name: estimate_over_seeds(mean + spread * (0.7 * shared + 0.7 * draw.normal(size=UNITS)))
            for name, (mean, spread) in means.items()
        }


def shares(verdicts):
    verdicts = list(verdicts)
    return {verdict: verdicts.count(verdict) / len(verdicts) for verdict in ("supported", "contradicted")}


@pytest.mark.parametrize(
    ("to_step", "to_hold", "supported", "contradicted"),
    [
        # As good as the drop, and better than holding.
        ((0.0, 0.003), (0.05, 0.01), (0.9, 1), (0, 0)),
        # Nothing gained by growing the batch.
        ((-0.05, 0.01), (0.0, 0.01), (0, 0), (0.85, 1)),
        # In between: worse than the drop, better than holding.
        ((-0.03, 0.005), (0.03, 0.005), (0, 0), (0, 0.02)),
        # No arm differs: there is nothing to explain.
        ((0.0, 0.005), (0.0, 0.005), (0, 0.05), (0, 0.05)),
        # One point worse is not the same.
        ((-0.01, 0.005), (0.05, 0.005), (0, 0.06), (0, 0.02)),
    ],
)
def test_noise_scale_needs_both_comparisons(to_step, to_hold, supported, contradicted):
    outcome = shares(judge_noise(world["step"], world["hold"]) for world in worlds(1, step=to_step, hold=to_hold))
    assert supported[0] <= outcome["supported"] <= supported[1]
    assert contradicted[0] <= outcome["contradicted"] <= contradicted[1]


@pytest.mark.parametrize(
    ("lead", "supported", "contradicted"),
    [
        ((0.03, 0.01), (0.85, 1), (0, 0)),
        ((-0.02, 0.01), (0, 0), (0.95, 1)),
        ((0.0, 0.002), (0, 0.06), (0.9, 1)),
        # A lead as large as the margin is called nothing in one of twenty worlds.
        ((0.005, 0.005), (0.2, 0.6), (0, 0.08)),
        ((0.0, 0.03), (0, 0.05), (0, 0.15)),
    ],
)
def test_oscillation_suffices_only_where_a_lead_is_excluded(lead, supported, contradicted):
    outcome = shares(judge_oscillation(world["lead"]) for world in worlds(2, lead=lead))
    assert supported[0] <= outcome["supported"] <= supported[1]
    assert contradicted[0] <= outcome["contradicted"] <= contradicted[1]


@pytest.mark.parametrize(
    ("loss", "lead", "supported", "contradicted"),
    [
        # `small` fits better and generalises worse.
        ((-0.5, 0.2), (0.05, 0.01), (0.9, 1), (0, 0)),
        # `small` fits worse.
        ((0.5, 0.1), (0.05, 0.01), (0, 0), (0.95, 1)),
        # `small` fits as well and generalises as well.
        ((-0.5, 0.2), (0.0, 0.01), (0, 0.05), (0, 0)),
        ((0.0, 0.3), (0.0, 0.01), (0, 0.05), (0, 0.05)),
    ],
)
def test_escape_needs_loss_and_accuracy(loss, lead, supported, contradicted):
    outcome = shares(judge_escape(world["loss"], world["lead"]) for world in worlds(3, loss=loss, lead=lead))
    assert supported[0] <= outcome["supported"] <= supported[1]
    assert contradicted[0] <= outcome["contradicted"] <= contradicted[1]


def test_single_units_decide_nothing():
    alone = estimate_over_seeds([0.3])
    assert judge_noise(alone, alone) == judge_oscillation(alone) == judge_escape(alone, alone) == "inconclusive"


class Trailing:
    """Results of a schedule of two stages of two and three epochs, whose arms are equally accurate."""

    def __init__(self, seeds=40, images=400):
        from types import SimpleNamespace

        from lrbench.config.pretraining import Schedule

        draw = np.random.default_rng(4)
        schedule = Schedule(epochs=5, boundaries=(2,), rates=(0.1, 0.01), batch=8, trail=5)
        self.suite = SimpleNamespace(arms=("step", "hold", "constant", "trail"), schedule=schedule, seeds=range(seeds))
        self.seeds = self.suite.seeds
        self.fit = {}
        self.source_correct = {
            (row, seed): draw.random(images) < 0.7
            for row in (("step", 2), ("hold", 2), *(("trail", number) for number in range(1, 4)))
            for seed in self.seeds
        }


def test_best_epoch_end_is_not_chosen_on_the_images_that_measure_it():
    results = Trailing()
    # Epochs 1, 3 and 4; those of the first stage do not count.
    results.source_correct |= {(("trail", 1), seed): np.ones(400, dtype=bool) for seed in results.seeds}
    lead = best_of_trail(results).estimate()
    # Chosen on the same images, the best of three would lead by 0.85 standard deviations, or two points.
    assert abs(lead.mean) < 0.01
