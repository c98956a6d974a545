"""Sentences and tables that summarise results agree with the numbers."""

import numpy as np
import pytest

from lrbench.leaderboard import summary, tables
from lrbench.leaderboard.claims import CAUSAL, CLAIMS, Decision, decide
from lrbench.leaderboard.details_page import render_details
from lrbench.leaderboard.suite_page import render_suite
from lrbench.leaderboard.verdicts import run_differences
from tests.leaderboard.fake import fill, put
from tests.leaderboard.helpers import set_target, suite_page, table_after, verdicts, world

COLUMN = 0


def flat(suite, seeds=5, level=0.6, **options):
    return world(suite, seeds, np.random.default_rng(0), levels=lambda row: level, **options)


def correct_of(evidence, column=COLUMN):
    return evidence.values[evidence.columns[column]].correct


def checkpoint(evidence):
    cells = summary.which_checkpoint(evidence, "probe")[-1].values()
    return dict(zip(("target", "best", "tied", "behind"), cells, strict=True))


def test_row_that_lacks_seeds_is_not_best(tiny):
    evidence = flat(tiny)
    for seed in range(5):
        set_target(evidence, ("step", 1), seed, 0.8 + 0.002 * seed)
        set_target(evidence, ("hold", 2), seed, (0.85 if seed < 4 else 0.3) + 0.001 * seed)
    # Its mean over four seeds is larger, because every row is worse in the seed that it lacks.
    del correct_of(evidence)[("hold", 2), 4]
    line = checkpoint(evidence)
    assert line["best"].startswith("step/stage1") and "hold/stage2" not in line["behind"]
    assert line["tied"] == "hold/stage2 (4 of 5 seeds)" and line["behind"] == "7 of 8 others"
    assert tables.is_better(evidence, ("hold", 2), ("step", 1), evidence.columns[0])
    assert not tables.is_better(evidence, ("step", 1), ("hold", 2), evidence.columns[0])


def primary(verdicts):
    """Return decisions of the primary endpoint with given verdicts by protocol: at each boundary, then for the mean."""
    return [
        Decision(claim=CAUSAL, protocol=protocol, task=None, boundary=boundary, verdict=verdict)
        for protocol, row in verdicts.items()
        for boundary, verdict in zip((1, 2, None), row, strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"probe": ["supported"] * 3}, "learning-rate decay makes features transfer worse under probe"),
        ({"probe": ["contradicted"] * 3}, "learning-rate decay makes features transfer better under probe"),
        (
            {"probe": ["mixed"] * 3},
            "learning-rate decay transfers worse than one control and better than the other under probe",
        ),
        ({"probe": ["equivalent"] * 3}, "learning-rate decay makes no difference beyond 2 points under probe"),
        (
            {"probe": ["supported"] * 3, "knn": ["equivalent"] * 3},
            "learning-rate decay makes features transfer worse under probe; it makes no difference beyond 2 points under knn",
        ),
        (
            {"probe": ["supported", "inconclusive", "supported"], "knn": ["inconclusive"] * 3},
            "learning-rate decay makes features transfer worse under probe (1 → 2) and probe (mean over boundaries); it has "
            "an open effect under probe (2 → 3) and knn",
        ),
        (
            {"probe": ["supported"] * 3, "knn": ["supported"] * 3, "finetune": ["supported"] * 3},
            "learning-rate decay makes features transfer worse under probe, knn and finetune",
        ),
    ],
)
def test_answer_says_what_every_verdict_means(tiny, rows, sentence):
    evidence = flat(tiny, tasks=("a", "b"))
    assert summary.answer(evidence, primary(rows)) == (
        f"made-up (5 pretraining seeds): on average over 2 targets, {sentence}."
    )
    # Decisions on single targets and on other claims do not enter the answer.
    secondary = [
        Decision(claim=claim, protocol="probe", task=task, boundary=1, verdict="contradicted")
        for claim, task in ((CAUSAL, "a"), (CLAIMS[1], None))
    ]
    assert summary.answer(evidence, [*secondary, *primary(rows)]) == summary.answer(evidence, primary(rows))


def test_answer_of_open_results(tiny):
    evidence = flat(tiny)
    open_rows = primary({"probe": ["inconclusive"] * 3, "knn": ["inconclusive"] * 3})
    assert summary.answer(evidence, open_rows) == (
        "made-up (5 pretraining seeds): whether learning-rate decay makes features transfer worse remains open under every "
        "protocol."
    )
    few = flat(tiny, seeds=2)
    assert summary.answer(few, open_rows) == (
        "made-up (2 pretraining seeds): no claim is decided, because at least 3 pretraining seeds are needed."
    )
    evidence.partial = True
    assert summary.answer(evidence, open_rows).startswith("made-up (5 pretraining seeds, partial data): ")


