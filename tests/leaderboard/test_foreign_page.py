"""Page of snapshots that belong to no suite."""

import re

import numpy as np
import pytest

from lrbench.leaderboard.foreign_page import render_foreign
from lrbench.leaderboard.page import write
from lrbench.stats.images import image_variance
from tests.leaderboard.fake import put


def test_foreign_snapshots_alone_have_a_page(workspace, tiny, lrbench):
    snapshot = {
        "reference": "timm:resnet18",
        "arm": None,
        "stage": None,
        "pretraining_seed": None,
        "source_accuracy": None,
    }
    put(workspace, tiny.model_copy(update={"name": "foreign"}), snapshot=snapshot)
    workspace.results.joinpath("foreign", "suite.json").unlink()
    with (workspace.root.parent / "tasks" / "tiny-objects.toml").open("a") as file:
        file.write('\n[about]\nnotes = ["Its test images may be among the source\'s."]\n')
    assert lrbench("leaderboard").status == 0 and lrbench("leaderboard", "--check").status == 0
    assert sorted(path.name for path in workspace.leaderboard.iterdir()) == [
        "README.md", "foreign.md", "index.html", "results",
    ]  # fmt: skip
    assert "(index.html)" in (workspace.leaderboard / "README.md").read_text()
    assert (
        "| [foreign](foreign.md) | Snapshots from outside the suites | 1       |"
        in (workspace.leaderboard / "README.md").read_text()
    )
    page = lrbench("leaderboard", "--format", "md").out
    assert "tiny-objects top-1, 40.\n" in page
    assert "timm:resnet18" in page and "- tiny-objects: Its test images may be among the source's." in page
    latex = lrbench("leaderboard", "--format", "latex").out
    assert latex.startswith("% In the preamble: \\usepackage{booktabs}\n\n\\begin{table}\n")
    assert r"\caption{foreign, probe. Percent, with Wilson's 95 \% interval" in latex and "timm:resnet18" in latex
    assert r"tiny-objects top-1, 40.}" in latex and r"\label{tab:foreign-probe}" in latex
    assert lrbench("leaderboard", "--protocol", "probe").out.startswith("### foreign, probe\n\n| snapshot")
    assert lrbench("leaderboard", "--protocol", "knn").status == 2


def test_foreign_intervals_and_leader(workspace, tiny):
    foreign = tiny.model_copy(update={"name": "foreign"})

    def add(name, wrong, weights=None, **changes):
        snapshot = {
            "reference": name, "sha256": (weights or name).ljust(64, "0"), "arm": None, "stage": None,
            "pretraining_seed": None, "source_accuracy": None,
        }  # fmt: skip
        put(workspace, foreign, wrong=wrong, snapshot=snapshot, **changes)

    def cells_by_name(table):
        return {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in table.splitlines() if row[:1] == "|"}

    add("a", 1)
    add("alias", 1, weights="a")
    add("b", 10)
    add("b", 30, transfer_seed=1)
    add("perfect", 0, target="tiny-indoor")
    page = render_foreign(workspace.results)
    accuracy = cells_by_name(page)
    # The mean of two seeds has the variance of a share of 0.25 / variance images; Wilson's interval for that number.
    hits = np.mean([np.arange(40) >= 10, np.arange(40) >= 30], axis=0)
    images = 0.25 / (hits.var(ddof=1) / 40)
    half = 100 * 1.96 * np.sqrt(0.25 / images + 1.96**2 / 4 / images**2) / (1 + 1.96**2 / images)
    assert accuracy["b"] == f"50.0 [{50 - half:.1f}, {50 + half:.1f}]"
    assert accuracy["a"] == accuracy["alias"] == "**97.5 [87.1, 99.6]**"
    assert (
        "tiny-indoor top-1, 40; tiny-objects top-1, 40. Bold: significantly" in page
        and "Transfer seeds are averaged." in page
    )
    # The lower end with every image right is 40 / (40 + z²).
    (perfect,) = [row for row in page.splitlines() if row.startswith("| perfect")]
    assert perfect.split("|")[3].strip() == "100.0 [91.2, 100.0]"
    add("c", 3, weights="c")
    page = render_foreign(workspace.results)
    assert (
        not cells_by_name(page)["a"].startswith("**")
        and "Bold" not in page
        and "No row is significantly better" in page
    )
    add("d", 39, settings={"other": 1})
    page = render_foreign(workspace.results)
    assert "Not comparable within the column" in page and "**97.5" not in page


