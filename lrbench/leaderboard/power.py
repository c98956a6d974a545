"""Seeds and test images that an effect of a given size needs, from a suite's results or from stated variances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from lrbench.config import Suite
from lrbench.leaderboard.claim_effects import causal_effects
from lrbench.leaderboard.claims import boundary_name, tested_protocols
from lrbench.leaderboard.evidence import MEAN_OF_TARGETS, Evidence
from lrbench.stats.effects import Effect, mean_effect
from lrbench.stats.intervals import Estimate
from lrbench.stats.power import Components, detectable, images_needed, power, seeds_needed

CURVE_SEEDS = tuple(range(2, 31))
"""Numbers of seeds of the curve."""

# Share of a paired difference's variance between images that all seeds have in common, where it is not measured.
_SHARED = 0.3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Variance of a paired difference on one target, or on average over targets.

    Attributes:
        protocol: The transfer protocol.
        boundary: The boundary, as pages name it.
        target: The target, or `MEAN_OF_TARGETS`.
        difference: The noisier of the two differences of C3.
        components: Variance components, with the present test images as the unit of images.
        seeds: Present number of seeds.
        images: Present number of test images, on average over targets.
        tests: Number of tests that are adjusted together.
    """

    protocol: str
    boundary: str
    target: str
    difference: str
    components: Components
    seeds: int
    images: float
    tests: int

    def power(self, effect: float, seeds: int | None = None) -> float:
        """Return the power at an effect (a share) with the present images, and the present or another number of seeds."""
        count = self.seeds if seeds is None else seeds
        return power(effect, **self.components.variances(count, 1.0), seeds=count, tests=self.tests)

    @property
    def detectable(self) -> float:
        """Smallest effect that the present seeds and images detect in four of five repetitions."""
        return detectable(**self.components.variances(self.seeds, 1.0), seeds=self.seeds, tests=self.tests)

    def seeds_needed(self, effect: float) -> int | None:
        """Return the seeds with which an effect has power 80 % on the present images; None if 1,000 are not enough."""
        return seeds_needed(effect, self.components, 1.0, tests=self.tests)

    def images_needed(self, effect: float) -> int | None:
        """Return the images for a target with which an effect has power 80 % with the present seeds; None if none suffice."""
        # The unit is one image.
        unit = Components(
            seed=self.components.seed,
            residual=self.components.residual * self.images,
            image=self.components.image * self.images,
        )
        return images_needed(effect, unit, self.seeds, tests=self.tests)


def measured_plans(evidence: Evidence) -> list[Plan]:
    """Return the plans of C3 by protocol, boundary and target, with the mean of targets first, from a suite's results.

    V_S of a single target is the mean over the targets, as on the pages. Empty without two seeds of all snapshots needed.
    """
    boundaries = range(1, evidence.suite.schedule.stages)
    outcomes = {
        (protocol, boundary): effects
        for protocol in tested_protocols(evidence)
        for boundary in boundaries
        if (effects := _by_target(evidence, protocol, boundary)) is not None
    }
    tests = len(dict.fromkeys(protocol for protocol, _ in outcomes)) * len(boundaries)
    plans = []
    for (protocol, boundary), by_target in outcomes.items():
        counts = {
            target: len(next(iter(effects[0][1].images.values())).labels) for target, effects in by_target.items()
        }
        names = [name for name, _ in next(iter(by_target.values()))]
        pooled = [_pooled([effects[position][1] for effects in by_target.values()]) for position in range(len(names))]
        # The same seeds of every target give one variance.
        typical = [
            float(np.mean([effects[position][1].estimate().seed_variance or 0.0 for effects in by_target.values()]))
            for position in range(len(names))
        ]
        scopes: dict[str, Sequence[Estimate]] = {
            MEAN_OF_TARGETS: pooled,
            **{target: [effect.estimate() for _, effect in effects] for target, effects in by_target.items()},
        }
        for target, estimates in scopes.items():
            single = target != MEAN_OF_TARGETS
            candidates = [
                Plan(
                    protocol=protocol,
                    boundary=boundary_name(boundary),
                    target=target,
                    difference=name,
                    components=_components(estimate, typical[position] if single else estimate.seed_variance or 0.0),
                    seeds=estimate.seeds,
                    images=float(counts[target] if single else np.mean(list(counts.values()))),
                    tests=tests * len(by_target) if single else tests,
                )
                for position, (name, estimate) in enumerate(zip(names, estimates, strict=True))
            ]
            plans.append(max(candidates, key=lambda plan: plan.detectable))
    return plans


