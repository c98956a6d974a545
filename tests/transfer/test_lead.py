"""Lead of the first snapshot over the second, against numbers computed by hand, and its wording."""

from pathlib import Path

import pytest

from lrbench.cli.recommend import basis_text, recommendation_text
from lrbench.core.control import Control
from lrbench.stats.resampling import paired_interval
from lrbench.store.cells import TransferSettings
from lrbench.store.references import WeightsFile
from lrbench.store.results import StoredResult, read_result
from lrbench.transfer import recommend as module
from lrbench.transfer.recommend import recommend
from lrbench.transfer.recommendation import Basis, Candidate, Lead, Recommendation
from tests.leaderboard.fake import put


def _reference(name):
    return WeightsFile(text=name, path=Path(f"{name}.safetensors"))


@pytest.fixture
def probed(tiny, place):
    """Return a function that makes a candidate with a validation score and `wrong` of forty test images."""

    def candidate(name, stage, validation, wrong, first=0):
        path = put(
            place.workspace,
            tiny,
            stage=stage,
            wrong=wrong,
            seed=first,
            selection={"candidates": [{"score": 0.1}, {"score": validation}]},
        )
        return Candidate(
            reference=_reference(name),
            logme=-stage / 10,
            probe=StoredResult(result=read_result(path), path=path),
            score=validation,
        )

    return candidate


def test_wilson_interval(probed):
    # z = 1.95996: centre (0.75 + z²/80) / (1 + z²/40) = 0.72809, half z·√(0.1875/40 + z²/6400) / (1 + z²/40) = 0.13004.
    assert probed("a", 1, 0.8, 10).test_interval == pytest.approx((0.59806, 0.85813), abs=1e-5)
    # The interval stays below 1 where a Wald interval would have no width: z² / (40 + z²).
    assert probed("b", 2, 0.8, 0).test_interval == pytest.approx((1 - 3.84146 / 43.84146, 1.0), abs=1e-5)


def test_rank_is_by_validation_and_lead_by_test_images(probed, place, monkeypatch):
    """The first is wrong on images 0 to 9, the second on 8 to 13: the first loses eight images and gains four."""
    candidates = {"first": probed("first", 1, 0.9, 10), "second": probed("second", 2, 0.8, 6, first=8)}

    def compare(candidate, *_):
        prepared = candidates[candidate.reference.text]
        candidate.logme, candidate.probe, candidate.score = prepared.logme, prepared.probe, prepared.score

    monkeypatch.setattr(module, "_compare", compare)
    names = [_reference("second"), _reference("first")]
    recommendation = recommend(names, "tiny-objects", TransferSettings(), place, Control(), probed=2)
    assert [candidate.reference.text for candidate in recommendation.ranked] == ["first", "second"]
    assert recommendation.best is recommendation.ranked[0]
    assert recommendation.lead.images == 40 and recommendation.lead.difference == pytest.approx(-4 / 40)
    # Agresti and Min: of 42 images, -4/42 ± z·√(13 - 16/42)/42, which is -0.09524 ± 0.16577.
    assert recommendation.lead.interval == pytest.approx((-0.26101, 0.07053), abs=1e-5)
    # Twice the chance of four heads or fewer in twelve: 2 · 794 / 4096.
    assert recommendation.lead.p == pytest.approx(2 * 794 / 4096)
    # Swapping the two changes only signs.
    first, second = (
        candidate.probe.predictions.label == candidate.probe.predictions.prediction
        for candidate in recommendation.ranked
    )
    assert paired_interval(second, first) == pytest.approx((4 / 40, -0.07053, 0.26101), abs=1e-5)
    # Equal predictions still have an interval: z / 42.
    assert paired_interval(first, first) == pytest.approx((0.0, -1.95996 / 42, 1.95996 / 42), abs=1e-5)


