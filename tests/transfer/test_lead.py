"""Lead of the first snapshot over the second, against numbers computed by hand, and its wording."""

from pathlib import Path

import numpy as np
import pytest

from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.stats.effects import estimate
from lrbench.stats.intervals import Estimate
from lrbench.stats.power import power
from lrbench.store.cells import TransferSettings
from lrbench.store.references import SuiteSnapshot, WeightsFile
from lrbench.store.results import StoredResult, read_result
from lrbench.store.snapshots import snapshot_path
from lrbench.transfer import recommend as module
from lrbench.transfer.lead import Lead, compare, resized
from lrbench.transfer.recommend import recommend
from lrbench.transfer.recommendation import Basis, Candidate, Recommendation
from lrbench.transfer.recommendation_text import basis_text, lead_text, recommendation_text
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
            result=StoredResult(result=read_result(path), path=path),
            score=validation,
        )

    return candidate


def test_wilson_interval(probed):
    # z = 1.95996: centre (0.75 + z²/80) / (1 + z²/40) = 0.72809, half z·√(0.1875/40 + z²/6400) / (1 + z²/40) = 0.13004.
    assert probed("a", 1, 0.8, 10).test_interval == pytest.approx((0.59806, 0.85813), abs=1e-5)
    # The interval stays below 1 where a Wald interval would have no width: z² / (40 + z²).
    assert probed("b", 2, 0.8, 0).test_interval == pytest.approx((1 - 3.84146 / 43.84146, 1.0), abs=1e-5)


def test_validation_score_is_that_of_the_chosen_point(tiny, place):
    """Other points of fine-tuning's grid diverged, or were stopped early at a higher score."""
    points = [{"rate": 0.1, "score": None}, {"rate": 0.01, "score": 0.7}, {"rate": 0.001, "score": 0.9}]
    path = put(place.workspace, tiny, chosen={"rate": 0.01}, selection={"candidates": points})
    stored = StoredResult(result=read_result(path), path=path)
    assert Candidate(reference=_reference("a"), result=stored).validation == 0.7


def test_rank_is_by_validation_and_lead_by_test_images(probed, place, monkeypatch):
    """The first is wrong on images 0 to 9, the second on 8 to 13: the first loses eight images and gains four."""
    candidates = {"first": probed("first", 1, 0.9, 10), "second": probed("second", 2, 0.8, 6, first=8)}

    def compare(candidate, *_):
        prepared = candidates[candidate.reference.text]
        candidate.logme, candidate.result, candidate.score = prepared.logme, prepared.result, prepared.score

    monkeypatch.setattr(module, "_compare", compare)
    names = [_reference("second"), _reference("first")]
    recommendation = recommend(names, "tiny-objects", TransferSettings(), place, Control(), top=2)
    assert [candidate.reference.text for candidate in recommendation.ranked] == ["first", "second"]
    assert recommendation.best is recommendation.ranked[0]
    assert recommendation.lead.images == 40 and recommendation.lead.difference == pytest.approx(-4 / 40)
    # The squares of 40 differences sum to 12: z · √((12 − 40 · 0.1²) / 39 / 40).
    assert recommendation.lead.half_width == pytest.approx(1.95996 * (11.6 / 39 / 40) ** 0.5, abs=1e-5)
    assert recommendation.lead.verdict == "undecided" and recommendation.lead.seeds == ()
    # A difference of 0.1 has power 80 % at z₀.₉₇₅ + z₀.₈ = 2.8016 standard errors.
    needed = 11.6 / 39 * (2.8016 / 0.1) ** 2
    assert (
        recommendation.lead.images_needed == pytest.approx(needed, abs=1) and recommendation.lead.seeds_needed is None
    )


def test_same_weights_are_not_ranked_twice(probed, place, monkeypatch):
    candidates = {
        "first": probed("first", 1, 0.9, 10),
        "twin": probed("twin", 1, 0.9, 10),
        "second": probed("second", 2, 0.8, 6),
    }

    def compare(candidate, *_):
        prepared = candidates[candidate.reference.text]
        candidate.logme, candidate.result, candidate.score = prepared.logme, prepared.result, prepared.score

    monkeypatch.setattr(module, "_compare", compare)

    def compared(*names):
        return recommend(
            [_reference(name) for name in names], "tiny-objects", TransferSettings(), place, Control(), top=3
        )

    recommendation = compared("first", "twin", "second")
    assert recommendation.second.reference.text == "second" and recommendation.lead.difference == pytest.approx(-4 / 40)
    text = recommendation_text(recommendation, "top-1")
    assert "first (twin is the same weights) has the best cross-validated top-1" in text and "of second." in text
    # A snapshot excluded by LogME is not a second.
    candidates["second"].result = candidates["second"].score = None
    assert compared("first", "second").lead is None
    alone = compared("first", "twin")
    assert alone.lead is None and len(alone.tied) == 1
    assert recommendation_text(alone, "top-1") == (
        "first (twin is the same weights) is the only snapshot that was probed, so there is no comparison."
    )


