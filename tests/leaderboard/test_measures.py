"""Sections and figures of measures beside accuracy."""

import numpy as np
import pytest
from scipy import stats

from lrbench.leaderboard.evidence import Column
from lrbench.leaderboard.gathering import gather
from lrbench.leaderboard.measure_figures import measure_figures
from lrbench.leaderboard.measure_sections import measure_sections
from lrbench.leaderboard.measures import collect_measures, correlate, matched_difference
from tests.leaderboard.fake import fill, put
from tests.leaderboard.helpers import OBJECTS, suite_page, table_after


def sections(workspace, suite):
    return "\n\n".join(measure_sections(evidence_of(workspace, suite), "##"))


def evidence_of(workspace, suite):
    return gather(workspace.results, suite)[0]


def headings(text):
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


@pytest.fixture
def one_target(tiny):
    return tiny.model_copy(update={"targets": tiny.targets[:1], "protocols": ("probe",)})


def test_sections_appear_with_their_data(workspace, one_target):
    suite = one_target.model_copy(update={"arms": ("step", "hold")})
    fill(workspace, suite)
    assert sections(workspace, suite) == "" and measure_figures(evidence_of(workspace, suite)) == []
    put(workspace, suite, stage=2, protocol="representation", diagnostics={"features": {"nc1": 2.0}})
    assert headings(sections(workspace, suite)) == [
        "Neural collapse: variability within classes (NC1)",
        "What goes along with worse transfer",
    ]
    put(workspace, suite, stage=2, protocol="representation", diagnostics={"similarity": {"hold": {"cka": 0.5}}})
    assert headings(sections(workspace, suite)) == ["Similarity of snapshots (linear CKA)"]
    put(workspace, suite, stage=2, protocol="fewshot", chosen={"shots": 5}, wrong=20)
    assert "Few-shot curve" in sections(workspace, suite)
    # One number of images is no curve.
    assert measure_figures(evidence_of(workspace, suite)) == []


def test_features_are_shown_on_source_and_targets(workspace, tiny):
    for seed in (0, 1):
        for target in tiny.targets:
            diagnostics = {"features": {"nc2": 0.5 + seed}, "source_features": {"nc2": 0.25}}
            put(workspace, tiny, protocol="representation", seed=seed, target=target, diagnostics=diagnostics)
        # Features of a tuned network and of two snapshots do not describe the snapshot.
        for protocol in ("finetune", "concat"):
            put(workspace, tiny, protocol=protocol, seed=seed, diagnostics={"features": {"nc2": 9.0}})
    put(workspace, tiny, stage=2, protocol="knn", diagnostics={"features": {"nc2": 0.75}})
    rows = table_after(suite_page(workspace), "## Neural collapse: angles between classes (NC2)")
    half_width = stats.t.ppf(0.975, 1) * 0.5
    shown = f"1.00 ± {half_width:.2f}"
    assert rows == [
        ["snapshot", "source", "tiny-objects", "tiny-indoor"],
        ["step/stage1", "0.25 ± 0.00", shown, shown],
        ["step/stage2", "—", "0.75 (1 of 2 seeds)", "—"],
    ]


def test_similarity_names_both_snapshots(workspace, tiny):
    diagnostics = {"similarity": {"previous": {"cka": 0.9}, "hold": {"cka": 0.8}, "average": {"cka": 0.7}}}
    put(workspace, tiny, stage=2, protocol="representation", diagnostics=diagnostics)
    rows = table_after(sections(workspace, tiny), "## Similarity of snapshots")
    assert [row[:2] for row in rows[1:]] == [
        ["step/stage2 and step/stage1", "0.900 (1 of 2 seeds)"],
        ["step/stage2 and hold/stage2", "0.800 (1 of 2 seeds)"],
        ["step/stage2 and average/stage2", "0.700 (1 of 2 seeds)"],
    ]


def put_run(workspace, suite, seed, step_source):
    """A run without decay of source accuracies 0.2, 0.4 and 0.6, and stage 2 of `step`."""
    put(workspace, suite, stage=1, seed=seed, wrong=20, source=0.2)
    put(workspace, suite, arm="hold", stage=2, seed=seed, wrong=16, source=0.4)
    put(workspace, suite, arm="constant", stage=3, seed=seed, wrong=8, source=0.6)
    put(workspace, suite, stage=2, seed=seed, wrong=14, source=step_source)


def test_matched_difference_interpolates_within_a_seed(workspace, one_target):
    put_run(workspace, one_target, 0, 0.45)
    put_run(workspace, one_target, 1, 0.4)
    evidence = evidence_of(workspace, one_target)
    effect = matched_difference(evidence, ("step", 2), OBJECTS)
    # A quarter of the way from 16 to 8 wrong of 40, and exactly at 16.
    assert effect.seeds == (0, 1) and effect.values == pytest.approx([(14 - 14) / -40, (16 - 14) / 40])
    images = effect.images["tiny-objects"].values
    first, second, own = (
        evidence.values[OBJECTS].correct[row, 0] for row in (("hold", 2), ("constant", 3), ("step", 2))
    )
    assert images[0] == pytest.approx(own - (0.75 * first + 0.25 * second))
    assert effect.estimate().mean == pytest.approx(0.025)


