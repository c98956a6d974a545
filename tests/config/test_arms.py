"""Suites with more arms, and protocols for some arms alone, from the command line to the pages."""

import json
import shutil

import pytest

from tests.helpers import make_home, run_here

ARMS = ["step", "hold", "early", "cosine", "raise"]
CHANGES = [
    part
    for change in (
        f"arms={json.dumps(ARMS)}", "seeds=[0]", 'targets=["tiny-indoor"]', "schedule.epochs=7",
        'protocol_arms={knn=["step", "hold"]}', "name=more",
    )
    for part in ("--set", change)
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace in which the suite was run; tests use copies."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_home(tmp_path_factory.mktemp("finished"), monkeypatch)
        assert run_here(monkeypatch, "run", "tiny.toml", *CHANGES) == 0
    return root


@pytest.fixture
def done(home, finished):
    """Copy the finished workspace into the test's."""
    shutil.copytree(finished, home, dirs_exist_ok=True)


def test_protocol_arms_limit_a_protocol_to_some_arms(lrbench, home, done):
    record = json.loads(lrbench("plan", "tiny.toml", *CHANGES, "--json").out)
    used = {(cell["protocol"], cell["snapshot"].split("/")[0]) for cell in record["cells"]}
    assert used == {("probe", arm) for arm in ARMS} | {("knn", "step"), ("knn", "hold")}
    assert all(cell["done"] for cell in record["cells"])

    page = (home / "leaderboard" / "more.md").read_text()
    assert "Incomplete" not in page and "## Missing" not in page
    probe, knn = (page.split(f"## {protocol}: accuracy")[1].split("Percent,")[0] for protocol in ("probe", "knn"))
    assert "cosine/stage3" in probe and "raise/stage4" in probe and "early/stage1" in probe
    assert "hold/stage3" in knn and "cosine" not in knn and "raise" not in knn
    assert lrbench("leaderboard", "more", "--check").status == 0


def test_pages_describe_arms_and_compare_same_epochs(home, done):
    page = "".join((home / "leaderboard" / name).read_text() for name in ("more.md", "more-details.md"))
    for line in (
        "- `step`: the rate falls from 0.1 to 0.01 to 0.001 after epochs 3, 5.",
        "- `early`: `step` with its boundaries at epochs 2, 4.",
        "- `cosine`: the rate falls from 0.1 to 0 along half a cosine; snapshots at the epochs of `step`'s boundaries.",
        "- `raise`: 2 more epochs at 0.1 after the end of `step`.",
    ):
        assert line in page
    held, controls = (
        page.split(f"## probe: {title}")[1].split("##")[0]
        for title in ("decay against its controls", "other ways to let the rate fall")
    )
    assert "step/stage2 − hold/stage2" in held and "cosine" not in held
    # After as many epochs of training: `early` at the end alone, `cosine` at every boundary, `raise` never.
    assert "step/stage3 − early/stage3" in controls and "step/stage2 − early/stage2" not in controls
    assert "step/stage2 − cosine/stage2" in controls and "raise" not in controls
    gains = page.split("## probe: difference from the previous stage")[1].split("##")[0]
    assert "raise/stage4 − step/stage3" in gains and "early/stage1 − step/stage0" in gains
