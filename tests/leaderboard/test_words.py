"""Sentences and tables that summarise results agree with the numbers."""

import numpy as np
import pytest

from lrbench.leaderboard import summary, tables
from lrbench.leaderboard.claims import decide
from lrbench.leaderboard.details_page import render_details
from lrbench.leaderboard.suite_page import render_suite
from lrbench.leaderboard.verdicts import run_differences
from tests.leaderboard.fake import fill, put
from tests.leaderboard.helpers import suite_page, table_after, verdicts, world

COLUMN = 0


def flat(suite, seeds=5, level=0.6, **options):
    return world(suite, seeds, np.random.default_rng(0), levels=lambda row: level, **options)


def correct_of(evidence, column=COLUMN):
    return evidence.values[evidence.columns[column]].correct


def set_level(evidence, row, seed, share):
    correct_of(evidence)[row, seed] = (np.arange(400) < 400 * share).astype(float)


def checkpoint(evidence):
    cells = summary.which_checkpoint(evidence, "probe")[-1].values()
    return dict(zip(("target", "best", "tied", "behind"), cells, strict=True))


def test_row_that_lacks_seeds_is_not_best(tiny):
    evidence = flat(tiny)
    for seed in range(5):
        set_level(evidence, ("step", 1), seed, 0.8 + 0.002 * seed)
        set_level(evidence, ("hold", 2), seed, (0.85 if seed < 4 else 0.3) + 0.001 * seed)
    # Its mean over four seeds is larger, because every row is worse in the seed that it lacks.
    del correct_of(evidence)[("hold", 2), 4]
    line = checkpoint(evidence)
    assert line["best"].startswith("step/stage1") and "hold/stage2" not in line["behind"]
    assert line["tied"] == "hold/stage2 (4 of 5 seeds)" and line["behind"] == "7 of 8 others"
    assert tables.is_better(evidence, ("hold", 2), ("step", 1), evidence.columns[0])
    assert not tables.is_better(evidence, ("step", 1), ("hold", 2), evidence.columns[0])


def test_significant_p_of_inconclusive_claim_is_explained(tiny):
    def rows(evidence):
        lines = summary.claim_evidence(evidence, decide(evidence))
        return {line["claim"].split()[0]: (line["verdict"], line["clearest comparison"]) for line in lines}

    falls = {("step", 2): 0.7, ("step", 3): 0.7}
    evidence = world(tiny, 5, np.random.default_rng(0), levels=lambda row: falls.get(row, 0.9))
    verdict, comparison = rows(evidence)["C2"]
    assert verdict.startswith("inconclusive") and "supported at this boundary, but not at every boundary" in comparison
    assert rows(evidence)["C3"][0].startswith("supported")
    for stage in (2, 3):
        del correct_of(evidence)[("hold", stage), 4]
    verdict, comparison = rows(evidence)["C3"]
    assert (
        verdict.startswith("inconclusive") and "incomplete: 4 of 5 seeds" in comparison and "stage 1 → 2" in comparison
    )


def test_range_with_equal_ends_is_one_number(tiny):
    evidence = flat(tiny)
    alike = [decision for decision in verdicts(evidence, "C2") if decision.boundary == 1]
    (line,) = [line for line in summary.claim_evidence(evidence, alike) if "C2" in line["claim"]]
    assert line["smallest detectable effect"] == f"{100 * alike[0].detectable:.1f}"


def test_answer_counts_testable_pairs(tiny):
    """A protocol that is used on `step` and `hold` only cannot test C3."""
    assert "cannot be decided, because it needs the arms hold and average" in summary.answer(
        flat(tiny.model_copy(update={"arms": ("step", "hold", "constant")})), []
    )
    some = tiny.model_copy(update={"protocol_arms": {"finetune": ("step", "hold")}})
    evidence = world(some, 5, np.random.default_rng(0), levels=lambda row: 0.9 - 0.2 * (row[0] == "step") * row[1])
    finetune = [type(evidence.columns[0])(protocol="finetune", task="a")]
    evidence.suite = evidence.suite.model_copy(update={"protocols": ("probe", "finetune")})
    evidence.columns += finetune
    assert "is supported in 1 and contradicted in none of 1 pairs" in summary.answer(evidence, decide(evidence))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ((0.1, 0.5, 0.5, 0.8), "is not significantly different from zero"),
        ((0.1, 0.5, 0.4, 0.8), "T of stage 2 is undefined: the source lost accuracy"),
    ],
)
def test_reasons_for_undefined_t_differ(tiny, path, reason):
    noise = np.random.default_rng(0).normal(0, 0.005, (5, 4))
    evidence = flat(tiny, source=lambda row, seed: path[row[1]] + noise[seed, row[1]])
    assert reason in verdicts(evidence, "C1")[0].reason


def test_one_seed_is_the_reason_before_undefined_t(tiny):
    evidence = flat(tiny, seeds=1)
    assert {decision.reason for decision in verdicts(evidence, "C1")} == {"1 pretraining seed, at least 3 are needed"}
    page = render_suite(evidence.suite, evidence, decide(evidence), [], partial=False)
    assert "Bold:" not in page and "no claim is decided, because at least 3 pretraining seeds are needed" in page


def test_reason_names_missing_rows(tiny):
    evidence = flat(tiny)
    for seed in range(5):
        del correct_of(evidence)[("average", 2), seed]
    assert verdicts(evidence, "C3")[0].reason == "no results of average/stage2"


def test_controls_with_decay_have_a_table(tiny):
    suite = tiny.model_copy(update={"arms": ("step", "hold", "cosine")})
    evidence = flat(suite)
    page = render_details(evidence.suite, [evidence], [decide(evidence)], [])
    held, falling = (table_after(page, f"## probe: {title}") for title in (
        "decay against its controls", "other ways to let the rate fall",
    ))  # fmt: skip
    assert all("cosine" not in row[0] for row in held) and all("cosine" in row[0] for row in falling[1:])
    assert (
        "`average` is the mean" not in page
        and "Below zero: `step` transfers worse than the other arm. `cosine` lets it fall throughout." in page
    )


def test_mcnemar_p_needs_equal_image_weights(tiny):
    unequal = np.repeat([0, 1], [300, 100])
    for labels, metric, there in (
        (unequal, "mean_per_class", False), (unequal, "top1", True), (np.repeat([0, 1], 200), "mean_per_class", True),
    ):  # fmt: skip
        evidence = flat(tiny, labels=labels, metric=metric)
        assert (", p " in run_differences(evidence, "probe")) is there


def test_partial_data_is_stated_on_every_page(workspace, tiny):
    readme = workspace.root / "README.md"
    readme.write_text("<!-- lrbench:begin tiny -->\n<!-- lrbench:end tiny -->\n")
    fill(workspace, tiny)
    for path in workspace.results.joinpath("tiny").glob("*.json"):
        if path.name != "suite.json":
            path.unlink()
    put(workspace, tiny, stage=2, partial=True)
    suite_page(workspace)
    assert "(partial data)" in (workspace.leaderboard / "README.md").read_text()
    text = readme.read_text()
    assert "partial data): no claim is decided" in text and "Incomplete: 1 of 72 cells have results." in text


def test_different_labels_under_one_fingerprint_are_excluded(workspace, tiny, monkeypatch):
    from tests.leaderboard import fake

    fill(workspace, tiny)
    monkeypatch.setitem(fake.LABELS, "tiny-objects", fake.LABELS["tiny-objects"][:30])
    put(workspace, tiny, stage=2, seed=1)
    apart = table_after(suite_page(workspace), "## Excluded results")
    assert apart[1][2] == "different test images, by the labels in its predictions"