VALIDATION = Basis(images=1200, validation=1200)


def words(*ranked, **changes):
    fields = {
        "difference": 0.0,
        "half_width": 0.01,
        "p": 1.0,
        "metric": "mean_per_class",
        "images": 1234,
        "margin": 2.0,
    }
    lead = Lead(**{**fields, "equivalent": False, **changes})
    return recommendation_text(Recommendation(basis=VALIDATION, ranked=list(ranked), lead=lead), "mean per class")


IMAGES_ONLY = "The 95 % interval covers the 1,234 test images only, not pretraining again."


def test_better_first_is_recommended(probed):
    clear = words(probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), difference=0.123, half_width=0.1)
    assert clear == (
        "Transfer first. first has the best validation mean per class, 90.0 % against 80.0 % of second.\n\n"
        f"first is better than second by 12.3 ± 10.0 points of mean per class. {IMAGES_ONLY}"
    )


def test_better_second_is_named(probed):
    behind = words(probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), difference=-0.1, half_width=0.09)
    assert behind.startswith("No clear winner.")
    assert "second is better than first by 10.0 ± 9.0 points" in behind
    assert behind.endswith("Compare again with another --seed or with more images.")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"difference": 0.003, "equivalent": True, "margin": 1.0},
            "No difference beyond 1 point: first differs from second by +0.3 ± 1.0 points of mean per class.",
        ),
        (
            {"difference": -0.012, "half_width": 0.029, "images_needed": 3000},
            "Undecided: first differs from second by -1.2 ± 2.9 points of mean per class; 3,000 test images would decide.",
        ),
        (
            {"half_width": 0.05},
            "Undecided: first differs from second by +0.0 ± 5.0 points of mean per class; no number of seeds or test "
            "images alone would decide.",
        ),
    ],
)
def test_insignificant_lead_recommends_nothing(probed, changes, text):
    unclear = words(probed("first", 1, 0.9, 10), probed("second", 2, 0.8, 6), **changes)
    assert unclear.startswith("No clear winner. first has the best") and unclear.endswith(f"\n\n{text} {IMAGES_ONLY}")


def test_small_but_significant_lead_names_the_margin(probed):
    text = words(probed("a", 1, 0.9, 10), probed("b", 2, 0.8, 6), difference=0.005, half_width=0.003, equivalent=True)
    assert "a is better than b by 0.5 ± 0.3 points of mean per class, no difference beyond 2 points." in text


def test_lead_over_seeds_names_arms_and_sizes(tiny, home):
    first, second = (
        SuiteSnapshot(suite=tiny, key=SnapshotKey(arm="step", seed=0, stage=stage), checkpoints=home / "checkpoints")
        for stage in (1, 3)
    )
    lead = Lead(
        difference=0.012, half_width=0.029, p=0.3, metric="top1", images=600, seeds=(0, 1, 2), margin=2.0,
        equivalent=False, seeds_needed=7, images_needed=3000,
    )  # fmt: skip
    assert lead_text(lead, first, second, "top-1") == (
        "Undecided: tiny/step/stage1 differs from tiny/step/stage3 by +1.2 ± 2.9 points of top-1; 7 seeds or 3,000 test "
        "images would decide. The 95 % interval covers 3 pretraining seeds and 600 test images."
    )


def compared(workspace, suite, *, seeds=(0, 0), margin=2.0):
    """Compare stages 1 and 3 of `step`, of these pretraining seeds."""
    pair = []
    for stage, seed in zip((1, 3), seeds, strict=True):
        key = SnapshotKey(arm="step", seed=seed, stage=stage)
        reference = SuiteSnapshot(suite=suite, key=key, checkpoints=workspace.checkpoints)
        path = workspace.results / "tiny" / f"step-seed{seed}-stage{stage}.tiny-objects.probe.seed0.json"
        pair.append((reference, StoredResult(result=read_result(path), path=path)))
    return compare(pair[0], pair[1], workspace, margin)