def test_small_classes_widen_the_interval(workspace, tiny):
    """Ten classes of four images, and forty classes of one image, which have no variance of their own."""
    foreign = tiny.model_copy(update={"name": "foreign"})
    metric = {"task": {"metric": "mean_per_class"}}
    for name, wrong in (("a", 20), ("b", 22)):
        snapshot = {
            "reference": name, "sha256": name * 64, "arm": None, "stage": None, "pretraining_seed": None,
            "source_accuracy": None,
        }  # fmt: skip
        put(workspace, foreign, wrong=wrong, snapshot=snapshot, target="tiny-indoor", **metric)
    page = render_foreign(workspace.results)
    # Two of four right in each class: variances of a third, over four images, over ten classes.
    images = 0.25 / (1 / 3 / 4 / 10)
    half = 100 * 1.96 * np.sqrt(0.25 / images + 1.96**2 / 4 / images**2) / (1 + 1.96**2 / images)
    assert f"50.0 [{50 - half:.1f}, {50 + half:.1f}]" in page and "mean per class, 40" in page and "**5" not in page
    singles = np.arange(40)
    values = (singles < 20).astype(float)
    assert image_variance(values, singles, "mean_per_class") == pytest.approx(values.var(ddof=1) / 40)
    # A class of one image gets the pooled variance of the others.
    labels = np.array([0, 0, 0, 1])
    assert image_variance(np.array([1.0, 0.0, 0.0, 1.0]), labels, "mean_per_class") == pytest.approx(
        (1 / 9 + 1 / 3) / 4
    )


def test_small_lead_is_not_bold(workspace, tiny):
    foreign = tiny.model_copy(update={"name": "foreign"})
    for name, wrong in (("a", 6), ("b", 10)):
        snapshot = {
            "reference": name, "sha256": name * 64, "arm": None, "stage": None, "pretraining_seed": None,
            "source_accuracy": None,
        }  # fmt: skip
        put(workspace, foreign, wrong=wrong, snapshot=snapshot)
        put(workspace, foreign, wrong=wrong // 6, snapshot=snapshot, partial=True, target="tiny-indoor")
    page = render_foreign(workspace.results)
    # Four discordant images, all in favour of one: McNemar's p is 0.125.
    assert "85.0 [" in page and "**85.0" not in page
    whole, partial = page.split("## Partial data")
    assert "tiny-indoor" not in whole and "tiny-indoor" in partial and "85.0" not in partial


def test_logme_scores_follow_accuracies(workspace, tiny):
    snapshot = {"arm": None, "stage": None, "pretraining_seed": None, "source_accuracy": None}
    for name, scores in (("a", (0.5, 0.7)), ("b", (-1.25,))):
        for seed, score in enumerate(scores):
            put(
                workspace,
                tiny.model_copy(update={"name": "foreign"}),
                protocol="logme",
                transfer_seed=seed,
                chosen={"logme": score},
                snapshot=snapshot | {"reference": name, "sha256": name * 64},
            )
    page = render_foreign(workspace.results)
    assert "| a          | aaaaaaaa  | 0.600 " in page and "| b          | bbbbbbbb  | −1.250 " in page
    assert page.index("75.0 [") < page.index("0.600") < page.index("LogME is the logarithm")


def test_logme_of_a_suite_is_a_mean_over_seeds(workspace, tiny):
    for named in ((), ("logme",)):
        suite = tiny.model_copy(update={"protocols": (*tiny.protocols, *named)})
        for seed, score in enumerate((0.5, 0.7)):
            put(workspace, suite, seed=seed, protocol="logme", chosen={"logme": score})
        write(workspace, ["tiny"])
        page = (workspace.leaderboard / "tiny-details.md").read_text()
        # Student's t at one degree of freedom: 12.706 standard errors of 0.1.
        assert re.search(r"\| step/stage1 +\| 0\.600 ± 1\.271 +\|", page) and page.count("LogME is the logarithm") == 1
