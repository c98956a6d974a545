import json
import os
import re
import subprocess

import numpy as np
import pandas
import pytest

from lrbench import load_results
from lrbench.core.errors import InputError
from lrbench.leaderboard import page
from lrbench.leaderboard.figures import Figure, figures, make_panels
from lrbench.leaderboard.gathering import gather
from tests.helpers import command, one_paragraph
from tests.leaderboard.fake import fill, put
from tests.leaderboard.helpers import OBJECTS, suite_page, table_after
from tests.stats.definitions import components, half_width


def test_accuracy_table_has_means_and_intervals(workspace, tiny):
    fill(workspace, tiny, lambda row, seed, task: 8 + 2 * seed)
    rows = table_after(suite_page(workspace), "## probe: accuracy")
    assert rows[0] == ["snapshot", "source", "tiny-objects", "tiny-indoor"]
    names = [row[0] for row in rows[1:]]
    assert names == [
        "step/stage0", "step/stage1", "step/stage2", "step/stage3", "hold/stage2", "hold/stage3", "constant/stage3",
        "average/stage2", "average/stage3",
    ]  # fmt: skip
    # Seeds 0 and 1 miss 8 and 10 of 40.
    correct = np.ones((2, 40))
    correct[0, 0:8] = 0
    correct[1, 1:11] = 0
    of_seeds, noise, images = components(correct, np.zeros(40), "top1")
    half = 100 * half_width(0.05, 2, of_seeds, noise, images - noise)
    assert half > 22.5 and rows[1][2] == f"77.5 [{77.5 - half:.1f}, 100.0]"
    # Without predictions on the source's test images, its accuracy has no interval.
    assert rows[2][1] == "25.5"


def test_perfect_accuracy_has_an_interval(workspace, tiny):
    """Every network predicts every image correctly, but other images could still be predicted wrongly."""
    fill(workspace, tiny, lambda row, seed, task: 0)
    text = suite_page(workspace)
    (accuracy,) = {row[2] for row in table_after(text, "## probe: accuracy")[1:]}
    # No seed and no image differs, so the smallest variance of shared images remains, with the normal quantile.
    half = 1.959964 * np.sqrt(0.5 / 41 * (40.5 / 41) / 40) * 100
    assert accuracy == f"100.0 [{100 - half:.1f}, 100.0]"
    assert f"0.0 ± {half:.1f}" in text
    differences = table_after(text, "## probe: difference from the previous stage")[1:]
    assert {row[2] for row in differences} == {f"0.0 ± {half:.1f}"}


def test_differences_and_controls_are_paired(workspace, tiny):
    fill(workspace, tiny, lambda row, seed, task: {("step", 2): 4, ("hold", 2): 10}.get(row, 6))
    text = suite_page(workspace)
    rows = {row[0]: row for row in table_after(text, "## probe: difference from the previous stage")}
    assert rows["step/stage2 − step/stage1"][2].startswith("+5.0 ±")
    assert rows["step/stage3 − step/stage2"][2].startswith("−5.0 ±")
    assert rows["hold/stage3 − step/stage2"][2].startswith("−5.0 ±")
    assert rows["average/stage2 − step/stage1"][2].startswith("0.0 ±")
    assert rows["constant/stage3 − hold/stage2"][2].startswith("+10.0 ±")
    controls = {row[0]: row for row in table_after(text, "## probe: decay against its controls")}
    assert controls["step/stage2 − hold/stage2"][2].startswith("+15.0 ±")
    assert {"step/stage3 − hold/stage3", "step/stage3 − constant/stage3", "step/stage3 − average/stage3"} < set(
        controls
    )


def test_transferability_needs_source_predictions(workspace, tiny):
    fill(workspace, tiny, lambda row, seed, task: 20 - 4 * row[1])
    rows = table_after(suite_page(workspace), "## probe: transferability T")
    assert [row[0] for row in rows[1:]] == ["step/stage1", "step/stage2", "step/stage3"]
    assert {cell for row in rows[1:] for cell in row[1:]} == {"—"}


