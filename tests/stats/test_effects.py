"""Means of effects over targets and boundaries, compared with the mean contribution of each image."""

import numpy as np
import pytest

from lrbench.stats.effects import Effect, mean_effect
from lrbench.stats.images import ImageValues
from tests.stats.definitions import components, crossed, headlines

LABELS = {"a": np.arange(60) % 3, "b": np.repeat([0, 1], [10, 70]), "source": np.zeros(90, dtype=np.int64)}
METRICS = {"a": "top1", "b": "mean_per_class", "source": "top1"}


def effect_of(values, seeds=None):
    """Return the sum of the headline metrics of values by the name of their images."""
    seeds = tuple(range(len(next(iter(values.values()))))) if seeds is None else seeds
    images = {
        name: ImageValues(values=array, labels=LABELS[name], metric=METRICS[name]) for name, array in values.items()
    }
    return Effect(seeds=seeds, values=sum(part.headlines for part in images.values()), images=images)


def draws(name, seed, seeds=4):
    return crossed(np.random.default_rng(seed), seeds, len(LABELS[name]), of_image=0.3)


def assert_components(effect, averaged):
    """Assert that an effect has the components of given averaged contributions, by image set."""
    value = effect.estimate()
    total = sum(headlines(array, LABELS[name], METRICS[name]) for name, array in averaged.items())
    parts = [components(array, LABELS[name], METRICS[name])[1:] for name, array in averaged.items()]
    assert value.mean == pytest.approx(total.mean())
    assert value.seed_variance == pytest.approx(total.var(ddof=1) / len(total))
    assert value.residual_variance == pytest.approx(sum(residual for residual, _ in parts))
    assert value.image_variance == pytest.approx(sum(max(0, images - residual) for residual, images in parts))


def test_mean_over_targets_halves_their_contributions():
    first, second = draws("a", 0), draws("b", 1)
    mean = mean_effect([effect_of({"a": first}), effect_of({"b": second})])
    assert_components(mean, {"a": first / 2, "b": second / 2})


def test_mean_over_boundaries_counts_shared_images_once():
    first, second = draws("a", 0), draws("a", 1)
    assert_components(mean_effect([effect_of({"a": first}), effect_of({"a": second})]), {"a": (first + second) / 2})
    # The same effect twice is as uncertain as once.
    twice, once = mean_effect([effect_of({"a": first})] * 2).estimate(), effect_of({"a": first}).estimate()
    assert twice.half_width == pytest.approx(once.half_width)
    # A rise at one boundary and the same fall at the next leave nothing but the smallest variance.
    opposite = mean_effect([effect_of({"a": first}), effect_of({"a": -first})]).estimate()
    share = 0.5 / 61
    assert opposite.mean == pytest.approx(0) and opposite.image_variance == pytest.approx(share * (1 - share) / 60)


def test_source_images_of_two_targets_count_once():
    first, second, source = draws("a", 0), draws("b", 1), draws("source", 2)
    mean = mean_effect([effect_of({"a": first, "source": source}), effect_of({"b": second, "source": 2 * source})])
    assert_components(mean, {"a": first / 2, "b": second / 2, "source": 1.5 * source})


def test_mean_of_means_is_the_mean_of_all():
    """Targets first and boundaries second, as claims are pooled."""
    values = {(name, boundary): draws(name, 10 * boundary) for name in ("a", "b") for boundary in (1, 2)}
    by_boundary = [
        mean_effect([effect_of({name: values[name, boundary]}) for name in ("a", "b")]) for boundary in (1, 2)
    ]
    assert_components(mean_effect(by_boundary), {name: (values[name, 1] + values[name, 2]) / 4 for name in ("a", "b")})


def test_mean_is_over_common_seeds():
    first, second = draws("a", 0), draws("b", 1)
    mean = mean_effect([effect_of({"a": first}, (0, 1, 2, 5)), effect_of({"b": second}, (5, 2, 0, 3))])
    assert mean.seeds == (0, 2, 5)
    assert_components(mean, {"a": first[[0, 2, 3]] / 2, "b": second[[2, 1, 0]] / 2})
    assert mean_effect([effect_of({"a": first}, (0, 1, 2, 3)), effect_of({"b": second}, (4, 5, 6, 7))]) is None


def test_replicates_are_averaged_within_their_samples():
    """Two targets whose values follow the same samples of source images do not average this noise away."""
    draw = np.random.default_rng(3)
    sample, noise = draw.normal(0, 0.02, 400), draw.normal(0, 0.01, (2, 5, 400))
    effects = [Effect(seeds=tuple(range(5)), values=np.zeros(5), replicates=sample + part) for part in noise]
    single, mean = effects[0].estimate(), mean_effect(effects).estimate()
    assert single.residual_variance == pytest.approx(0.01**2 / 5, rel=0.1)
    assert mean.residual_variance == pytest.approx(0.01**2 / 10, rel=0.1)
    assert single.image_variance == pytest.approx(0.02**2, rel=0.15)
    assert mean.image_variance == pytest.approx(single.image_variance, rel=0.1)
