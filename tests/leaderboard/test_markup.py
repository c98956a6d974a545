"""Outside text is escaped, and printed intervals hold possible values only."""

import json
import re

import pytest

from lrbench.leaderboard import page
from lrbench.leaderboard.markup import Marked, bullets, code, link, points, prose, table, with_interval
from lrbench.stats.intervals import Estimate
from tests.leaderboard.fake import fill, put

HOSTILE = "<img src=x onerror=alert(1)>|`**x**`</script>\n# [a](javascript:b)\x1b[31m"


def value(mean, half, seeds=3):
    """Return an estimate with a given half-width, which its images determine."""
    variance = 0.0 if half is None else (half / 1.959963985) ** 2
    return Estimate(mean=mean, seeds=seeds, seed_variance=None if half is None else 0.0, image_variance=variance)


@pytest.mark.parametrize(
    ("mean", "half", "printed"),
    [
        (0.661, 0.267, "66.1 ± 26.7"),
        (0.938, 0.122, "93.8 [81.6, 100.0]"),
        (1.0, 0.083, "100.0 [91.7, 100.0]"),
        (0.02, 0.05, "2.0 [0.0, 7.0]"),
        (0.7, 2.035, "70.0"),
        (0.7, None, "70.0"),
    ],
)
def test_accuracy_interval_is_cut_at_0_and_100(mean, half, printed):
    assert points(value(mean, half), 3) == printed


def test_names_in_backticks_show_as_code():
    assert prose("the arm `step_two` of a*b") == r"the arm `step_two` of a\*b"
    assert prose("`**x**` and `a|b` and `") == r"\`\*\*x\*\*\` and \`a\|b\` and \`"


def test_difference_interval_is_cut_at_100_points():
    assert points(value(-0.6, 0.5), 3, signed=True) == "−60.0 [−100.0, −10.0]"
    assert points(value(0.6, 0.2, seeds=2), 3, signed=True, bold=True) == "**+60.0 ± 20.0 (2 of 3 seeds)**"
    assert points(value(0.0, 1.715), 3, signed=True) == "0.0"
    # A value without limits keeps any interval.
    assert with_interval(value(1.0, 40.0), None, scale=1, digits=2) == "1.00 ± 40.00"


def test_tables_escape_outside_text():
    text = table([{"a|b": "x|<i>*y*", "plain": Marked("**1 [2]**")}])
    head, _, row = text.splitlines()
    assert r"a\|b" in head and r"x\|&lt;i&gt;\*y\*" in row and "**1 [2]**" in row
    assert "a|b" in table([{"a|b": "1"}], "plain")


def test_code_links_and_lists_are_escaped():
    assert code("vit_tiny.a1:b") == "`vit_tiny.a1:b`" and code("a`b<i>") == r"a\`b&lt;i&gt;"
    assert link("a]b", "results/x y)z.json") == r"[a\]b](results/x%20y%29z.json)"
    assert bullets(["a\n# b", "_c_"]) == "- a # b\n- \\_c\\_"


def test_pages_hold_no_markup_from_outside(workspace, tiny):
    suite = tiny.model_copy(
        update={
            "title": HOSTILE,
            "model": tiny.model.model_copy(update={"architecture": HOSTILE, "arguments": {HOSTILE: [HOSTILE]}}),
        }
    )
    readme = workspace.root / "README.md"
    readme.write_text("<!-- lrbench:begin tiny -->\n<!-- lrbench:end tiny -->\n")
    fill(workspace, suite)
    put(workspace, suite, stage=2, device=HOSTILE, versions={HOSTILE: HOSTILE}, settings={HOSTILE: HOSTILE}, seed=1)
    workspace.results.joinpath("tiny", "<img src=x>.json").write_text("{}")
    with (workspace.root.parent / "tasks" / "tiny-objects.toml").open("a") as file:
        file.write(f"\n[about]\nnotes = [{json.dumps(HOSTILE)}]\n")
    foreign = tiny.model_copy(update={"name": "foreign"})
    names = {"arm": None, "stage": None, "pretraining_seed": None, "source_accuracy": None}
    put(workspace, foreign, snapshot={**names, "reference": HOSTILE, "sha256": HOSTILE})
    built = page.write(workspace, ["tiny", "foreign"])
    pages = [path for path in built.files if path.suffix == ".md"]
    assert len(pages) == 14
    for path in pages:
        text = path.read_text()
        assert not [sign for sign in ("<img", "</script", "\x1b", "\n# [") if sign in text], path
        assert not re.search(r"(?<!\\)\]\(javascript", text), path
        rows = [line for line in text.splitlines() if line.startswith("|")]
        widths = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        # A table's rows have as many cells as its heading.
        assert all(width == widths[i - 1] for i, width in enumerate(widths) if rows[i].startswith("|-"))
    webpage = (workspace.leaderboard / "index.html").read_text()
    assert webpage.count("</script") == 2 and "<img" not in webpage.split('id="data">')[0]