def test_bold_needs_a_significant_lead(workspace, tiny):
    fill(workspace, tiny, lambda row, seed, task: 10)
    rows = table_after(suite_page(workspace), "## probe: accuracy")
    assert not [cell for row in rows for cell in row if "**" in cell]
    bodies = gather(workspace.results, tiny)
    from lrbench.leaderboard.tables import leader

    assert leader(bodies[0], OBJECTS) is None


def test_missing_cells_are_listed(workspace, tiny):
    fill(workspace, tiny)
    workspace.results.joinpath("tiny", "step-seed1-stage2.tiny-objects.probe.seed0.json").unlink()
    for seed in (0, 1):
        workspace.results.joinpath("tiny", f"hold-seed{seed}-stage3.tiny-indoor.probe.seed0.json").unlink()
    text = suite_page(workspace)
    rows = {row[0]: row for row in table_after(text, "## probe: accuracy")}
    assert rows["step/stage2"][2] == "75.0 (1 of 2 seeds)"
    assert rows["hold/stage3"][3] == "—"
    assert "Incomplete: 69 of 72 cells" in text
    assert "- step/stage2, probe: tiny-objects (seed 1)" in text
    assert "- hold/stage3, probe: tiny-indoor (seeds 0, 1)" in text
    assert "69 of 72 (incomplete)" in (workspace.leaderboard / "README.md").read_text()


def test_transfer_seeds_are_averaged_if_complete(workspace, tiny):
    suite = tiny.model_copy(update={"transfer_seeds": (0, 1)})
    for seed in (0, 1):
        for transfer_seed in (0, 1):
            wrong = 10 + 4 * transfer_seed
            put(workspace, suite, stage=1, seed=seed, wrong=wrong, transfer_seed=transfer_seed)
        put(workspace, suite, stage=2, seed=seed, wrong=1)
    (body,) = gather(workspace.results, suite)
    assert body.accuracy(("step", 1), OBJECTS).mean == pytest.approx(1 - 12 / 40)
    assert body.accuracy(("step", 2), OBJECTS) is None and body.missing(("step", 2), OBJECTS) == [0, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol_version": 0}, "a different protocol version"),
        ({"preprocessing": {"size": 64}}, "different preprocessing"),
        ({"task": {"fingerprint": "b" * 64}}, "different images or labels of the target"),
        ({"snapshot": {"source_fingerprint": "c" * 64}}, "different images of the source"),
        ({"snapshot": {"batchnorm": "raw"}}, "a different kind of BatchNorm statistics"),
        (
            {"snapshot": {"sha256": "9" * 64}},
            "different weights of this snapshot (99999999) than most of its results (step1200)",
        ),
        ({"settings": {"probe": {"strengths": 3}}}, "different settings (probe was not set and here {'strengths': 3})"),
    ],
)
def test_results_that_are_not_comparable_are_excluded(workspace, tiny, change, reason):
    fill(workspace, tiny)
    put(workspace, tiny, arm="step", stage=2, seed=1, **change)
    text = suite_page(workspace)
    rows = {row[0]: row for row in table_after(text, "## probe: accuracy")}
    assert rows["step/stage2"][2] == "75.0 (1 of 2 seeds)"
    apart = table_after(text, "## Excluded results")
    assert apart[1][0] == "step-seed1-stage2.tiny-objects.probe.seed0" and apart[1][2] == reason


def test_partial_results_have_separate_tables(workspace, tiny):
    fill(workspace, tiny)
    put(workspace, tiny, arm="step", stage=2, seed=1, wrong=0, partial=True)
    text = suite_page(workspace)
    full, partial = text.split("## Partial data")
    assert {row[0]: row for row in table_after(full, "## probe: accuracy")}["step/stage2"][2] == "75.0 (1 of 2 seeds)"
    assert {row[0]: row for row in table_after(partial, "### probe: accuracy")}["step/stage2"][2].startswith("100.0")


