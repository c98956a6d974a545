"""Every number of a suite's main page agrees with its recomputation, which shares no statistics with lrbench."""

import re
from pathlib import Path

import pytest

from lrbench.leaderboard.claims import decide
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.leaderboard.suite_page import render_suite
from tests.recompute.page import compare
from tests.recompute.results import Results

COMMITTED = Path(__file__).resolve().parents[2] / "leaderboard" / "results"


def main_page(results, name):
    suite = read_suite(results, name)
    evidence = gather(results, suite)[0]
    return render_suite(suite, evidence, decide(evidence), (), partial=False)


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(COMMITTED.glob("*/suite.json"))])
def test_committed_results_agree_with_recomputation(name):
    results, page = Results(COMMITTED / name), main_page(COMMITTED, name)
    count, wrong = compare(results, page)
    assert wrong == [] and count > 500
    # The comparison sees a change of the last digit of one interval.
    changed = re.sub(r"(\d\.)(\d) +\|", lambda match: f"{match[1]}{(int(match[2]) + 1) % 10} |", page, count=1)
    assert len(compare(results, changed)[1]) == 1
