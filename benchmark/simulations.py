"""Error rates and power of the leaderboard's statistics, by simulation with known truth.

    python benchmark/simulations.py                          # seven to fifteen minutes on one core
    python benchmark/simulations.py --runs 100 --out FILE    # fewer runs, tables written to a file

An image is predicted correctly if a standard normal variable is below Φ⁻¹(accuracy). The variable is the sum of the image's
difficulty, of terms that seeds or snapshots share, and of noise, so that two snapshots of a seed disagree on about a fifth
of the images. The accuracy of a snapshot is its level plus a deviation of the seed. Inference is lrbench's own.

Shapes: R = 4 snapshots, T = 5 targets, S pretraining seeds, I test images of a target.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special
from tabulate import tabulate

from lrbench.config import load_suite
from lrbench.config.schedule import snapshot_keys
from lrbench.leaderboard.claims import CLAIMS, Claim, Decision, decide, judge_family
from lrbench.leaderboard.evidence import Column, Evidence, Row, Values
from lrbench.stats.effects import Effect, mean_effect
from lrbench.stats.images import ImageValues, Labels
from lrbench.stats.intervals import Estimate

Floats = npt.NDArray[np.float64]

SEEDS = (3, 5, 10)
EFFECTS = (0, 1, 2, 3, 4)
"""Accuracy that the drop of the rate costs, in points."""

TARGETS = 5
MARGIN = 2
"""Margin of equivalence, in points."""

# Step after the drop; step before it; hold; average.
SNAPSHOTS = 4
# Effects by claim: the drop's snapshot minus these.
CONTROLS = {"C2": (1,), "C3": (2, 3)}
NOISY_HOLD = (0.0, 0.0, -4.0, 0.0)
"""Levels, in points, of a world in which `hold` suffers from the noise of its iterates and the drop costs nothing."""

# Variances of an image's latent variable: its difficulty, what a seed adds, what a kind of snapshot adds, and noise.
DIFFICULTY, OF_SEED, OF_SNAPSHOT, NOISE = 0.55, 0.17, 0.03, 0.25

# A decision's smallest detectable effect takes most of its time; without variance it is zero at once.
_NO_EFFECT = (("unused", Estimate(mean=0.0, seeds=2, seed_variance=0.0)),)


@dataclass(frozen=True, kw_only=True)
class World:
    """How seeds and images vary.

    Attributes:
        name: Name in the tables.
        seed_sd: Standard deviation over seeds of the difference of two snapshots, in points.
        deviations: Deviations of snapshots, of which a difference has unit variance, from standard normal variables. It gets
            those of shape `(R, T, S)`, the drop's snapshot first, and a random generator.
        correlation: Correlation of a seed's variables between targets.
        images: Number of test images of a target.
        group: Number of consecutive images that share their outcome.
        metric: Headline metric; `mean_per_class` has classes of one to three images.
        level: Accuracy without an effect.
    """

    name: str
    seed_sd: float = 1.3
    deviations: Callable[[Floats, np.random.Generator], Floats] = lambda normal, draw: normal / np.sqrt(2)
    correlation: float = 0.0
    images: int = 600
    group: int = 1
    metric: str = "top1"
    level: float = 0.7

    @property
    def labels(self) -> Labels:
        """Labels of the test images. Shape `(I,)`."""
        if self.metric == "top1":
            return np.zeros(self.images, dtype=np.int64)
        return np.repeat(np.arange(self.images), np.arange(self.images) % 3 + 1)[: self.images]

    def draw_latents(self, draw: np.random.Generator, seeds: int) -> npt.NDArray[np.float32]:
        """Return the latent variables of images. Shape `(R, T, S, I)`."""

        def normal(variance: float, *shape: int) -> npt.NDArray[np.float32]:
            scale = np.float32(np.sqrt(variance))
            return scale * draw.standard_normal((*shape, self.images // self.group), dtype=np.float32)

        latents = normal(NOISE, SNAPSHOTS, TARGETS, seeds)
        latents += normal(DIFFICULTY, TARGETS, 1) + normal(OF_SEED, TARGETS, seeds)
        latents += normal(OF_SNAPSHOT, SNAPSHOTS, TARGETS, 1)
        return np.repeat(latents, self.group, axis=-1) if self.group > 1 else latents

    def draw_accuracies(self, draw: np.random.Generator, seeds: int) -> Floats:
        """Return the accuracies of snapshots without an effect. Shape `(R, T, S)`."""
        shared = draw.standard_normal((SNAPSHOTS, 1, seeds))
        normal = draw.standard_normal((SNAPSHOTS, TARGETS, seeds))
        normal = np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * normal
        return self.level + self.seed_sd / 100 * self.deviations(normal, draw)


def _heavy_tailed(normal: Floats, _: np.random.Generator) -> Floats:
    deviations: Floats = special.stdtrit(3, special.ndtr(normal)) / np.sqrt(6)
    return deviations


def _skewed(normal: Floats, _: np.random.Generator) -> Floats:
    deviations: Floats = (-special.log_ndtr(-normal) - 1) / np.sqrt(2)
    # The mirror image keeps the difference skewed.
    deviations[1:] *= -1
    return deviations


def _unstable(normal: Floats, draw: np.random.Generator) -> Floats:
    deviations = 0.3 * draw.standard_normal(normal.shape)
    # One of ten is far below the others, by as much as gives a difference unit variance.
    far = np.sqrt((1 - 2 * 0.3**2) / (0.1 * 0.9))
    deviations[0] -= far * ((normal[0] < special.ndtri(0.1)) - 0.1)
    return deviations


WORLDS = (
    World(name="normal seeds"),
    World(name="heavy-tailed seeds", deviations=_heavy_tailed),
    World(name="skewed seeds", deviations=_skewed),
    World(name="unstable seeds", deviations=_unstable, seed_sd=3.0),
    World(name="small classes", metric="mean_per_class"),
    World(name="near-duplicate images", group=4),
    World(name="ceiling", level=0.97, seed_sd=0.5),
)

GRID = tuple(
    World(name=f"{seed_sd} points, {images:,} images", seed_sd=seed_sd, images=images)
    for seed_sd, images in product((0.5, 1.3, 3.0), (200, 600, 2000))
)

CORRELATED = tuple(World(name=f"correlation {value}", correlation=value) for value in (0.0, 0.5, 1.0))


class Tally:
    """Shares of repetitions by key."""

    def __init__(self) -> None:
        self._counts: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, *key: object, hit: bool) -> None:
        """Count one repetition."""
        count = self._counts[key]
        count[0] += hit
        count[1] += 1

    def percent(self, *key: object) -> float:
        """Return the share of repetitions that hit, in percent."""
        hits, total = self._counts[key]
        return 100 * hits / total


def simulate(world: World, seeds: int, runs: int, *, nulls: bool = True) -> Tally:
    """Simulate one world, and count what lrbench's decisions get right.

    Args:
        world: The world.
        seeds: Number of seeds S.
        runs: Number of repetitions. With `nulls`, the effects that only power needs get a quarter of them.
        nulls: Whether error rates are wanted too, and not only power.
    """
    tally, labels = Tally(), world.labels
    draw = np.random.default_rng([seeds, *world.name.encode()])
    for run in range(runs):
        latents, accuracies = world.draw_latents(draw, seeds), world.draw_accuracies(draw, seeds)
        scenarios: dict[object, tuple[float, ...]] = {
            effect: (-float(effect), 0.0, 0.0, 0.0)
            for effect in EFFECTS
            if not nulls or effect in (0, MARGIN) or run % 4 == 0
        }
        if nulls:
            scenarios["noisy hold"] = NOISY_HOLD
        for scenario, offsets in scenarios.items():
            levels = np.clip(accuracies + np.array(offsets)[:, None, None] / 100, 1e-4, 1 - 1e-4)
            correct = (latents < special.ndtri(levels)[..., None].astype(np.float32)).astype(np.float64)
            for claim in (claim for claim in CLAIMS if claim.name in CONTROLS):
                if claim.name == "C2" and not (nulls and scenario in (0, MARGIN)):
                    continue
                controls = CONTROLS[claim.name]
                truths = [offsets[0] - offsets[control] for control in controls]
                families = _decide(claim, [correct[0] - correct[control] for control in controls], labels, world.metric)
                for scope, family in families.items():
                    _count(tally, (scenario, claim.name, scope), family, truths)
    return tally


def _decide(claim: Claim, differences: Sequence[Floats], labels: Labels, metric: str) -> dict[str, list[Decision]]:
    """Return the decisions on single targets and on their mean.

    Args:
        claim: The claim.
        differences: Paired differences of correctness, one array for each effect of the claim. Shape `(T, S, I)`.
        labels: Shape `(I,)`.
        metric: Headline metric.
    """
    by_effect = [
        [_effect(values, labels, metric, str(target)) for target, values in enumerate(difference)]
        for difference in differences
    ]
    tested = {
        "targets": list(zip(*([effect.estimate() for effect in effects] for effects in by_effect), strict=True)),
        "mean": [tuple(mean.estimate() for effects in by_effect if (mean := mean_effect(effects)) is not None)],
    }
    return {
        scope: judge_family([_decision(claim, estimates) for estimates in members], MARGIN / 100)
        for scope, members in tested.items()
    }


def _effect(values: Floats, labels: Labels, metric: str, name: str) -> Effect:
    part = ImageValues(values=values, labels=labels, metric=metric)
    return Effect(seeds=tuple(range(len(values))), values=part.headlines, images={name: part})


def _decision(claim: Claim, tested: tuple[Estimate, ...]) -> Decision:
    p = max(estimate.p for estimate in tested if estimate.p is not None)
    return Decision(claim=claim, protocol="probe", task=None, boundary=1, effects=_NO_EFFECT, tested=tested, p=p)


def _count(tally: Tally, key: tuple[object, ...], family: Sequence[Decision], truths: Sequence[float]) -> None:
    for decision in family:
        for estimate, truth in zip(decision.tested, truths, strict=True):
            assert estimate.half_width is not None
            tally.add("covered", key[2], hit=abs(estimate.mean - truth / 100) <= estimate.half_width)
        for verdict in ("supported", "equivalent"):
            tally.add(verdict, *key, hit=decision.verdict == verdict)
    true = {"inconclusive"} | ({"equivalent"} if all(abs(truth) < MARGIN for truth in truths) else set())
    tally.add("false", *key, hit=any(decision.verdict not in true for decision in family))


# Source accuracies by stage; `trail` and `constant` have snapshots on both sides, which the saturation null needs.
_SOURCE = {0: 0.10, 1: 0.40, 2: 0.50, 3: 0.55}
_TRAIL = (0.20, 0.28, 0.34, 0.45, 0.62, 0.68)
_SOURCE_IMAGES = 2000


def simulate_evidence(seeds: int, runs: int) -> Tally:
    """Return the shares of families with a false verdict on C1, C3 and C4, from decisions on whole suites.

    The rate has no effect: at a stage, all arms have the same accuracy. Target error is 0.6 · source error + 0.1, so that T
    is constant, and all snapshots are on the saturation null.
    """
    tally, draw = Tally(), np.random.default_rng(seeds)
    targets = ("first", "second")
    suite = load_suite("quick").model_copy(
        update={"seeds": tuple(range(seeds)), "protocols": ("probe",), "targets": targets, "margin": float(MARGIN)}
    )
    rows: list[Row] = list(dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(suite, seed=0)))
    levels = np.array(
        [
            _TRAIL[row[1] - 1] if row[0] == "trail" else 0.65 if row == ("constant", 3) else _SOURCE[row[1]]
            for row in rows
        ]
    )
    for _ in range(runs):
        source = levels[:, None] + draw.normal(0, 0.005, (len(rows), seeds))
        evidence = Evidence(name="simulated", suite=suite, rows=rows, columns=[])
        evidence.source_labels = np.zeros(_SOURCE_IMAGES, dtype=np.int64)
        evidence.source_correct = _predictions(draw, rows, source, _SOURCE_IMAGES)
        for target in targets:
            column = Column(protocol="probe", task=target)
            accuracies = 0.9 - 0.6 * (1 - source) + draw.normal(0, 0.013 / np.sqrt(2), source.shape)
            values = Values(metric="top1", labels=np.zeros(600, dtype=np.int64))
            values.correct = _predictions(draw, rows, accuracies, 600)
            evidence.columns.append(column)
            evidence.values[column] = values
        families: dict[tuple[str, str], bool] = defaultdict(bool)
        for decision in decide(evidence):
            if decision.claim.name != "C2" and decision.boundary is not None:
                scope = "mean" if decision.is_primary else "targets"
                families[decision.claim.name, scope] |= decision.verdict not in ("inconclusive", "equivalent")
        for family, is_false in families.items():
            tally.add("false", *family, hit=is_false)
    return tally


def _predictions(
    draw: np.random.Generator, rows: Sequence[Row], accuracies: Floats, images: int
) -> dict[tuple[Row, int], npt.NDArray[np.float32]]:
    """Return correctness by row and seed for accuracies of shape `(rows, S)`."""

    def normal(variance: float, *shape: int) -> Floats:
        return np.sqrt(variance) * draw.standard_normal((*shape, images))

    count, seeds = accuracies.shape
    latents = normal(DIFFICULTY, 1, 1) + normal(OF_SEED, 1, seeds) + normal(OF_SNAPSHOT, count, 1)
    latents = latents + normal(NOISE, count, seeds)
    correct = (latents < special.ndtri(accuracies)[..., None]).astype(np.float32)
    return {(row, seed): correct[index, seed] for index, row in enumerate(rows) for seed in range(seeds)}


SCOPES = {"targets": "target", "mean": "mean"}


def _row(name: str, tallies: Mapping[int, Tally], *key: object, low: float = 0, high: float = 5) -> dict[str, str]:
    """Return a row of a table: shares by scope and number of seeds, bold outside the bounds."""
    row = {"": name}
    for scope, seeds in product(SCOPES, SEEDS):
        percent = tallies[seeds].percent(*key, scope)
        row[f"{SCOPES[scope]}, {seeds} seeds"] = f"{percent:.1f}" if low <= percent <= high else f"**{percent:.1f}**"
    return row


def _power_rows(results: Mapping[World, Mapping[int, Tally]]) -> list[dict[str, str]]:
    rows = []
    for world, tallies in results.items():
        for seeds, tally in tallies.items():
            row = {"": world.name, "seeds": str(seeds)}
            for effect in EFFECTS:
                shares = [tally.percent("supported", effect, "C3", scope) for scope in SCOPES]
                row[f"{effect} points"] = " / ".join(f"{share:.0f}" for share in shares)
            rows.append(row)
    return rows


def _table(title: str, rows: Sequence[dict[str, str]]) -> str:
    return f"{title}\n\n{tabulate(rows, headers='keys', tablefmt='pipe', disable_numparse=True)}\n"


def tables(runs: int) -> list[str]:
    """Run the whole grid, and return its tables in Markdown."""
    few = max(1, runs // 4)
    worlds = {world: {seeds: simulate(world, seeds, runs) for seeds in SEEDS} for world in WORLDS}
    grid = {world: {seeds: simulate(world, seeds, few, nulls=False) for seeds in SEEDS} for world in GRID}
    correlated = {world: {5: simulate(world, 5, few, nulls=False)} for world in CORRELATED}
    suites = {seeds: simulate_evidence(seeds, max(1, runs // 5)) for seeds in SEEDS}

    nulls = {"C2, equal": (0, "C2"), "C3, equal": (0, "C3"), "C3, noisy `hold`": ("noisy hold", "C3")}
    return [
        _table(
            "Coverage of the 95 % interval, in %; bold outside 93 to 97.",
            [_row(world.name, tallies, "covered", low=93, high=97) for world, tallies in worlds.items()],
        ),
        _table(
            "Families with a false verdict, in %; bold above 5.",
            [
                _row(f"{world.name}: {name}", tallies, "false", *key)
                for world, tallies in worlds.items()
                for name, key in nulls.items()
            ],
        ),
        _table(
            "The same, decided on whole suites with two targets and two boundaries.",
            [_row(name, suites, "false", name) for name in ("C1", "C3", "C4")],
        ),
        _table(
            f'False "no difference beyond {MARGIN} points" at a true {MARGIN} points, in %; bold above 5.',
            [
                _row(f"{world.name}: {name}", tallies, "equivalent", MARGIN, name)
                for world, tallies in worlds.items()
                for name in CONTROLS
            ],
        ),
        _table("C3 supported, in %: single target / mean of targets.", _power_rows(worlds)),
        _table("The same by seed standard deviation of a difference and number of images.", _power_rows(grid)),
        _table("The same by the correlation of seed deviations between targets.", _power_rows(correlated)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="repetitions for error rates; power takes a quarter")
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    start = time.monotonic()
    text = "\n".join(tables(options.runs))
    print(f"{text}\n{options.runs} runs, {(time.monotonic() - start) / 60:.1f} minutes")
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