@pytest.mark.parametrize("damage", ["cut", "foreign", "newer", "renamed", "predictions"])
def test_unreadable_file_is_named_and_left_out(workspace, tiny, damage):
    fill(workspace, tiny)
    path = workspace.results / "tiny" / "step-seed1-stage2.tiny-objects.probe.seed0.json"
    record = json.loads(path.read_text())
    if damage == "cut":
        path.write_text(path.read_text()[:100])
    elif damage == "foreign":
        path.write_text('{"hello": 1}')
    elif damage == "newer":
        path.write_text(json.dumps({**record, "schema": 99}))
    elif damage == "renamed":
        path.rename(path.with_name("step-seed1-stage2.tiny-objects.probe.seed9.json"))
        path = path.with_name("step-seed1-stage2.tiny-objects.probe.seed9.json")
    else:
        path.with_suffix(".parquet").write_bytes(b"other")
        path = path.with_suffix(".parquet")
    text = suite_page(workspace)
    assert path.name in text.split("## Unreadable results")[1]
    assert {row[0]: row for row in table_after(text, "## probe: accuracy")}["step/stage2"][2] == "75.0 (1 of 2 seeds)"


def test_other_transfers_have_a_table(workspace, tiny, lrbench):
    fill(workspace, tiny)
    put(workspace, tiny, arm="step", stage=2, protocol="finetune")
    text = suite_page(workspace)
    rows = table_after(text, "## finetune: other transfers")
    assert rows[1][0] == "step/stage2" and rows[1][2] == "75.0 (1 of 2 seeds)"
    assert "Incomplete" not in text
    printed = lrbench("leaderboard", "tiny", "--protocol", "finetune")
    assert printed.status == 0 and printed.out.startswith("### tiny, finetune (other transfers)")
    assert "75.0 (1 of 2 seeds)" in printed.out and "75.0" in lrbench("leaderboard", "--format", "latex").out
    assert lrbench("leaderboard", "tiny", "--protocol", "finetune", "--arm", "hold").status == 2


def test_other_transfer_on_partial_data_adds_one_table(workspace, tiny):
    fill(workspace, tiny)
    before = suite_page(workspace)
    put(workspace, tiny, arm="step", stage=2, protocol="finetune", partial=True)
    full, partial = suite_page(workspace).split("## Partial data")
    assert full.strip() == before.split("## How to read")[0].strip()
    assert "### finetune: other transfers" in partial and "75.0 (1 of 2 seeds)" in partial
    assert not any(word in partial for word in ("verdict on", "C1 diminishing", "Missing", "which checkpoint"))


def test_damaged_results_are_named_by_every_command(workspace, tiny, lrbench):
    fill(workspace, tiny)
    whole = lrbench("leaderboard")
    assert whole.out.splitlines() == [
        str(workspace.leaderboard / name) for name in ("tiny.md", "tiny-details.md", "README.md", "index.html")
    ]
    assert "warning" not in whole.err
    damaged = put(workspace, tiny, arm="step", stage=2, seed=1)
    damaged.write_text("{")
    with_suffix = put(workspace, tiny, arm="hold", stage=2, seed=1).with_suffix(".parquet")
    with_suffix.unlink()
    for arguments in ((), ("--format", "csv"), ("--check",)):
        done = lrbench("leaderboard", *arguments)
        assert (
            "warning: 2 results are left out" in done.err and damaged.name in done.err and with_suffix.name in done.err
        )


def test_pages_are_reproducible_and_check_detects_changes(workspace, tiny, lrbench):
    fill(workspace, tiny)
    assert lrbench("leaderboard").status == 0
    before = {path: path.read_bytes() for path in workspace.leaderboard.rglob("*") if path.suffix in {".md", ".csv"}}
    assert lrbench("leaderboard").status == 0
    assert before == {path: path.read_bytes() for path in before}
    assert lrbench("leaderboard", "--check").status == 0
    put(workspace, tiny, arm="step", stage=2, seed=1, wrong=1)
    stale = lrbench("leaderboard", "--check")
    assert (
        stale.status == 1 and "tiny.md" in stale.err and "tiny-stages.csv" in stale.err and "out of date" in stale.err
    )
    assert "missing" not in stale.err
    (workspace.leaderboard / "tiny.md").unlink()
    assert f"{workspace.leaderboard / 'tiny.md'}: missing. " in lrbench("leaderboard", "--check").err
    assert all(path.read_bytes() == content for path, content in before.items() if path.is_file())


