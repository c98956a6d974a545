# ruff: noqa: F821
"""Error rates of the leaderboard's statistics, by simulation: `python benchmark/simulations.py` (two minutes).

Prints the coverage of the interval of a mean paired difference, the rate of false verdicts when no stage or arm differs, and
the power of C3 when decay costs four points. The tests check bounds on the same simulations with fewer draws.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lrbench.config import load_suite
from lrbench.config.suite import Suite
from lrbench.leaderboard.claims import decide
from lrbench.stats.effects import estimate
from tests.leaderboard.helpers import null_world, world

_SEEDS = (3, 5, 10)


def _suite() -> Suite:
    """Return `quick` without the arms that only the saturation null needs; the null takes most of the time."""
    suite = load_suite("quick")
    return suite.model_copy(
        update={"arms": tuple(arm for arm in suite.arms if arm not in ("constant-average", "trail"))}
    )


def coverage(seeds: int, runs: int = 6000) -> float:
    """Share of nominal 95 % intervals that contain the true value; all seeds share the same images."""
    draw = np.random.default_rng(50 + seeds)
    labels, truth, covered = np.zeros(150, dtype=np.int64), 0.02, 0
    for _ in range(runs):
        rates = truth + draw.normal(0, 0.02, seeds)[:, None] + draw.normal(0, 0.15, 150)[None]
        per_image = rates + draw.normal(0, 0.4, (seeds, 150))
        interval = estimate(per_image.mean(axis=1), image_variance(per_image.mean(axis=0), labels, "top1"))
        covered += abs(interval.mean - truth) <= interval.half_width
    return covered / runs


def false_verdicts(seeds: int, runs: int = 1000) -> dict[str, float]:
    """Share of conclusive decisions by claim when every row has the same true accuracy."""
    draw, suite = np.random.default_rng(1000 + seeds), _suite()
    wrong = {"C1": 0, "C2": 0, "C3": 0}
    for _ in range(runs):
        noise = draw.normal(0, 0.004, (10, 4))
        evidence = world(
            suite,
            seeds,
            draw,
            levels=lambda row: 0.6,
            source=lambda row, seed, n=noise: 0.1 + 0.2 * row[1] + n[seed, row[1]],
        )
        for decision in decide(evidence):
            if decision.verdict != "inconclusive":
                wrong[decision.claim.name] += 1
    return {name: count / (2 * runs) for name, count in wrong.items()}


def null_residuals(seeds: int, runs: int = 150) -> float:
    """Share of C4's residuals with p below 5 % when the snapshot follows the saturation null."""
    draw = np.random.default_rng(2000 + seeds)
    residuals = [null_world(draw, 0.0, seeds=seeds).estimate for _ in range(runs)]
    return sum(residual is not None and residual.p is not None and residual.p < 0.05 for residual in residuals) / runs


def power(seeds: int = 5, runs: int = 300) -> float:
    """Share of decisions that support C3 when decay costs four points, on 2,000 images."""
    draw, suite = np.random.default_rng(8), _suite()
    supported = 0
    for _ in range(runs):
        evidence = world(
            suite,
            seeds,
            draw,
            levels=lambda row: 0.6 + 0.1 * min(row[1], 1) - (0.04 if row[0] == "step" and row[1] > 1 else 0.0),
            labels=np.zeros(2000, dtype=np.int64),
            seed_noise=0.003,
        )
        decisions = [decision for decision in decide(evidence) if decision.claim.name == "C3"]
        supported += sum(decision.verdict == "supported" for decision in decisions)
    return supported / (2 * runs)


if __name__ == "__main__":
    for number in _SEEDS:
        rates = ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in false_verdicts(number).items())
        print(
            f"{number} seeds: coverage {100 * coverage(number):.1f} %; false verdicts {rates}, "
            f"C4 {100 * null_residuals(number):.1f} %"
        )
    print(f"5 seeds, four points lost to decay: C3 supported in {100 * power():.0f} %")
