"""Effects: a value for each pretraining seed, with what each test image contributes to it.

Effects can be averaged over targets and boundaries before the interval is computed: images that two effects share, such as
those of the source, then contribute once.

Shapes: S pretraining seeds, I test images of a set, B replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lrbench.stats.images import ImageValues, Labels
from lrbench.stats.intervals import Estimate, Floats, variance_of_mean


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A value for each seed.

    Attributes:
        seeds: The pretraining seeds.
        values: Shape `(S,)`.
        images: Contributions of the images by the name of their set.
        replicates: Values recomputed on resampled images, the same samples for all seeds, where contributions of single images
            are not defined. Shape `(S, B)`; None without.
        floor: Smallest variance over images of `replicates`.
    """

    seeds: tuple[int, ...]
    values: Floats
    images: Mapping[str, ImageValues] = field(default_factory=dict)
    replicates: Floats | None = None
    floor: float = 0.0

    def estimate(self) -> Estimate:
        """Return the mean over seeds with the components of its variance."""
        parts = [part.variances() for part in self.images.values()]
        if self.replicates is not None:
            parts.append(_replicate_variances(self.replicates, self.floor))
        return Estimate(
            mean=float(self.values.mean()),
            seeds=len(self.values),
            seed_variance=variance_of_mean(self.values),
            residual_variance=sum(residual for residual, _ in parts),
            image_variance=sum(shared for _, shared in parts),
        )

    def over(self, seeds: Sequence[int]) -> "Effect":
        """Return the effect over some of its seeds."""
        if tuple(seeds) == self.seeds:
            return self
        rows = [self.seeds.index(seed) for seed in seeds]
        return Effect(
            seeds=tuple(seeds),
            values=self.values[rows],
            images={
                name: ImageValues(values=part.values[rows], labels=part.labels, metric=part.metric, unit=part.unit)
                for name, part in self.images.items()
            },
            replicates=None if self.replicates is None else self.replicates[rows],
            floor=self.floor,
        )


def estimate(values: Floats, labels: Labels, metric: str) -> Estimate:
    """Return the mean over seeds of a headline metric, with its interval.

    Args:
        values: Values per image, such as paired differences of correctness. Shape `(S, I)`.
        labels: Shape `(I,)`.
        metric: `top1` or `mean_per_class`.
    """
    part = ImageValues(values=values, labels=labels, metric=metric)
    return Effect(seeds=tuple(range(len(values))), values=part.headlines, images={"images": part}).estimate()


def mean_effect(effects: Sequence[Effect]) -> Effect | None:
    """Return the mean of effects over the seeds that all of them have; None if there is no such seed.

    Contributions of image sets with the same name are averaged, so these effects must be of the same images. All effects have
    replicates, of the same samples, or none has.
    """
    first = effects[0]
    seeds = [seed for seed in first.seeds if all(seed in effect.seeds for effect in effects)]
    if not seeds:
        return None
    count = len(effects)
    shared = [effect.over(seeds) for effect in effects]
    images: dict[str, ImageValues] = {}
    for effect in shared:
        for name, part in effect.images.items():
            before = images.get(name)
            images[name] = ImageValues(
                values=part.values / count + (0 if before is None else before.values),
                labels=part.labels,
                metric=part.metric,
                # Contributions of one image in several effects add up at most.
                unit=part.unit / count + (0 if before is None else before.unit),
            )
    replicates = [effect.replicates for effect in shared if effect.replicates is not None]
    return Effect(
        seeds=tuple(seeds),
        values=np.mean([effect.values for effect in shared], axis=0),
        images=images,
        replicates=np.mean(replicates, axis=0) if replicates else None,
        floor=float(np.mean([effect.floor for effect in shared])) / count,
    )


def _replicate_variances(replicates: Floats, floor: float) -> tuple[float, float]:
    """Return V_R and V_B from values on resampled images: the interaction of seed and sample, and the rest."""
    seeds, count = replicates.shape
    mean = replicates.mean(axis=0)
    total = max(float(np.var(mean, ddof=1)), floor)
    if seeds < 2:
        return 0.0, total
    residuals = replicates - mean - replicates.mean(axis=1, keepdims=True) + mean.mean()
    interaction = float((residuals**2).sum()) / ((seeds - 1) * (count - 1)) / seeds
    return interaction, max(0.0, total - interaction)