def test_answer_names_the_suites_margin(tiny):
    evidence = flat(tiny.model_copy(update={"margin": 0.5}))
    assert summary.answer(evidence, primary({"probe": ["equivalent"] * 3})) == (
        "made-up (5 pretraining seeds): on average over 1 target, learning-rate decay makes no difference beyond 0.5 points "
        "under probe."
    )


def test_answer_counts_testable_protocols_only(tiny):
    """A protocol that is used on `step` and `hold` only cannot test C3."""
    assert "cannot be decided, because it needs the arms hold and average" in summary.answer(
        flat(tiny.model_copy(update={"arms": ("step", "hold", "constant")})), []
    )
    some = tiny.model_copy(update={"protocol_arms": {"finetune": ("step", "hold")}})
    evidence = world(
        some, 5, np.random.default_rng(0), levels=lambda row: 0.9 - 0.2 * (row[0] == "step") * row[1],
        protocols=("probe", "finetune"),
    )  # fmt: skip
    assert summary.answer(evidence, decide(evidence)).endswith("makes features transfer worse under probe.")
    rows = summary.primary_table(evidence, decide(evidence))
    assert [row["protocol"] for row in rows] == ["probe"] * 3 + ["finetune"] * 3
    for row in rows[3:]:
        assert row["verdict"] == "inconclusive (the suite does not use finetune on the arm average)"
        assert {row["step − hold"], row["step − average"], row["p (Holm)"], row["detectable"]} == {"—"}


def test_primary_table_shows_effects_of_the_mean(tiny):
    evidence = flat(tiny, tasks=("a", "b"))
    for column in range(2):
        for row, seed in list(correct_of(evidence, column)):
            level = {"step": 0.5, "hold": 0.6, "average": 0.55 + 0.1 * column}.get(row[0], 0.6)
            set_target(evidence, row, seed, level, evidence.columns[column])
    rows = summary.primary_table(evidence, decide(evidence))
    assert [row["boundary"] for row in rows] == ["1 → 2", "2 → 3", "mean"]
    for row in rows:
        assert row["step − hold"].startswith("−10.0 ±") and row["step − average"].startswith("−10.0 ±")
        assert row["verdict"] == "**supported**" and row["p (Holm)"] == "<0.001"


def test_incomplete_seeds_are_the_reason_on_the_main_page(tiny):
    evidence = world(
        tiny, 5, np.random.default_rng(0), levels=lambda row: 0.7 if row[0] == "step" and row[1] > 1 else 0.9
    )
    for stage in (2, 3):
        del correct_of(evidence)[("hold", stage), 4]
    page = render_suite(evidence.suite, evidence, decide(evidence), [], partial=False)
    assert "remains open under every protocol" in page
    rows = table_after(page, "remains open")
    assert all(row[-1] == "inconclusive (incomplete: 4 of 5 seeds)" and row[-2] == "—" for row in rows[1:])
    # The effect is shown over the seeds with results.
    assert all("−2" in row[2] or "−1" in row[2] for row in rows[1:])


def test_evidence_lists_every_claim_and_boundary(tiny):
    evidence = flat(tiny, protocols=("probe", "knn"))
    rows = summary.claim_evidence(evidence, decide(evidence))
    assert len(rows) == 2 * 4 * 3 and [row["boundary"] for row in rows[:3]] == ["1 → 2", "2 → 3", "mean"]
    claims = summary.claim_table(evidence, decide(evidence))
    assert [row["claim"].split()[0] for row in claims] == ["C1", "C2", "C3", "C4"]
    assert all(set(row) == {"claim", "states that", "probe", "knn"} for row in claims)
    assert summary.claim_evidence(flat(tiny, seeds=2), []) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ((0.1, 0.5, 0.5, 0.8), "is not significantly different from zero"),
        ((0.1, 0.5, 0.4, 0.8), "T of stage 2 is undefined: the source lost accuracy"),
    ],
)
def test_reasons_for_undefined_t_differ(tiny, path, reason):
    noise = np.random.default_rng(0).normal(0, 0.01, (5, 4))
    evidence = flat(tiny, source=lambda row, seed: path[row[1]] + noise[seed, row[1]])
    assert reason in verdicts(evidence, "C1")[0].reason


def test_one_seed_is_the_reason_before_undefined_t(tiny):
    evidence = flat(tiny, seeds=1)
    reason = "1 pretraining seed, at least 3 are needed"
    assert {decision.reason for decision in verdicts(evidence, "C1", mean=True)} == {reason}
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