def test_readme_is_updated_between_markers(workspace, tiny):
    fill(workspace, tiny)
    readme = workspace.root / "README.md"
    readme.write_text("above\n<!-- lrbench:begin tiny -->\nstale words\n<!-- lrbench:end tiny -->\nbelow\n")
    assert readme in page.stale(page.build(workspace, ["tiny"], draw=False))
    page.write(workspace, ["tiny"])
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "stale words" not in text
    assert "| step/stage2" in text and "leaderboard/figures/tiny-stages.svg" in text
    assert page.stale(page.build(workspace, ["tiny"], draw=False)) == []


def test_figure_data_match_the_tables(workspace, tiny, drawn):
    fill(workspace, tiny, lambda row, seed, task: 4 if row == ("hold", 2) else 10)
    text = suite_page(workspace)
    folder = workspace.leaderboard / "figures"
    lines = (folder / "tiny-stages.csv").read_text().splitlines()
    assert lines[0] == "protocol,target,arm,stage,mean,low,high,seeds"
    assert len(lines) == 1 + 9 * 2 * 2
    assert any(line.startswith("probe,tiny-objects,hold,2,90.0,") for line in lines)
    forest = pandas.read_csv(folder / "tiny-decay-minus-control.csv")
    drop = forest[(forest.stage == 2) & (forest.control == "hold") & (forest.target == "tiny-objects")]
    assert drop["mean"].to_list() == [-15.0, -15.0] and set(forest.control) == {"hold", "average"}
    # The mean of targets comes first.
    assert forest.target.to_list()[:4] == ["mean of targets"] * 4
    mean = forest[(forest.stage == 2) & (forest.control == "hold") & (forest.target == "mean of targets")]
    assert mean["mean"].to_list() == [-15.0, -15.0]
    assert (mean.high - mean.low).max() < (drop.high - drop.low).min()
    learned = pandas.read_csv(folder / "tiny-source-learned.csv")
    assert (
        set(learned.measure) == {"simple", "complex", "memorised"}
        and (learned["mean"][learned.measure == "simple"] == 90).all()
    )
    tradeoff = pandas.read_csv(folder / "tiny-source-and-target.csv")
    assert set(zip(tradeoff.arm[tradeoff.without_decay], tradeoff.stage[tradeoff.without_decay], strict=True)) == {
        ("step", 1), ("hold", 2), ("constant", 3),
    }  # fmt: skip
    for name in ("stages", "source-and-target", "decay-minus-control", "source-learned"):
        assert (folder / f"tiny-{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert b"<svg" in (folder / f"tiny-{name}.svg").read_bytes()[:400]
        assert f"figures/tiny-{name}.svg" in text


def test_null_curve_needs_enough_snapshots(workspace, tiny, monkeypatch):
    fill(workspace, tiny, lambda row, seed, task: 20 - 4 * row[1])
    (body,) = gather(workspace.results, tiny)

    def dashed():
        figure = next(drawing for drawing in figures(body) if drawing.name == "source-and-target").draw()
        panel = figure.axes[0]
        curves = [line for line in panel.get_lines() if line.get_linestyle() == "--"]
        return curves, panel.get_title(), [text.get_text() for text in figure.legends[0].get_texts()]

    curves, title, legend = dashed()
    assert curves == [] and title == "probe (no null: 3 of 8 snapshots without decay)"
    assert not any("null" in entry for entry in legend)
    for module in ("figures", "figure_data"):
        monkeypatch.setattr(f"lrbench.leaderboard.{module}.MIN_SNAPSHOTS", 3)
    (*curves, _), title, legend = dashed()
    assert len(curves) == 2 and title == "probe" and legend[-1] == "saturation null (fit without decay)"
    # Target errors fall from 20 of 40 at stage 0 to 8 of 40 at stage 3, a tenth for each fifth of source error.
    assert curves[0].get_ydata()[0] == pytest.approx(20, abs=1.5) and curves[0].get_ydata()[-1] == pytest.approx(
        40, abs=1.5
    )


def test_panels_share_their_scales(workspace, tiny):
    fill(workspace, tiny, lambda row, seed, task: 20 - 4 * row[1])
    (body,) = gather(workspace.results, tiny)
    for drawing in figures(body):
        first, *others = drawing.draw().axes
        assert others and all(
            (panel.get_xlim(), panel.get_ylim()) == (first.get_xlim(), first.get_ylim()) for panel in others
        )


def test_at_most_three_panels_are_side_by_side():
    _, panels = make_panels(5)
    assert [panel.get_subplotspec().colspan.start for panel in panels] == [0, 1, 2, 0, 1]
    # The third has no panel below it.
    assert all(panel.xaxis.get_tick_params()["labelbottom"] for panel in panels)


def test_pdf_figures_are_kept_up_to_date(workspace, tiny, lrbench, drawn):
    fill(workspace, tiny)
    folder = workspace.leaderboard / "figures"
    assert lrbench("leaderboard").status == 0 and not list(folder.glob("*.pdf"))
    assert lrbench("leaderboard", "--figures", "pdf").status == 0
    before = {path.name: path.read_bytes() for path in folder.glob("*.pdf")}
    assert len(before) == len(list(folder.glob("*.svg"))) and all(pdf[:5] == b"%PDF-" for pdf in before.values())
    put(workspace, tiny, arm="step", stage=0, seed=1, wrong=1)
    assert lrbench("leaderboard", "--check").status == 1
    assert lrbench("leaderboard").status == 0
    after = {path.name: path.read_bytes() for path in folder.glob("*.pdf")}
    assert {name for name in before if before[name] != after[name]} == {"tiny-stages.pdf"}
    refused = lrbench("leaderboard", "--figures", "pdf", "--check")
    assert refused.status == 2 and "--figures" in refused.err


def test_parquet_is_not_printed_to_a_terminal(workspace, tiny, lrbench, monkeypatch, tmp_path):
    fill(workspace, tiny)
    file = tmp_path / "results.parquet"
    with file.open("wb") as out:
        done = subprocess.run(command("leaderboard", "--format", "parquet"), stdout=out, env=dict(os.environ))
    assert done.returncode == 0 and len(pandas.read_parquet(file)) == 72
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    refused = lrbench("leaderboard", "--format", "parquet")
    assert refused.status == 2 and "--out results.parquet" in refused.err


def test_figures_are_drawn_only_if_data_changed(workspace, tiny, monkeypatch):
    fill(workspace, tiny)
    suite_page(workspace)
    names = []
    monkeypatch.setattr(
        Figure, "drawings", lambda self, salt, endings: names.append(self.name) or dict.fromkeys(endings, b"new")
    )
    page.write(workspace, ["tiny"])
    assert names == []
    put(workspace, tiny, arm="step", stage=0, seed=1, wrong=1)
    page.write(workspace, ["tiny"])
    # Only the first figure shows the initialisation.
    assert names == ["stages"]
    (workspace.leaderboard / "figures" / "tiny-source-learned.png").unlink()
    assert page.stale(page.build(workspace, ["tiny"], draw=False)) == [
        workspace.leaderboard / "figures" / "tiny-source-learned.png"
    ]
    page.write(workspace, ["tiny"])
    assert names == ["stages", "source-learned"]


def test_rows_link_to_all_records(workspace, tiny):
    fill(workspace, tiny)
    put(workspace, tiny, arm="step", stage=2, protocol="finetune")
    text = suite_page(workspace)
    folder = workspace.leaderboard
    seen = set()
    for page_path in re.findall(r"\| \[\w+/stage\d\]\((rows/.+?)\)", text):
        links = re.findall(r"\]\((\.\./\.\./results/.+?\.json)\)", (folder / page_path).read_text())
        seen |= {(folder / page_path).parent.joinpath(link).resolve() for link in links}
    assert seen == {path for path in (folder / "results" / "tiny").glob("*.json") if path.name != "suite.json"}


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "latex", "md"])
def test_results_in_other_formats_are_filtered(workspace, tiny, lrbench, form):
    fill(workspace, tiny)
    out = workspace.root / f"out.{form}"
    arguments = ["leaderboard", "--format", form, "--protocol", "knn", "--arm", "hold", "--out", out]
    assert lrbench(*arguments).status == 0
    if form in ("latex", "md"):
        text = out.read_text()
        assert "hold/stage2" in text and "step/" not in text and "knn" in text and "probe" not in text
        assert ("\\pm" in text and "±" not in text) if form == "latex" else "| hold/stage3" in text
        return
    read = {"csv": pandas.read_csv, "json": pandas.read_json, "parquet": pandas.read_parquet}[form]
    frame = read(out)
    assert len(frame) == 2 * 2 * 2 and set(frame.arm) == {"hold"} and set(frame.protocol) == {"knn"}
    assert frame.headline.between(0, 1).all() and (workspace.root / frame.path[0]).is_file()


