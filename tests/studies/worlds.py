"""Simulated worlds: doses whose snapshots have known accuracies, with noise of units and images."""

from types import SimpleNamespace

import numpy as np
from scipy import stats

from lrbench.studies.claims import decide_study
from lrbench.studies.evidence import Dose
from lrbench.studies.noise import CLAIMS as NOISE
from lrbench.studies.patterns import CLAIMS as PATTERNS

UNITS = 5
IMAGES = 200
ROWS = [("step", 1), ("step", 2), ("hold", 2), ("average", 2)]


def draw_correct(draw, share, difficulty, seed_noise):
    """Draw which images are right: images have a latent difficulty, so pairs of snapshots agree on most of them."""
    shift = stats.norm.ppf(np.clip(share, 1e-9, 1 - 1e-9)) * np.sqrt(2) + draw.normal(0, seed_noise)
    return (shift + difficulty + draw.normal(0, 1, len(difficulty)) > 0).astype(np.float64)


def pattern_dose(draw, level, *, templates=4, rare=False, units=UNITS, images=IMAGES, **others):
    """Return a dose in which a snapshot's accuracy is `level(row, kind)`.

    Other arguments: `expected` units, `seed_noise` of a snapshot, accuracy on training images (`fitted`).
    """
    expected, seed_noise, fitted = others.get("expected"), others.get("seed_noise", 0.05), others.get("fitted")
    sets = np.arange(3 * images) % 3
    correct = {row: np.empty((units, len(sets))) for row in ROWS}
    for unit in range(units):
        difficulty = draw.normal(0, 1, len(sets))
        for row in ROWS:
            for index, kind in enumerate(("simple", "complex", "both")):
                chosen = sets == index
                correct[row][unit, chosen] = draw_correct(draw, level(row, kind), difficulty[chosen], seed_noise)
    report = {} if fitted is None else {"train_complex": {row: np.full(units, fitted) for row in ROWS}}
    return Dose(
        suite=f"k{templates}{'-rare' * rare}",
        templates=templates,
        bits=float(np.log2(templates)),
        rare=rare,
        units=tuple(range(units)),
        expected=expected or units,
        correct=correct,
        sets=sets,
        report=report,
    )


def noise_dose(draw, curves, *, wrong=0.2, units=UNITS, images=IMAGES, seed_noise=0.05, lag=0.0, extra=None):
    """Return a dose with trails: `curves` gives M as a function of F for `constant` and `small`.

    `lag` is subtracted from F of `constant`. `extra` gives (M, F) of further snapshots.
    """
    fits = np.linspace(0.3, 0.95, 8)
    points = {}
    for arm, rows in (
        ("constant", [*(("trail", stage) for stage in range(1, 7)), ("step", 1), ("hold", 2)]),
        ("small", [*(("small-trail", stage) for stage in range(1, 7)), ("small", 1), ("small", 2)]),
    ):
        for row, fit in zip(rows, fits, strict=True):
            fit = fit - (lag if arm == "constant" else 0.0)
            points[row] = (curves[arm](fit), fit)
    points |= {("step", 2): points["hold", 2], ("average", 2): points["hold", 2], ("raise", 3): points["hold", 2]}
    points |= extra or {}
    memorised = {row: [] for row in points}
    fitted = {row: [] for row in points}
    for _ in range(units):
        hard, easy = draw.normal(0, 1, images), draw.normal(0, 1, images)
        for row, (m, f) in points.items():
            memorised[row].append(draw_correct(draw, m, hard, seed_noise))
            fitted[row].append(draw_correct(draw, f, easy, seed_noise))
    return Dose(
        suite=f"wrong{round(100 * wrong)}",
        templates=4,
        bits=2.0,
        wrong=wrong,
        units=tuple(range(units)),
        expected=units,
        correct={row: np.full((units, 3), 0.9) for row in points},
        sets=np.arange(3),
        memorised=memorised,
        fitted=fitted,
    )


def decide(doses, claims, names=None):
    """Return the outcomes of claims on doses; P0 counts as not tested unless it is named."""
    chosen = [claim for claim in claims if names is None or claim.name in names]
    return decide_study(SimpleNamespace(doses=list(doses)), chosen)


def patterns(doses, names=("P1", "P2", "P3", "P4", "P5")):
    """Return the outcomes of claims on patterns."""
    return decide(doses, PATTERNS, names)


def noise(doses, names=None):
    """Return the outcomes of claims on noise."""
    return decide(doses, NOISE, names)
