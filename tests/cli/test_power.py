"""`lrbench power`: what an effect needs, from results and from stated variances."""

import json

import numpy as np
import pytest

from lrbench.leaderboard.evidence import MEAN_OF_TARGETS
from lrbench.leaderboard.power import measured_plans, plan_table, stated_plans
from lrbench.stats.power import Components, power
from tests.leaderboard.fake import fill
from tests.leaderboard.helpers import world


def test_components_reproduce_the_variances_of_the_results(tiny):
    evidence = world(tiny, 4, np.random.default_rng(0), levels=lambda row: 0.6, tasks=("a", "b"), seed_noise=0.03)
    plans = measured_plans(evidence)
    # One protocol and two boundaries: two tests of means, four of single targets.
    assert {(plan.target, plan.tests) for plan in plans} == {(MEAN_OF_TARGETS, 2), ("a", 4), ("b", 4)}
    for plan in plans:
        if plan.target == MEAN_OF_TARGETS:
            control = plan.difference.removeprefix("step − ")
            stage = int(plan.boundary[-1])
            estimate = evidence.mean_difference(("step", stage), (control, stage), "probe")
            variances = plan.components.variances(4, 1.0)
            assert variances["seed_variance"] == pytest.approx(max(estimate.seed_variance, estimate.residual_variance))
            assert variances["image_variance"] == pytest.approx(estimate.image_variance)


def test_needed_seeds_and_images_have_the_power(tiny):
    evidence = world(tiny, 4, np.random.default_rng(1), levels=lambda row: 0.6, tasks=("a", "b"), seed_noise=0.01)
    for plan in measured_plans(evidence):
        seeds = plan.seeds_needed(0.02)
        assert plan.power(0.02, seeds) >= 0.8 > plan.power(0.02, seeds - 1)
        assert plan.power(plan.detectable) == pytest.approx(0.8, abs=1e-3)
        images = plan.images_needed(0.1)
        if images is not None:
            parts = plan.components
            more = Components(
                seed=parts.seed,
                residual=parts.residual * plan.images / images,
                image=parts.image * plan.images / images,
            )
            sizes = more.variances(plan.seeds, 1.0)
            assert power(0.1, **sizes, seeds=plan.seeds, tests=plan.tests) == pytest.approx(0.8, abs=0.02)


def test_stated_variances_need_no_result(tiny):
    suite = tiny.model_copy(update={"seeds": tuple(range(5)), "targets": tuple("abcde")})
    mean, one = stated_plans(suite, protocols=1, seed_sd=0.013, images=600, disagreement=0.1)
    assert mean.power(0.03) > 0.9 > one.power(0.03)
    assert [row["target"] for row in plan_table([mean, one], 0.02)] == [MEAN_OF_TARGETS, "one target"]


def test_correlated_targets_lower_the_power_of_their_mean(tiny):
    suite = tiny.model_copy(update={"seeds": tuple(range(5))})
    stated = {"protocols": 1, "seed_sd": 0.013, "images": 600, "disagreement": 0.0, "targets": 4}
    means, singles = zip(*(stated_plans(suite, **stated, correlation=r) for r in (0.0, 0.5, 1.0)), strict=True)
    # The variance of a mean of four values is σ² (1 + 3 r) / 4.
    assert [mean.components.seed for mean in means] == pytest.approx([0.013**2 * (1 + 3 * r) / 4 for r in (0, 0.5, 1)])
    assert means[0].power(0.02) > means[1].power(0.02) > means[2].power(0.02)
    assert {(one.components, one.tests) for one in singles} == {(singles[0].components, 4 * means[0].tests)}


def test_command_prints_a_table_and_a_curve(lrbench, place, tiny, tmp_path):
    fill(
        place.workspace,
        tiny.model_copy(update={"seeds": (0, 1, 2)}),
        lambda row, seed, task: 10 + seed * (row[0] == "step") * row[1],
    )
    done = lrbench("power", "tiny", "--effect", "3", "--out", str(tmp_path / "curve.csv"))
    assert done.status == 0 and "mean of targets" in done.out and "Power in percent to detect 3 points" in done.out
    assert (tmp_path / "curve.csv").read_text().startswith("seeds,probe 1 → 2")
    report = json.loads(lrbench("power", "tiny", "--json").out)
    assert report["effect"] == 2 and {"power", "seeds_needed", "images_needed"} <= report["plans"][0].keys()


def test_stated_options_are_refused_without_the_deviation(lrbench):
    done = lrbench("power", "quick", "--images", "100")
    assert done.status != 0 and "--images: only used with --seed-sd" in done.err


def test_suite_without_results_advises_stated_variances(lrbench):
    done = lrbench("power", "standard")
    assert done.status != 0 and "--seed-sd" in done.err
    assert lrbench("power", "standard", "--seed-sd", "1.3").status == 0