def stated_plans(
    suite: Suite,
    *,
    protocols: int,
    seed_sd: float,
    images: int,
    disagreement: float,
    targets: int | None = None,
    correlation: float = 0.0,
) -> list[Plan]:
    """Return the plans of one protocol and boundary from stated variances: the mean of targets, and one target.

    Args:
        suite: The suite, which gives the numbers of seeds, targets and boundaries.
        protocols: Number of protocols that can decide C3.
        seed_sd: Standard deviation of the true difference over seeds, as a share.
        images: Test images for each target.
        disagreement: Share of images on which two snapshots of one run disagree. Of this variance, 30 % is taken to be common
            to all seeds.
        targets: Number of targets; the suite's by default.
        correlation: Correlation of a seed's true differences on two targets. Images of targets are independent.
    """
    targets = len(suite.targets) if targets is None else targets
    tests = protocols * (suite.schedule.stages - 1)
    one = Components(
        seed=seed_sd**2, residual=(1 - _SHARED) * disagreement / images, image=_SHARED * disagreement / images
    )
    # The variance of a mean of equally correlated values.
    common = correlation + (1 - correlation) / targets
    mean = Components(seed=one.seed * common, residual=one.residual / targets, image=one.image / targets)
    return [
        Plan(
            protocol="any",
            boundary="any",
            target=target,
            difference="stated",
            components=components,
            seeds=len(suite.seeds),
            images=images,
            tests=count,
        )
        for target, components, count in ((MEAN_OF_TARGETS, mean, tests), ("one target", one, tests * targets))
    ]


def plan_table(plans: Sequence[Plan], effect: float) -> list[dict[str, str]]:
    """Return a table of what an effect (a share) needs."""
    return [
        {
            "protocol": plan.protocol,
            "boundary": plan.boundary,
            "target": plan.target,
            "detectable, points": f"{100 * plan.detectable:.1f}",
            f"power at {100 * effect:g}": f"{100 * plan.power(effect):.0f} %",
            "seeds needed": "over 1,000" if (seeds := plan.seeds_needed(effect)) is None else f"{seeds:,}",
            "test images needed": "none suffice" if (images := plan.images_needed(effect)) is None else f"{images:,}",
        }
        for plan in plans
    ]


def curve_data(plans: Sequence[Plan], effect: float) -> pandas.DataFrame:
    """Return the power against the number of seeds, in percent: a column for each protocol and boundary of the mean."""
    means = [plan for plan in plans if plan.target == MEAN_OF_TARGETS]
    columns: dict[str, Any] = {"seeds": list(CURVE_SEEDS)}
    for plan in means:
        name = f"{plan.protocol} {plan.boundary}"
        columns[name] = [round(100 * plan.power(effect, seeds), 1) for seeds in CURVE_SEEDS]
    return pandas.DataFrame(columns)


def draw_curve(data: pandas.DataFrame, effect: float) -> Any:
    """Draw the power against the number of seeds into a matplotlib figure."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4, 4.2), layout="constrained")
    panel = canvas.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.3)
    for position, name in enumerate(data.columns[1:]):
        panel.plot(data.seeds, data[name], marker="osDv^<>"[position % 7], markersize=3.5, linewidth=1.3, label=name)
    panel.axhline(80, color="k", linewidth=0.8, linestyle="--")
    panel.set_ylim(0, 102)
    panel.set_xlabel("pretraining seeds")
    panel.set_ylabel(f"power to detect {100 * effect:g} points, %")
    canvas.legend(loc="outside lower center", ncols=3, frameon=False)
    return canvas


def _by_target(evidence: Evidence, protocol: str, boundary: int) -> dict[str, tuple[tuple[str, Effect], ...]] | None:
    """Return C3's differences by target; None if a target has none, or only one seed."""
    by_target = {task: causal_effects(evidence, protocol, task, boundary) for task in evidence.suite.targets}
    if any(not effects or len(effects[0][1].seeds) < 2 for effects in by_target.values()):
        return None
    return by_target


def _pooled(effects: Sequence[Effect]) -> Estimate:
    mean = mean_effect(effects)
    assert mean is not None
    return mean.estimate()


def _components(estimate: Estimate, seed_variance: float) -> Components:
    """Return the components that give the variances of an estimate at the present seeds and images."""
    return Components(
        seed=max(0.0, seed_variance - estimate.residual_variance) * estimate.seeds,
        residual=estimate.residual_variance * estimate.seeds,
        image=estimate.image_variance,
    )