def test_suite_by_file_and_misspelt_suite(workspace, tiny, lrbench, home):
    fill(workspace, tiny)
    named, by_path = (lrbench("leaderboard", name, "--format", "csv") for name in ("tiny", "tiny.toml"))
    assert named.status == 0 and named.out == by_path.out
    wrong = lrbench("leaderboard", "tinny")
    assert wrong.status == 2 and "Did you mean 'tiny'?" in wrong.err and one_paragraph(wrong.err)
    assert "Run `lrbench run quick`" in lrbench("leaderboard", "quick").err


def test_file_ending_selects_the_format(workspace, tiny, lrbench, home):
    fill(workspace, tiny)
    assert lrbench("leaderboard", "tiny", "--out", "a.csv").status == 0
    assert (home / "a.csv").read_text() == lrbench("leaderboard", "tiny", "--format", "csv").out
    refused = lrbench("leaderboard", "tiny", "--out", "a.xlsx")
    assert refused.status == 2 and ".parquet" in refused.err and not (home / "a.xlsx").exists()
    assert lrbench("leaderboard", "tiny", "--out", "a.txt", "--format", "json").status == 0
    assert json.loads((home / "a.txt").read_text())


@pytest.mark.parametrize(
    "change", [{"task": {"content_sha256": "b" * 64}}, {"settings": {"probe": 1}}, {"protocol_version": 9}]
)
def test_terms_differ_if_rows_are_not_comparable(workspace, tiny, lrbench, change):
    put(workspace, tiny, stage=1)
    put(workspace, tiny, stage=2)
    put(workspace, tiny, stage=3, **change)
    first, second, third = load_results(workspace.root).terms
    assert first == second != third


