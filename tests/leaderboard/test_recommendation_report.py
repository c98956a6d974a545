"""The report on a recommendation, and its figures."""

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.leaderboard.cost_figures import comparison_data, comparison_figures, pareto_front
from lrbench.leaderboard.labels import place_labels
from lrbench.leaderboard.recommendation_report import write_report
from lrbench.models.network_cost import NetworkCost
from lrbench.store.references import WeightsFile
from lrbench.store.results import StoredResult, read_result
from lrbench.transfer.lead import Lead
from lrbench.transfer.recommendation import Basis, Candidate, Recommendation
from lrbench.transfer.recommendation_text import answer_text
from tests.leaderboard.fake import put

HOSTILE = "<script>alert(1)</script>|*`x`*\x1b[2J.safetensors"


@pytest.fixture
def outcome(tiny, place):
    """Six snapshots with scores and costs, one with a hostile name, and one that failed."""
    ranked = []
    for number in range(6):
        path = put(
            place.workspace,
            tiny,
            stage=number,
            wrong=4 + number,
            selection={"on": "validation split", "candidates": [{"score": 0.9 - number / 20}]},
        )
        stored = StoredResult(result=read_result(path), path=path)
        name = HOSTILE if number == 0 else f"weights/net{number}.safetensors"
        ranked.append(
            Candidate(
                reference=WeightsFile(text=name, path=Path(f"net{number}")),
                logme=-number / 10,
                result=stored,
                score=0.9 - number / 20,
                records=[stored.result],
                cost=NetworkCost(parameters=10_000 * (10 - number), multiply_adds=None if number == 2 else 10**6),
                speed=100.0 + number,
            )
        )
    ranked.append(
        Candidate(reference=WeightsFile(text="bad", path=Path("bad")), failure=InputError(f"it is {HOSTILE}."))
    )
    lead = Lead(
        difference=0.1, half_width=0.05, p=0.01, metric="top1", images=40, margin=2.0, equivalent=False, seeds=()
    )
    return Recommendation(basis=Basis(images=300, validation=300), ranked=ranked, lead=lead)


def test_report_has_answer_table_figures_and_grounds(outcome, home):
    written = write_report(home / "report", outcome, load_task("tiny-objects"), pdf=True)
    assert all(path.is_file() for path in written)
    assert {path.suffix for path in written} == {".md", ".html", ".csv", ".svg", ".png", ".pdf"}
    page, text = ((home / "report" / name).read_text() for name in ("report.html", "report.md"))
    # One file without a network: the only sources are inside it.
    assert re.findall(r'(?:src|href)="([^"]{0,16})', page) == [
        "data:,", "data:image/svg+x", "data:image/svg+x",
    ]  # fmt: skip
    for content in (page, text):
        assert "Transfer " in content and "weights/net5.safetensors" in content.replace("\\", "")
        assert "first of 6 snapshots that were probed, and better than" in content
        assert "(+10.0 ± 5.0 points of top-1 on the test images)" in content
        assert "What this rests on" in content and "last stage" in content and "Snapshots that failed" in content
        assert "lrbench 0" in content and "fingerprint of names and labels aaaa" in content


def test_values_of_users_are_escaped(outcome, home):
    write_report(home / "report", outcome, load_task("tiny-objects"))
    page, text = ((home / "report" / name).read_text() for name in ("report.html", "report.md"))
    assert "<script>alert" not in page + text and "\x1b" not in page + text
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\*" in text
    drawn = (home / "report" / "figures" / "recommendation-cost.svg").read_text()
    assert "<script>" not in drawn and "\x1b" not in drawn


def test_answer_counts_only_what_was_compared(outcome):
    # LogME excluded two, and the first has another name.
    for candidate in outcome.ranked[4:6]:
        candidate.result = candidate.score = None
    outcome.ranked.insert(1, replace(outcome.ranked[0], reference=WeightsFile(text="copy", path=Path("copy"))))
    assert "it is first of 4 snapshots that were probed" in answer_text(outcome, "top-1")
    outcome.basis = Basis(protocol="logme", images=300, validation=300)
    assert "is first of 6 by LogME" in answer_text(outcome, "top-1")


def test_front_has_the_points_that_none_dominates():
    draw = np.random.default_rng(0)
    cost, score = draw.integers(0, 6, 40).astype(float), draw.integers(0, 6, 40).astype(float)
    expected = [
        not any(
            cost[other] <= cost[one]
            and score[other] >= score[one]
            and (cost[other], score[other]) != (cost[one], score[one])
            for other in range(40)
        )
        for one in range(40)
    ]
    assert pareto_front(cost, score).tolist() == expected and 0 < sum(expected) < 40
    assert pareto_front(np.array([np.nan, 1.0]), np.array([2.0, 1.0])).tolist() == [False, True]


def test_costs_that_do_not_differ_are_not_drawn(outcome):
    assert [figure.name for figure in comparison_figures(outcome, "top-1")] == ["scores", "cost"]
    for candidate in outcome.ranked:
        candidate.cost = NetworkCost(parameters=5, multiply_adds=7)
    assert [figure.name for figure in comparison_figures(outcome, "top-1")] == ["scores"]
    # The same weights under another name are one point.
    outcome.ranked.insert(1, replace(outcome.ranked[0]))
    assert list(comparison_data(outcome)["rank"]) == [1, 3, 4, 5, 6, 7]


def test_labels_do_not_overlap():
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text

    draw = np.random.default_rng(1)
    canvas = Figure(figsize=(5, 4), layout="constrained")
    panel = canvas.subplots()
    points = [tuple(point) for point in draw.normal(size=(25, 2))]
    panel.plot(*zip(*points, strict=True), "o")
    texts = [(f"network-{number}",) for number in range(25)]
    left_out = place_labels(panel, points, texts)
    canvas.draw_without_rendering()
    labels = [child for child in panel.get_children() if isinstance(child, Annotation)]
    boxes = [Text.get_window_extent(label) for label in labels]
    assert len(labels) == 25 - len(left_out) and len(labels) >= 15 and "network-0" not in left_out
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_number_is_placed_where_a_name_has_no_room():
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    canvas = Figure(figsize=(3, 2), layout="constrained")
    panel = canvas.subplots()
    panel.plot(*zip(*(points := [(0.0, 0.0), (1.0, 1.0)]), strict=True), "o")
    assert place_labels(panel, points, [(f"1 {'long' * 40}", "1"), (f"2 {'long' * 40}",)]) == [f"2 {'long' * 40}"]
    assert [label.get_text() for label in panel.get_children() if isinstance(label, Annotation)] == ["1"]
