"""What `lrbench recommend` says of the first and the second: numbers worked out by hand, and the words."""

import pytest

from lrbench import recommend as module
from lrbench.cells import TransferSettings
from lrbench.cli.recommend import _words
from lrbench.control import Control
from lrbench.leaderboard.resampling import paired_interval
from lrbench.recommend import Candidate, Lead, Recommendation, recommend
from lrbench.references import Reference
from lrbench.results import StoredResult, read_result
from tests.leaderboard.fake import put


@pytest.fixture
def probed(tiny, place):
    """Make a candidate whose probe has a score on validation, and which of forty test images it gets wrong."""

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
            reference=Reference(text=name), logme=-stage / 10, probe=StoredResult(result=read_result(path), path=path)
        )

    return candidate


def test_wilsons_interval_of_thirty_right_of_forty(probed):
    # z = 1.95996: centre (0.75 + z²/80) / (1 + z²/40) = 0.72809, half z·√(0.1875/40 + z²/6400) / (1 + z²/40) = 0.13004.
    assert probed("a", 1, 0.8, 10).test_interval == pytest.approx((0.59806, 0.85813), abs=1e-5)
    # It stays within what can be, where a plain interval would have no width: z² / (40 + z²).
    assert probed("b", 2, 0.8, 0).test_interval == pytest.approx((1 - 3.84146 / 43.84146, 1.0), abs=1e-5)


def test_the_first_is_by_validation_and_its_lead_by_the_test_images(probed, place, monkeypatch):
    """The first is wrong on images 0 to 9, the second on 8 to 13: it loses eight images and gains four."""
    made = {"first": probed("first", 1, 0.9, 10), "second": probed("second", 2, 0.8, 6, first=8)}

    def compare(candidate, *_):
        found = made[candidate.reference.text]
        candidate.logme, candidate.probe = found.logme, found.probe

    monkeypatch.setattr(module, "_compare", compare)
    names = [Reference(text="second"), Reference(text="first")]
    found = recommend(names, "tiny-objects", TransferSettings(), place, Control(), probed=2)
    assert [each.reference.text for each in found.ranked] == ["first", "second"] and found.best is found.ranked[0]
    assert found.lead.images == 40 and found.lead.difference == pytest.approx(-4 / 40)
    # Agresti and Min: of 42 images, -4/42 ± z·√(13 - 16/42)/42, which is -0.09524 ± 0.16577.
    assert found.lead.interval == pytest.approx((-0.26101, 0.07053), abs=1e-5)
    # Twice the chance of four heads or fewer in twelve: 2 · 794 / 4096.
    assert found.lead.p == pytest.approx(2 * 794 / 4096)
    # The other way round everything changes sign and nothing else.
    first, second = (each.probe.predictions.label == each.probe.predictions.prediction for each in found.ranked)
    assert paired_interval(second, first) == pytest.approx((4 / 40, -0.07053, 0.26101), abs=1e-5)
    # Where both are right on the same images there is a width none the less: z / 42.
    assert paired_interval(first, first) == pytest.approx((0.0, -1.95996 / 42, 1.95996 / 42), abs=1e-5)


def test_the_same_weights_under_another_name_are_no_second(probed, place, monkeypatch):
    made = {
        "first": probed("first", 1, 0.9, 10),
        "twin": probed("twin", 1, 0.9, 10),
        "second": probed("second", 2, 0.8, 6),
    }

    def compare(candidate, *_):
        found = made[candidate.reference.text]
        candidate.logme, candidate.probe = found.logme, found.probe

    monkeypatch.setattr(module, "_compare", compare)

    def compared(*names):
        return recommend(
            [Reference(text=name) for name in names], "tiny-objects", TransferSettings(), place, Control(), probed=3
        )

    found = compared("first", "twin", "second")
    assert found.second.reference.text == "second" and found.lead.difference == pytest.approx(-4 / 40)
    said = _words(found, "top-1")
    assert (
        said.startswith("Transfer first (twin is the same weights): the probe's") and "against that of second" in said
    )
    # One that LogME ruled out is no second either.
    made["second"].probe = None
    assert compared("first", "second").lead is None
    alone = compared("first", "twin")
    assert alone.lead is None
    assert _words(alone, "top-1") == "Transfer first (twin is the same weights): nothing else was probed."


def words(first, second, difference, p, low=-0.2, high=0.1):
    lead = Lead(difference=difference, interval=(low, high), p=p, images=1234)
    return _words(Recommendation(ranked=[first, second], lead=lead), "mean per class")


def test_the_words_follow_the_numbers(probed):
    first, second = probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6)
    clear = words(first, second, 0.123, 0.0123, low=0.02, high=0.226)
    assert clear == (
        "Transfer first: the probe's mean per class is best on validation. On the 1,234 test images its top-1 is +12.3 points "
        "against that of second (95 % interval +2.0 to +22.6, McNemar's p 0.012), more than chance."
    )
    unclear = words(first, second, 0.01, 0.4)
    assert unclear.endswith("p 0.4), which may be chance: these images do not tell the two apart.")
    assert "is +1.0 points" in unclear and "a tie" not in unclear
    assert "may be chance" in words(first, second, -0.01, 0.05)


def test_where_the_second_is_ahead_for_certain_the_words_say_that_something_misled(probed):
    behind = words(probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), -0.1, 0.049, low=-0.19, high=-0.01)
    assert "is -10.0 points against that of second (95 % interval -19.0 to -1.0, McNemar's p 0.049)" in behind
    assert behind.endswith("more than chance, so the validation images misled, or the seed did: look at both.")


def test_a_tie_on_validation_and_a_single_snapshot_are_said(probed):
    first, second = probed("first", 1, 0.9, 10), probed("second", 2, 0.9, 6)
    assert "is best on validation, as is the second: a tie. On the" in words(first, second, 0.01, 0.4)
    alone = _words(Recommendation(ranked=[first]), "top-1")
    assert alone == "Transfer first: nothing else was probed."