def test_page_shows_notes_of_targets(workspace, tiny, tmp_path):
    with (tmp_path / "tasks" / "tiny-objects.toml").open("a") as file:
        file.write('\n[about]\nnotes = ["Its test images may be among the source\'s."]\n')
    fill(workspace, tiny)
    (line,) = [line for line in suite_page(workspace).splitlines() if line.startswith("- Target: `tiny-objects`")]
    assert line.endswith("Its test images may be among the source's.")


def test_load_results_returns_a_tidy_frame(workspace, tiny, lrbench):
    fill(workspace, tiny)
    put(workspace, tiny, arm="step", stage=2, seed=1, partial=True)
    import lrbench as package

    frame = package.load_results(workspace.root)
    assert len(frame) == 72 and frame.partial.sum() == 1
    by = frame[(frame.protocol == "probe") & ~frame.partial].groupby(["arm", "stage", "task"]).headline.mean()
    assert by["step", 1, "tiny-objects"] == pytest.approx(0.75)
    with pytest.raises(InputError, match="Suites with results: tiny"):
        package.load_results(workspace.root, suite="large")
    missed = lrbench("leaderboard", "--arm", "sidestep")
    assert missed.status == 2 and "The arms of these results: average, constant, hold, step" in missed.err
    mistyped = lrbench("leaderboard", "--protocol", "prob", "--format", "csv")
    assert mistyped.status == 2 and "did you mean 'probe'?" in mistyped.err.lower()


def test_no_results_suggests_a_run(lrbench):
    nothing = lrbench("leaderboard")
    assert nothing.status == 2 and "lrbench run quick" in nothing.err
    assert lrbench("leaderboard", "quick").status == 2