def test_matched_difference_is_not_extrapolated(workspace, one_target):
    put_run(workspace, one_target, 0, 0.7)
    evidence = evidence_of(workspace, one_target)
    assert matched_difference(evidence, ("step", 2), OBJECTS) is None and sections(workspace, one_target) == ""
    put_run(workspace, one_target, 1, 0.5)
    rows = table_after(sections(workspace, one_target), "## probe: at the same source accuracy")
    # Half of the way from 16 to 8 is 12 wrong of 40.
    assert rows[1:] == [["step/stage2", "60.0", "−5.0 (1 of 2 seeds)"]]
    without = one_target.model_copy(update={"arms": ("step", "hold")})
    assert matched_difference(evidence_of(workspace, without), ("step", 2), OBJECTS) is None


def put_pairs(workspace, suite, seeds):
    draw = np.random.default_rng(0)
    changes, gains = [], []
    for seed in range(seeds):
        wrong = draw.integers(5, 30, (2, len(suite.targets)))
        separation = draw.random((2, len(suite.targets)))
        for arm, errors, measured in zip(("step", "hold"), wrong, separation, strict=True):
            for target, count, value in zip(suite.targets, errors, measured, strict=True):
                diagnostics = {"features": {"class_separation": float(value)}}
                put(
                    workspace,
                    suite,
                    arm=arm,
                    stage=2,
                    seed=seed,
                    target=target,
                    wrong=int(count),
                    diagnostics=diagnostics,
                )
        changes.append((separation[0] - separation[1]).mean())
        gains.append((wrong[1] - wrong[0]).mean() / 40)
    return changes, gains


def test_correlation_is_over_seeds_and_mean_targets(workspace, tiny):
    suite = tiny.model_copy(update={"seeds": tuple(range(6)), "protocols": ("probe",)})
    changes, gains = put_pairs(workspace, suite, 6)
    evidence = evidence_of(workspace, suite)
    found = correlate(evidence, collect_measures(evidence), "class_separation", "probe", ("step", 2), ("hold", 2))
    r = np.corrcoef(changes, gains)[0, 1]
    ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * stats.norm.ppf(0.975) / np.sqrt(3))
    assert [found.value, found.low, found.high] == pytest.approx([r, *ends]) and found.seeds == 6
    rows = table_after(sections(workspace, suite), "## What goes along with worse transfer")
    sign = "−" if r < 0 else "+"
    assert rows[1][:2] == ["step/stage2 − hold/stage2", "class separation"] and len(rows) == 2
    assert rows[1][2].startswith(f"{sign}{abs(r):.2f} [")


def test_few_seeds_have_no_correlations(workspace, tiny):
    suite = tiny.model_copy(update={"seeds": (0, 1, 2, 3), "protocols": ("probe",)})
    put_pairs(workspace, suite, 4)
    text = sections(workspace, suite)
    assert "need at least 5 pretraining seeds; the suite has 4." in text
    evidence = evidence_of(workspace, suite)
    column = Column(protocol="probe", task="tiny-objects")
    assert evidence.difference(("step", 2), ("hold", 2), column) is not None
    assert (
        correlate(evidence, collect_measures(evidence), "class_separation", "probe", ("step", 2), ("hold", 2)) is None
    )


def put_curves(workspace, suite):
    for seed in (0, 1):
        for arm, stage in (("step", 1), ("step", 2), ("hold", 2), ("average", 2)):
            shots = {"1": {"top1": 0.25 + 0.125 * seed}, "10": {"top1": 0.5}}
            put(
                workspace, suite, arm=arm, stage=stage, seed=seed, protocol="fewshot", wrong=20, chosen={"shots": 5},
                diagnostics={"shots": shots},
            )  # fmt: skip
            candidates = [{"depth": depth, "score": 0.1 * depth + 0.05 * seed} for depth in (3, 2, 1)]
            put(
                workspace, suite, arm=arm, stage=stage, seed=seed, protocol="depth", chosen={"depth": 3, "strength": 1.0},
                selection={"metric": "top1", "edge": False, "candidates": candidates},
            )  # fmt: skip


def test_curves_over_shots_and_depth(workspace, tiny):
    put_curves(workspace, tiny)
    few, depth = measure_figures(evidence_of(workspace, tiny))
    assert few.name == "few-shot" and list(dict.fromkeys(few.data.arm)) == ["step", "hold"]
    of_step = few.data[(few.data.arm == "step") & (few.data.stage == 2)]
    assert list(of_step.images) == [1, 5, 10] and list(of_step["mean"]) == [31.25, 50.0, 50.0]
    assert depth.name == "depth" and list(dict.fromkeys(depth.data.arm)) == ["step", "hold", "average"]
    assert list(depth.data["mean"][:3]) == pytest.approx([12.5, 22.5, 32.5]) and list(depth.data.depth[:3]) == [1, 2, 3]
    rows = table_after(sections(workspace, tiny), "## Few-shot curve")
    assert rows[0] == ["snapshot", "1 image", "5 images", "10 images"]
    assert [row[0] for row in rows[1:]] == ["step/stage1", "step/stage2", "hold/stage2", "average/stage2"]
    assert rows[1][2].startswith("50.0")


def test_figures_of_measures_are_drawn(workspace, tiny, drawn):
    put_curves(workspace, tiny)
    text = suite_page(workspace)
    for name in ("few-shot", "depth"):
        drawing = (workspace.leaderboard / "figures" / f"tiny-{name}.svg").read_text()
        assert "tiny-objects" in drawing and f"figures/tiny-{name}.svg" in text
        assert (workspace.leaderboard / "figures" / f"tiny-{name}.csv").is_file()
