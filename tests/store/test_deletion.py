"""Deletion of snapshots."""

import sys

import pytest
import typer

from lrbench.core.control import Control
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.snapshots import snapshot_path
from tests.helpers import one_paragraph
from tests.pretraining.helpers import key


@pytest.fixture
def trained(pretrain_tiny, place):
    """Stages 0 to 2 of `step`, and `hold`'s second."""
    pretrain_tiny("step", "hold")
    for path in place.workspace.checkpoints.glob("tiny/*/seed0/stage3.*"):
        path.unlink()
    return snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_snapshot_is_removed_with_its_files(lrbench, trained, tiny, place):
    before = trained.read_bytes()
    trained.with_name("stage1.progress.pt").write_bytes(b"left")
    done = lrbench("snapshots", "remove", "stage1", "--yes")
    assert done.status == 0, done.err
    deleted = ("stage1.safetensors", "stage1.bn.safetensors", "stage1.state.pt", "stage1.progress.pt")
    assert [line.rpartition("/")[2] for line in done.out.split("\n")[:-1]] == list(deleted)
    assert not set(deleted) & set(names(trained.parent)) and "stage2.safetensors" in names(trained.parent)
    child = "checkpoints/tiny/hold/seed0/stage2.safetensors"
    assert "2 snapshots were trained from it" in done.err and child in done.err and "step/seed0/stage2" in done.err
    make_snapshot(tiny, key("step", 1), place, Control())
    assert trained.read_bytes() == before


def test_children_removed_with_the_parent_cause_no_warning(lrbench, trained):
    done = lrbench("snapshots", "remove", "stage1", "stage2", "hold/stage2", "--yes")
    assert done.status == 0 and "were trained from it" not in done.err and done.out.count("removed ") == 9


def test_nothing_is_removed_without_confirmation(lrbench, trained, monkeypatch):
    before = names(trained.parent)
    refused = lrbench("snapshots", "remove", "stage1")
    assert refused.status == 2 and "Nothing was removed. Pass --yes" in refused.err
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    for answer in (False, True):
        monkeypatch.setattr(typer, "confirm", lambda *_, **__: answer)  # noqa: B023
        done = lrbench("snapshots", "remove", "stage1")
        assert done.status == (0 if answer else 2) and (names(trained.parent) == before) is not answer


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tiny.toml", "is not a snapshot in"),
        ("elsewhere.safetensors", "is not a snapshot in"),
        ("checkpoints/tiny/step/seed0/stage1.bn.safetensors", "is not a snapshot in"),
        ("checkpoints/../elsewhere.safetensors", "is not a snapshot in"),
        ("timm:test_resnet", "is not a file that lrbench stores"),
        ("hold/stage3", "there is no snapshot"),
        ("checkpoints/tiny/step/seed0", "is not a snapshot reference"),
    ],
)
def test_other_files_are_not_removed(lrbench, home, trained, reference, message):
    (home / "elsewhere.safetensors").write_bytes(trained.read_bytes())
    before = sorted(home.rglob("*.*"))
    # The first of the two could be deleted, but nothing is where one is refused.
    refused = lrbench("snapshots", "remove", "stage1", reference, "--yes")
    assert refused.status == 2 and message in refused.err and one_paragraph(refused.err), refused.err
    assert sorted(home.rglob("*.*")) == before


def test_damaged_snapshots_and_broken_links_are_removed(lrbench, trained):
    trained.write_bytes(b"damaged")
    later = trained.with_name("stage2.safetensors")
    later.unlink()
    later.symlink_to("gone")
    assert lrbench("snapshots", "remove", "stage1", "stage2", "--yes").status == 0
    assert not {"stage1.safetensors", "stage2.safetensors"} & set(names(trained.parent))