def test_same_weights_are_not_ranked_twice(probed, place, monkeypatch):
    candidates = {
        "first": probed("first", 1, 0.9, 10),
        "twin": probed("twin", 1, 0.9, 10),
        "second": probed("second", 2, 0.8, 6),
    }

    def compare(candidate, *_):
        prepared = candidates[candidate.reference.text]
        candidate.logme, candidate.probe, candidate.score = prepared.logme, prepared.probe, prepared.score

    monkeypatch.setattr(module, "_compare", compare)

    def compared(*names):
        return recommend(
            [_reference(name) for name in names], "tiny-objects", TransferSettings(), place, Control(), probed=3
        )

    recommendation = compared("first", "twin", "second")
    assert recommendation.second.reference.text == "second" and recommendation.lead.difference == pytest.approx(-4 / 40)
    text = recommendation_text(recommendation, "top-1")
    assert "first (twin is the same weights) has the best cross-validated top-1" in text and "of second." in text
    # A snapshot excluded by LogME is not a second.
    candidates["second"].probe = candidates["second"].score = None
    assert compared("first", "second").lead is None
    alone = compared("first", "twin")
    assert alone.lead is None and len(alone.tied) == 1
    assert recommendation_text(alone, "top-1") == (
        "first (twin is the same weights) is the only snapshot that was probed, so there is no comparison."
    )


VALIDATION = Basis(images=1200, validation=1200)


def words(*ranked, difference=0.0, p=1.0, interval=(-0.2, 0.1)):
    lead = Lead(difference=difference, interval=interval, p=p, images=1234)
    return recommendation_text(Recommendation(basis=VALIDATION, ranked=list(ranked), lead=lead), "mean per class")


def test_significant_lead_recommends_the_first(probed):
    clear = words(
        probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), difference=0.123, p=0.0123, interval=(0.02, 0.226)
    )
    assert clear == (
        "Transfer first. first has the best validation mean per class, 90.0 % against 80.0 % of second. On the 1,234 test "
        "images, first is significantly better than second: first differs by +12.3 points of top-1 (95 % interval +2.0 to "
        "+22.6, McNemar's p 0.012)."
    )


@pytest.mark.parametrize(("difference", "p"), [(0.01, 0.4), (-0.01, 0.05), (0.01, 0.05)])
def test_insignificant_lead_recommends_nothing(probed, difference, p):
    unclear = words(probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), difference=difference, p=p)
    assert unclear.startswith("No clear winner. first has the best") and "Transfer" not in unclear
    assert (
        f"no significant difference between first and second: {100 * difference:+.1f} points of top-1 (95 %" in unclear
    )


def test_better_second_is_named(probed):
    behind = words(
        probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), difference=-0.1, p=0.049, interval=(-0.19, -0.01)
    )
    assert (
        behind.startswith("No clear winner.")
        and "second is significantly better than first: first differs by -10.0" in behind
    )
    assert behind.endswith("Compare again with another --seed or with more images.")


def test_ties_are_named_with_their_order(probed):
    ranked = [probed(name, stage, 0.9, 10) for stage, name in enumerate("abc", start=1)] + [probed("d", 3, 0.8, 6)]
    text = words(*ranked, difference=0.3, p=0.001)
    assert text.startswith(
        "No clear winner. a, b and c tie at a validation mean per class of 90.0 %; a is first because its LogME is the largest."
    )
    alone = Recommendation(basis=VALIDATION, ranked=ranked[:1])
    assert recommendation_text(alone, "top-1").startswith("a is the only snapshot that was probed")


def test_basis_of_the_ranking_is_reported():
    assert basis_text(VALIDATION, "top-1") == (
        "Ranked by the probe's top-1 on 1,200 validation images. Equal scores are ordered by LogME. Test images do not affect "
        "the ranking."
    )
    crossed = basis_text(Basis(images=48, validation=10, folds=5), "mean per class")
    assert (
        "in 5-fold cross-validation on 48 training images, since the validation split has only 10 images (fewer"
        in crossed
    )