def test_lead_covers_all_seeds_with_comparable_results(tiny, place):
    suite = tiny.model_copy(update={"seeds": (0, 1, 2, 3, 4, 5)})
    for seed in range(4):
        put(place.workspace, suite, stage=1, seed=seed, wrong=8)
        put(place.workspace, suite, stage=3, seed=seed, wrong=14 + seed)
    # Of seed 4 there is one result, and those of seed 5 have other settings.
    put(place.workspace, suite, stage=1, seed=4)
    for stage in (1, 3):
        put(place.workspace, suite, stage=stage, seed=5, settings={"validation": 0.5})
    lead = compared(place.workspace, suite)
    assert lead.seeds == (0, 1, 2, 3) and lead.difference == pytest.approx(7.5 / 40)
    assert lead.verdict == "better" and lead.seeds_needed is None and lead.images_needed is None
    # Results of other weights than the snapshot's are not of the same run.
    weights = snapshot_path(place.workspace.checkpoints, "tiny", SnapshotKey(arm="step", seed=3, stage=1))
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"other")
    assert compared(place.workspace, suite).seeds == (0, 1, 2)
    # Snapshots of different pretraining seeds are one pair.
    alone = compared(place.workspace, suite, seeds=(0, 1))
    assert alone.seeds == () and alone.difference == pytest.approx(7 / 40)


def test_sizes_that_would_decide_do_decide():
    generator = np.random.default_rng(0)
    labels, metric, seeds = np.zeros(400, dtype=np.int64), "top1", (0, 1, 2)
    shared = generator.normal(0, 0.1, 400)
    values = 0.03 + shared + generator.normal(0, 0.3, (3, 400)) + generator.normal(0, 0.005, (3, 1))
    lead = Lead.of(values, labels, metric, seeds=seeds, margin=2.0)
    effect = estimate(values, labels, metric)
    assert lead.verdict == "undecided" and lead.seeds_needed > 3 and lead.images_needed > 400
    larger = [resized(effect, seeds=lead.seeds_needed), resized(effect, images=lead.images_needed / 400)]
    smaller = [resized(effect, seeds=lead.seeds_needed - 1), resized(effect, images=(lead.images_needed - 1) / 400)]
    for estimates, enough in ((larger, True), (smaller, False)):
        for part in estimates:
            chance = power(
                max(effect.mean, 0.02),
                seed_variance=part.seed_variance,
                image_variance=part.image_variance,
                seeds=part.seeds,
            )
            assert (chance >= 0.8 and (part.excludes_zero or part.is_within(0.02))) == enough


def test_more_seeds_and_images_shrink_their_components():
    effect = Estimate(mean=0.01, seeds=3, seed_variance=4e-4, residual_variance=1e-4, image_variance=2e-4)
    seeds, images = resized(effect, seeds=6), resized(effect, images=2)
    assert (seeds.seed_variance, seeds.image_variance) == pytest.approx((2e-4, 2e-4))
    assert (images.seed_variance, images.image_variance) == pytest.approx((3.5e-4, 1e-4))


def test_sizes_that_cannot_decide_are_not_named():
    generator = np.random.default_rng(0)
    # No number of seeds removes the noise of images that all seeds share.
    values = 0.02 + generator.normal(0, 1.0, 400) + generator.normal(0, 0.02, (3, 1))
    lead = Lead.of(values, np.zeros(400, dtype=np.int64), "top1", seeds=(0, 1, 2), margin=2.0)
    assert lead.verdict == "undecided" and lead.seeds_needed is None


def test_equivalence_needs_the_90_percent_interval_within_the_margin():
    labels = np.zeros(400, dtype=np.int64)
    values = np.zeros((1, 400))
    values[0, :4], values[0, 4:8] = 1, -1
    # z · √(8 / 399 / 400) is 1.16 points at 90 % and 1.39 at 95 %.
    verdicts = [Lead.of(values, labels, "top1", seeds=(0,), margin=margin).verdict for margin in (1.1, 1.2)]
    assert verdicts == ["undecided", "equivalent"]


def test_ties_are_named_with_their_order(probed):
    ranked = [probed(name, stage, 0.9, 10) for stage, name in enumerate("abc", start=1)] + [probed("d", 3, 0.8, 6)]
    text = words(*ranked, difference=0.3)
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
