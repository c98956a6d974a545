"""Bootstraps and McNemar's test, compared with closed forms and other libraries."""

import numpy as np
import pytest
from scipy import stats

from lrbench.stats.images import image_variance
from lrbench.stats.resampling import crossed_bootstrap, image_weights, mcnemar, paired_bootstrap, resample_images


def test_mcnemar_matches_statsmodels():
    later = np.array([True] * 12 + [False] * 3 + [True] * 50)
    earlier = np.array([False] * 12 + [True] * 3 + [True] * 50)
    p = mcnemar(np.array([later, earlier]), np.array([earlier, earlier]))
    # Twice the binomial tail P(X ≤ 3), X of 15 at one half: 2 · 576 / 32768.
    assert p[0] == pytest.approx(2 * 576 / 32768) and p[1] == 1.0
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    assert p[0] == pytest.approx(theirs([[50, 12], [3, 0]], exact=True).pvalue)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_resampled_images_have_the_closed_form_variance(metric):
    draw = np.random.default_rng(10)
    labels = np.repeat(np.arange(4), [20, 40, 60, 80])
    values = draw.normal(size=200) + labels
    weights = image_weights(labels, metric, np.random.default_rng(0), replicates=6000)
    assert weights.sum(axis=1) == pytest.approx(np.ones(6000))
    assert np.var(weights @ values) == pytest.approx(image_variance(values, labels, metric), rel=0.07)


def test_bootstraps_match_normal_intervals():
    draw = np.random.default_rng(11)
    labels = np.zeros(300, dtype=np.int64)
    weights = image_weights(labels, "top1", np.random.default_rng(0))
    per_seed = draw.normal(0.1, 0.5, (5, 300))
    low, high = crossed_bootstrap(resample_images(per_seed, weights), np.random.default_rng(1))
    assert low < per_seed.mean() < high
    alone = paired_bootstrap(resample_images(per_seed, weights))
    for run in range(5):
        plain = stats.norm.interval(0.95, per_seed[run].mean(), per_seed[run].std() / np.sqrt(300))
        assert alone[:, run] == pytest.approx(plain, abs=0.012)


def test_crossed_bootstrap_resamples_seeds():
    """Within a seed all images are equal, so the width of the interval comes from the seeds."""
    levels = np.random.default_rng(0).normal(0.1, 0.05, 12)
    weights = image_weights(np.zeros(40, dtype=np.int64), "top1", np.random.default_rng(1))
    low, high = crossed_bootstrap(
        resample_images(np.repeat(levels[:, None], 40, axis=1), weights), np.random.default_rng(2)
    )
    assert high - low == pytest.approx(2 * 1.96 * levels.std() / np.sqrt(12), rel=0.15)
    assert low < levels.mean() < high