def test_source_accuracy_uses_runs_with_every_stage(workspace, tiny):
    suite = tiny.model_copy(update={"seeds": (0, 1, 2)})
    accuracies = {0: (0.5, 0.6, 0.7), 1: (0.1, 0.2), 2: (0.3, 0.4, 0.9)}
    for seed, stages in accuracies.items():
        for stage, source in enumerate(stages, start=1):
            put(workspace, suite, stage=stage, seed=seed, source=source)
    path = "Source accuracy of step at the end of stages 1 to 3: 40.0 → 50.0 → 80.0 % (mean over 2 of 3 pretraining seeds)."
    assert path in suite_page(workspace)


def test_first_screen_has_answer_table_and_figure(workspace, tiny):
    suite = tiny.model_copy(update={"seeds": (0, 1, 2)})
    fill(workspace, suite, lambda row, seed, task: 20 if row[0] == "step" and row[1] > 1 else 8)
    page.write(workspace, ["tiny"])
    lines = [line for line in (workspace.leaderboard / "tiny.md").read_text().splitlines() if line]
    assert lines[0].startswith("# ")
    assert lines[1] == (
        "**tiny (3 pretraining seeds): on average over 2 targets, learning-rate decay makes features transfer worse under "
        "probe and knn.**"
    )
    text = "\n".join(lines)
    rows = table_after(text, lines[1])
    assert rows[0][:4] == ["protocol", "boundary", "step − hold", "step − average"] and rows[0][-1] == "verdict"
    assert [row[:2] for row in rows[1:]] == [
        [protocol, boundary] for protocol in ("probe", "knn") for boundary in ("1 → 2", "2 → 3", "mean")
    ]
    assert all(row[2].startswith("−30.0 ±") and row[-1] == "**supported**" for row in rows[1:])
    first_heading = next(i for i, line in enumerate(lines) if line.startswith("## "))
    (figure,) = [i for i, line in enumerate(lines) if line.startswith("![") or "<img" in line]
    table_end = max(i for i, line in enumerate(lines[:first_heading]) if line.startswith("|"))
    assert "decay-minus-control.svg" in lines[figure] and table_end < figure < first_heading


def test_results_of_several_gpus_share_a_row_and_are_counted(workspace, tiny):
    fill(workspace, tiny)
    for seed, device in enumerate(("NVIDIA A100-SXM4-80GB", "NVIDIA H200")):
        put(workspace, tiny, stage=2, seed=seed, device=device)
    page.write(workspace, ["tiny"])
    text = (workspace.leaderboard / "tiny-details.md").read_text()
    devices = [line for line in text.splitlines() if line.startswith("- Device: ")]
    assert devices[0] == "- Device: NVIDIA A100-SXM4-80GB (results: 1)." and "NVIDIA H200 (results: 1)" in devices[1]
    rows = [row for row in table_after(suite_page(workspace), "## probe: accuracy")[1:] if "step" in row[0]]
    assert len(rows) == 4 and not any("seed" in cell for row in rows for cell in row[1:])


def test_details_decide_on_the_mean_of_targets(workspace, tiny):
    suite = tiny.model_copy(update={"seeds": (0, 1, 2)})
    fill(workspace, suite, lambda row, seed, task: 20 if row[0] == "step" and row[1] > 1 else 8)
    page.write(workspace, ["tiny"])
    text = (workspace.leaderboard / "tiny-details.md").read_text()
    rows = table_after(text, "## probe: verdict on each claim")
    assert rows[0] == ["claim", "mean of targets", "tiny-objects", "tiny-indoor"]
    verdicts = {row[0]: row[1:] for row in rows[1:]}
    assert verdicts["C3 causal"] == ["**supported**"] * 3 and verdicts["C4 beyond saturation"] == ["inconclusive"] * 3
    decisions = [row for row in table_after(text, "## probe: decisions") if row[0] == "C3 causal"]
    assert [row[1:3] for row in decisions] == [
        [target, boundary]
        for boundary in ("1 → 2", "2 → 3", "mean")
        for target in ("mean of targets", "tiny-objects", "tiny-indoor")
    ]
    # One reason for the mean and all targets has one row.
    undecided = [row for row in table_after(text, "## probe: decisions") if row[0] == "C1 diminishing"]
    assert [row[1] for row in undecided] == ["all"] * 3
    assert all("no predictions on the source's test images are stored" in row[-1] for row in undecided)
