"""Numbers of committed study pages agree with their recomputation from predictions, which shares no code with lrbench."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scipy import stats

LEADERBOARD = Path(__file__).resolve().parents[2] / "leaderboard"
UNITS = (1, 2, 3, 4, 5)


def predicted(suite, row, unit, protocol="source"):
    """Whether each image is predicted as labelled; wrong labels first, then right ones, for `source-hits`."""
    (path,) = (LEADERBOARD / "results" / suite).glob(f"{row[0]}-seed{unit}-stage{row[1]}.*.{protocol}.seed0.parquet")
    table = parquet.read_table(path)
    return np.asarray(table["label"]) == np.asarray(table["prediction"])


def blocks(suite, row, unit):
    """Whether wrongly labelled training images, and rightly labelled ones, are predicted as labelled."""
    correct = predicted(suite, row, unit, "source-hits")
    (record,) = (LEADERBOARD / "results" / suite).glob(f"{row[0]}-seed{unit}-stage{row[1]}.*.source-hits.seed0.json")
    wrong = json.loads(record.read_text())["diagnostics"]["hits"]["wrong"]
    return correct[:wrong], correct[wrong : 2 * wrong]


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


def paired(suite, kinds, row, other, units=UNITS):
    """Paired difference by unit, summed over kinds with signs, and its variance over images."""
    values, variances = [], []
    for unit in units:
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


@pytest.fixture(scope="module")
def again():
    return (LEADERBOARD / "studies" / "patterns-16.md").read_text()


@pytest.fixture(scope="module")
def noise():
    return (LEADERBOARD / "studies" / "noise.md").read_text()


def test_gains_at_the_drop_agree(patterns):
    step, hold, average = ("step", 2), ("hold", 2), ("average", 2)
    contrasts, averages = column(patterns, "P2"), column(patterns, "P4")
    for suite, case in (("patterns-k4", "K = 4 (2 bits)"), ("patterns-k16", "K = 16 (4 bits)")):
        # Test images show simple, complex and both in turn.
        assert contrasts[case] == paired(suite, ((1, 1), (0, -1)), step, hold)
        assert averages[case] == paired(suite, ((1, 1),), step, average)
    rare = column(patterns, "P5")["K = 16 (4 bits), equally rare"]
    assert rare == paired("patterns-k16-rare", ((1, 1), (0, -1)), step, hold)


def test_gains_of_the_second_study_agree(again):
    step, hold, average = ("step", 2), ("hold", 2), ("average", 2)
    units, case = (11, 12, 13, 14, 15), "K = 16 (4 bits)"
    assert column(again, "P2")[case] == paired("patterns-16-share", ((1, 1), (0, -1)), step, hold, units)
    assert column(again, "P4")[case] == paired("patterns-16-share", ((1, 1),), step, average, units)
    rare = column(again, "P5")[f"{case}, equally rare"]
    assert rare == paired("patterns-16-rare", ((1, 1), (0, -1)), step, hold, units)


def test_order_and_null_agree(patterns):
    leads = {}
    for bits, templates in ((0, 1), (2, 4), (4, 16)):
        stage1 = [predicted(f"patterns-k{templates}", ("step", 1), unit).astype(float) for unit in UNITS]
        leads[bits] = [unit[0::3].mean() - unit[1::3].mean() for unit in stage1]
    slopes = [np.polyfit(list(leads), [lead[unit] for lead in leads.values()], 1)[0] for unit in range(len(UNITS))]
    assert column(patterns, "P1")["slope over bits"] == shown(slopes, [0])
    null = column(patterns, "P0")["step, stage 1"].split(" ± ")[0].replace("−", "-")
    assert float(null) == pytest.approx(-100 * np.mean(leads[0]), abs=0.05)


def test_wrong_labels_memorised_agree(noise):
    for wrong in (10, 20, 40):
        suite, case = f"noise-wrong{wrong}", f"{wrong} % wrong labels"
        for claim, row, other, name in (
            ("N1", ("step", 1), ("small", 1), case),
            ("N3", ("step", 2), ("hold", 2), f"{case}, 1 → 2"),
            ("N4", ("average", 2), ("step", 2), case),
            ("N5", ("raise", 3), ("step", 2), case),
        ):
            pairs = [blocks(suite, row, unit)[0].astype(float) - blocks(suite, other, unit)[0] for unit in UNITS]
            expected = shown([pair.mean() for pair in pairs], [variance(pair) for pair in pairs])
            assert column(noise, claim)[name] == expected, (claim, wrong)


def test_differences_at_equal_fit_agree(noise):
    folder = LEADERBOARD / "results"
    for wrong in (10, 20, 40):
        suite = f"noise-wrong{wrong}"
        names = {path.name.split(".")[0] for path in (folder / suite).glob("*-seed1-*.source-hits.*")}
        rows = [(name.split("-seed1-stage")[0], int(name.split("-stage")[1])) for name in sorted(names)]
        large = [
            row for row in rows if row[1] and (row[0] in ("trail", "constant") or row in (("step", 1), ("hold", 2)))
        ]
        small = [row for row in rows if row[1] and row[0] in ("small-trail", "small")]
        values = []
        for unit in UNITS:
            curves = []
            for arm in (large, small):
                points = {}
                for row in arm:
                    memorised, fitted = (block.mean() for block in blocks(suite, row, unit))
                    points.setdefault(fitted, []).append(memorised)
                # Points of equal fit are averaged.
                curves.append(np.array([(fitted, np.mean(points[fitted])) for fitted in sorted(points)]).T)
            low, high = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
            grid = np.linspace(low, high, 20_001)
            values.append(np.mean(np.interp(grid, *curves[0]) - np.interp(grid, *curves[1])))
        text = column(noise, "N2")[f"{wrong} % wrong labels"]
        assert re.fullmatch(r"[−+]?\d+\.\d ± \d+\.\d", text)
        assert float(text.split(" ± ")[0].replace("−", "-")) == pytest.approx(100 * np.mean(values), abs=0.06)
