"""Power and the sizes that an effect needs, compared with integrals and simulations."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from lrbench.stats.effects import estimate
from lrbench.stats.power import Components, detectable, images_needed, power, seeds_needed
from tests.stats.definitions import crossed

SMALL = Components(seed=0.02**2, residual=0.4**2, image=0.2**2)


def share_significant(draw, effect, components, seeds, images, runs=1500):
    """Return the share of simulated means that differ significantly from zero."""
    labels = np.zeros(images, dtype=np.int64)
    deviations = {
        "of_seed": components.seed**0.5, "of_image": components.image**0.5, "noise": components.residual**0.5,
    }  # fmt: skip
    values = (crossed(draw, seeds, images, mean=effect, **deviations) for _ in range(runs))
    return np.mean([estimate(value, labels, "top1").excludes_zero for value in values])


@pytest.mark.parametrize(("seeds", "effect"), [(3, 0.08), (5, 0.04), (5, 0.06), (10, 0.03)])
def test_power_matches_simulated_seeds_and_images(seeds, effect):
    expected = power(effect, **SMALL.variances(seeds, 200), seeds=seeds)
    assert 0.3 < expected < 0.95
    simulated = share_significant(np.random.default_rng(seeds), effect, SMALL, seeds, 200)
    assert simulated == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 20])
def test_detectable_effect_has_power_for_any_family(seeds):
    """Power by an integral over the spread of the seeds; more targets never make smaller effects detectable."""
    before = 0.0
    for tests in (1, 2, 4, 5, 12, 20, 100):
        errors = detectable(seed_variance=1.0, image_variance=0.0, seeds=seeds, tests=tests)
        bound = stats.t.isf(0.025 / tests, seeds - 1)

        def missed(spread, errors=errors, bound=bound):
            limit = bound * spread / np.sqrt(seeds - 1)
            return (stats.norm.cdf(limit - errors) - stats.norm.cdf(-limit - errors)) * stats.chi.pdf(spread, seeds - 1)

        middle = errors * np.sqrt(seeds - 1) / bound
        detected = 1 - quad(missed, 0, 40, points=[middle], limit=400)[0]
        assert detected == pytest.approx(0.8, abs=0.002) and errors > before
        before = errors


def test_detectable_effect_of_known_variance():
    """Without variance between seeds, it is that of a normal test: (z of 97.5 % + z of 80 %) errors."""
    sizes = {"seed_variance": 0.0, "image_variance": 0.01**2, "seeds": 3}
    assert detectable(**sizes) == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-4)
    assert power(0.02, **sizes) == pytest.approx(stats.norm.sf(1.959964 - 2) + stats.norm.sf(1.959964 + 2), abs=1e-6)
    # Every effect of no variance is certain.
    nothing = {"seed_variance": 0.0, "image_variance": 0.0, "seeds": 3}
    assert detectable(**nothing) == 0 and power(0.001, **nothing) == 1 and power(0.0, **nothing) == 0


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("tests", [1, 6])
def test_power_without_an_effect_is_the_level(seeds, tests):
    assert power(0.0, seed_variance=1.0, image_variance=0.0, seeds=seeds, tests=tests) == pytest.approx(
        0.05 / tests, rel=0.02
    )
    # Both quantiles at once are conservative.
    assert power(0.0, seed_variance=1.0, image_variance=1.0, seeds=seeds, tests=tests) <= 0.05 / tests * 1.02


@pytest.mark.parametrize("tests", [1, 6])
def test_seeds_needed_are_the_fewest_with_power(tests):
    seeds = seeds_needed(0.03, SMALL, 600, tests=tests)
    powers = [power(0.03, **SMALL.variances(count, 600), seeds=count, tests=tests) for count in (seeds - 1, seeds)]
    assert powers[0] < 0.8 <= powers[1]
    if tests == 1:
        assert share_significant(np.random.default_rng(0), 0.03, SMALL, seeds, 600, runs=800) > 0.76
    # Images that all seeds share limit what more seeds can show.
    assert seeds_needed(0.005, SMALL, 600) is None
    assert seeds_needed(0.5, SMALL, 600) <= 3


def test_images_needed_are_the_fewest_with_power():
    images = images_needed(0.06, SMALL, 5)
    powers = [power(0.06, **SMALL.variances(5, count), seeds=5) for count in (images - 1, images)]
    assert powers[0] < 0.8 <= powers[1]
    assert share_significant(np.random.default_rng(0), 0.06, SMALL, 5, images) == pytest.approx(0.8, abs=0.04)
    # Seeds limit what more images can show.
    assert images_needed(0.01, SMALL, 3) is None and images_needed(1.0, SMALL, 10) <= 20


def test_variances_of_components_match_the_estimate():
    draw, labels = np.random.default_rng(2), np.zeros(100, dtype=np.int64)
    deviations = {"of_seed": 0.02, "of_image": 0.2, "noise": 0.4}
    values = [estimate(crossed(draw, 6, 100, **deviations), labels, "top1") for _ in range(1500)]
    expected = SMALL.variances(6, 100)
    assert np.mean([value.seed_variance for value in values]) == pytest.approx(expected["seed_variance"], rel=0.05)
    assert np.mean([value.image_variance for value in values]) == pytest.approx(expected["image_variance"], rel=0.1)
