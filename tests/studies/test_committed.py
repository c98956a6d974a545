"""Numbers of committed study pages agree with their recomputation from predictions, which shares no code with lrbench."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scipy import stats

LEADERBOARD = Path(__file__).resolve().parents[2] / "leaderboard"
UNITS = (1, 2, 3, 4, 5)


def predicted(suite, row, unit):
    """Whether each test image is predicted as labelled."""
    (path,) = (LEADERBOARD / "results" / suite).glob(f"{row[0]}-seed{unit}-stage{row[1]}.*.source.seed0.parquet")
    table = parquet.read_table(path)
    return np.asarray(table["label"]) == np.asarray(table["prediction"])


def shown(values, variances):
    """A mean over units with its interval, in points, as the page prints it."""
    count = len(values)
    t, z = stats.t.ppf(0.975, count - 1), stats.norm.ppf(0.975)
    width = np.sqrt(max(t**2 * np.var(values, ddof=1) / count, z**2 * np.mean(variances) / count))
    mean = f"{100 * np.mean(values):+.1f}"
    return f"{mean.lstrip('+-') if float(mean) == 0 else mean.replace('-', '−')} ± {100 * width:.1f}"


def variance(differences):
    """Variance of a mean over images, at least that of half an image."""
    share = 0.5 / (len(differences) + 1)
    return max(np.var(differences, ddof=1) / len(differences), share * (1 - share) / len(differences))


def paired(suite, kinds, row, other):
    """Paired difference by unit, summed over kinds with signs, and its variance over images."""
    values, variances = [], []
    for unit in UNITS:
        difference = predicted(suite, row, unit).astype(float) - predicted(suite, other, unit)
        parts = [sign * difference[kind::3] for kind, sign in kinds]
        values.append(sum(part.mean() for part in parts))
        variances.append(sum(variance(part) for part in parts))
    return shown(values, variances)


def column(page, claim, name="effect"):
    """A column of a claim's table by case."""
    lines = [line for line in page.split(f"\n## {claim} ")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[header.index(name)] for row in rows}


@pytest.fixture(scope="module")
def patterns():
    return (LEADERBOARD / "studies" / "patterns.md").read_text()


def test_gains_at_the_drop_agree(patterns):
    step, hold, average = ("step", 2), ("hold", 2), ("average", 2)
    contrasts, averages = column(patterns, "P2"), column(patterns, "P4")
    for suite, case in (("patterns-k4", "K = 4 (2 bits)"), ("patterns-k16", "K = 16 (4 bits)")):
        # Test images show simple, complex and both in turn.
        assert contrasts[case] == paired(suite, ((1, 1), (0, -1)), step, hold)
        assert averages[case] == paired(suite, ((1, 1),), step, average)
    rare = column(patterns, "P5")["K = 16 (4 bits), equally rare"]
    assert rare == paired("patterns-k16-rare", ((1, 1), (0, -1)), step, hold)


def test_order_and_null_agree(patterns):
    leads = {}
    for bits, templates in ((0, 1), (2, 4), (4, 16)):
        stage1 = [predicted(f"patterns-k{templates}", ("step", 1), unit).astype(float) for unit in UNITS]
        leads[bits] = [unit[0::3].mean() - unit[1::3].mean() for unit in stage1]
    slopes = [np.polyfit(list(leads), [lead[unit] for lead in leads.values()], 1)[0] for unit in range(len(UNITS))]
    assert column(patterns, "P1")["slope over bits"] == shown(slopes, [0])
    null = column(patterns, "P0")["step, stage 1"].split(" ± ")[0].replace("−", "-")
    assert float(null) == pytest.approx(-100 * np.mean(leads[0]), abs=0.05)
