"""Lead of one snapshot over another on the test images of a task: better, equivalent or undecided.

Shapes: S pretraining seeds, I test images.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrbench.config.schedule import SnapshotKey
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.stats.effects import estimate
from lrbench.stats.images import Labels
from lrbench.stats.intervals import Estimate, Floats
from lrbench.stats.power import POWER, power, smallest
from lrbench.store.index import Conditions
from lrbench.store.references import Reference, SuiteSnapshot
from lrbench.store.results import StoredResult, cell_key, load_result, result_path, suite_slug
from lrbench.store.snapshots import identity

Verdict = Literal["better", "equivalent", "undecided"]

# Sizes above these are not worth naming.
_MOST_SEEDS, _MOST_IMAGES = 1_000, 10_000_000


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Comparison of two snapshots on the test images, which are not used for the ranking.

    Differences are of the task's headline metric, in [−1, 1].

    Attributes:
        difference: First minus second, averaged over the pretraining seeds.
        half_width: Half the width of the 95 % interval.
        p: Two-sided p of no difference, of the test that matches the interval.
        metric: Headline metric of the task.
        images: Number of test images.
        seeds: Pretraining seeds that the interval covers; empty if it covers the test images of one pair of networks only.
        margin: Margin of equivalence in points.
        equivalent: Whether the 90 % interval is within ±margin (TOST, Schuirmann 1987).
        seeds_needed: Number of pretraining seeds that would decide; None if it is decided, unknown or not reachable.
        images_needed: Number of test images that would decide; None if it is decided or not reachable.
    """

    difference: float
    half_width: float
    p: float
    metric: str
    images: int
    seeds: tuple[int, ...] = ()
    margin: float
    equivalent: bool
    seeds_needed: int | None = None
    images_needed: int | None = None

    @property
    def verdict(self) -> Verdict:
        """`better` if the 95 % interval excludes zero, which names one of the two; else `equivalent` or `undecided`."""
        if abs(self.difference) > self.half_width:
            return "better"
        return "equivalent" if self.equivalent else "undecided"

    @classmethod
    def of(cls, differences: Floats, labels: Labels, metric: str, *, seeds: tuple[int, ...], margin: float) -> "Lead":
        """Compare two snapshots.

        Args:
            differences: Paired differences of correctness, first minus second. Shape `(S, I)`.
            labels: Shape `(I,)`.
            metric: Headline metric of the task.
            seeds: The S pretraining seeds. With one, the interval covers test images only.
            margin: Margin of equivalence in points.
        """
        effect, images = estimate(differences, labels, metric), len(labels)
        several = len(seeds) > 1
        if not several:
            # Conditional on the two networks, only images vary.
            effect = Estimate(mean=effect.mean, seeds=2, seed_variance=0.0, image_variance=effect.image_variance)
        assert effect.half_width is not None and effect.p is not None
        needed: dict[str, int | None] = {}
        if not _is_decided(effect, margin):
            needed["images_needed"] = smallest(
                lambda count: _would_decide(effect, resized(effect, images=count / images), margin),
                images + 1,
                _MOST_IMAGES,
            )
            if several:
                needed["seeds_needed"] = smallest(
                    lambda count: _would_decide(effect, resized(effect, seeds=count), margin),
                    len(seeds) + 1,
                    _MOST_SEEDS,
                )
        return cls(
            difference=effect.mean,
            half_width=effect.half_width,
            p=effect.p,
            metric=metric,
            images=images,
            seeds=seeds if several else (),
            margin=margin,
            equivalent=effect.is_within(margin / 100),
            **needed,
        )


def resized(effect: Estimate, *, seeds: int | None = None, images: float = 1.0) -> Estimate:
    """Return the estimate that the same difference and variances would give with other numbers of seeds and images.

    From S to S' seeds and I to I' images, with r = I / I', V_S becomes (V_S − V_R + r · V_R) · S / S', V_R becomes
    r · V_R · S / S', and V_B becomes r · V_B; see `lrbench.stats.intervals` for the half-width.

    Args:
        effect: The estimate.
        seeds: S'; by default S.
        images: I' / I.
    """
    assert effect.seed_variance is not None
    count = seeds or effect.seeds
    share = effect.seeds / count
    residual = effect.residual_variance / images
    return replace(
        effect,
        seeds=count,
        seed_variance=(max(0.0, effect.seed_variance - effect.residual_variance) + residual) * share,
        residual_variance=residual * share,
        image_variance=effect.image_variance / images,
    )


def _is_decided(effect: Estimate, margin: float) -> bool:
    return effect.excludes_zero or effect.is_within(margin / 100)


def _would_decide(effect: Estimate, larger: Estimate, margin: float) -> bool:
    """Return whether other sizes would decide.

    The same difference must be decided, and an effect of max(|difference|, margin) must have power 80 %, because another
    sample gives another difference.
    """
    assert larger.seed_variance is not None
    chance = power(
        max(abs(effect.mean), margin / 100),
        seed_variance=larger.seed_variance,
        image_variance=larger.image_variance,
        seeds=larger.seeds,
    )
    return chance >= POWER and _is_decided(larger, margin)


def compare(
    first: tuple[Reference, StoredResult], second: tuple[Reference, StoredResult], workspace: Workspace, margin: float
) -> Lead:
    """Compare two snapshots by their results on one task and protocol.

    If both are snapshots of one suite and pretraining seed, all seeds whose results of the same arms and stages exist are
    included.

    Args:
        first: Reference and result of the first.
        second: Reference and result of the second.
        workspace: Workspace of the results.
        margin: Margin of equivalence in points.
    """
    (one, mine), (other, theirs) = first, second
    pairs = {0: (mine, theirs)}
    if isinstance(one, SuiteSnapshot) and isinstance(other, SuiteSnapshot) and one.key.seed == other.key.seed:
        pairs = {one.key.seed: (mine, theirs)}
        for seed in (seed for seed in one.suite.seeds if seed != one.key.seed):
            result, other_result = _same_cell(one, mine, seed, workspace), _same_cell(other, theirs, seed, workspace)
            if result is not None and other_result is not None:
                pairs[seed] = (result, other_result)
    predictions = mine.predictions
    differences = np.array([_correct(pairs[seed][0]) - _correct(pairs[seed][1]) for seed in sorted(pairs)])
    return Lead.of(differences, predictions.label, mine.result.task.metric, seeds=tuple(sorted(pairs)), margin=margin)


def _correct(stored: StoredResult) -> Floats:
    predictions = stored.predictions
    return np.asarray(predictions.label == predictions.prediction, dtype=np.float64)


def _same_cell(reference: SuiteSnapshot, stored: StoredResult, seed: int, workspace: Workspace) -> StoredResult | None:
    """Return the result of the same cell for another pretraining seed; None if it is missing, damaged or not comparable."""
    result = stored.result
    key = SnapshotKey(arm=reference.key.arm, seed=seed, stage=reference.key.stage)
    name = cell_key(snapshot=suite_slug(key), task=result.task.name, protocol=result.protocol, seed=result.seed)
    path = result_path(workspace.results, reference.suite.name, name)
    if not path.is_file():
        return None
    try:
        other = load_result(path, reference.suite.name)
        file = replace(reference, key=key).path
        is_current = not file.is_file() or identity(file) == other.result.snapshot.sha256
        is_comparable = Conditions.of(other.result) == Conditions.of(result) and other.result.partial == result.partial
        if is_current and is_comparable and np.array_equal(other.predictions.label, stored.predictions.label):
            return other
    except InputError:
        # A damaged result is reported by the command that uses it.
        return None
    return None
