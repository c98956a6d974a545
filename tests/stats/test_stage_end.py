"""The rule that ends a stage, on simulated losses."""

import numpy as np
import pytest
from scipy import stats

from lrbench.stats.stage_end import decide, first_end


def noisy(losses, share, seed):
    return list(losses * (1 + share * np.random.default_rng(seed).normal(size=len(losses))))


def test_bound_is_that_of_a_regression():
    losses = noisy(1 + np.exp(-np.arange(24) / 5), 0.01, 1)
    decision = decide(losses, 90)
    window = np.array(losses[-8:])
    design = np.column_stack([np.ones(8), np.arange(8)])
    fit, residual, *_ = np.linalg.lstsq(design, window, rcond=None)
    error = np.sqrt(residual[0] / 6 / ((np.arange(8) - 3.5) ** 2).sum())
    assert (decision.epochs, decision.slope) == (24, pytest.approx(fit[1])) and decision.error == pytest.approx(error)
    assert decision.decrease == pytest.approx(9 * (-fit[1] + stats.t.ppf(0.95, 6) * error) / window.mean())


def test_stage_ends_where_the_loss_has_levelled():
    # Without noise: the first epoch whose window has a slope of at most 2 % of its mean over nine epochs.
    levelling = 1 + np.exp(-np.arange(60) / 5)
    expected = next(
        count
        for count in range(5, 61)
        for window in [levelling[:count][-max(5, -(-count // 3)) :]]
        for fit in [stats.linregress(range(len(window)), window)]
        if 9 * (-fit.slope + stats.t.ppf(0.95, len(window) - 2) * fit.stderr) <= 0.02 * window.mean()
    )
    assert first_end(list(levelling), 90).epochs == expected
    ends = [first_end(noisy(levelling, 0.003, seed), 90) for seed in range(50)]
    assert all(end is not None and end.epochs >= 20 for end in ends)
    # What the next tenth of the schedule would have gained is below 2 % of the loss.
    gains = [1 - (1 + np.exp(-(end.epochs + 8) / 5)) / (1 + np.exp(-(end.epochs - 1) / 5)) for end in ends]
    assert max(gains) < 0.02


@pytest.mark.parametrize("losses", [2 * 0.97 ** np.arange(90), 3 * np.arange(1, 91) ** -0.7])
@pytest.mark.parametrize("share", [0.0, 0.01])
def test_stage_never_ends_while_the_loss_falls(losses, share):
    assert all(first_end(noisy(losses, share, seed), 90) is None for seed in range(30))


def test_no_decision_before_five_epochs():
    assert decide([1.0] * 4, 50) is None and first_end([1.0] * 4, 50) is None
    assert first_end([1.0] * 9, 50).epochs == 5
