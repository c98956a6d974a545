"""References: what a user types, and the snapshot that it resolves to."""

import os

import pytest
import torch
from safetensors.torch import save_file

from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.store.references import resolve_reference


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("stage2", "tiny/step/seed0/stage2"),
        ("hold/stage2", "tiny/hold/seed0/stage2"),
        ("hold/stage1", "tiny/step/seed0/stage1"),
        ("tiny/stage2", "tiny/step/seed0/stage2"),
        ("tiny/seed1/stage2", "tiny/step/seed1/stage2"),
        ("constant/seed1/stage2", "tiny/hold/seed1/stage2"),
        ("tiny/average/seed1/stage3", "tiny/average/seed1/stage3"),
        ("quick/step/seed2/stage1", "quick/step/seed2/stage1"),
    ],
)
def test_short_references_resolve_as_documented(snapshot, place, text, full):
    assert resolve_reference(text, place.workspace).text == full


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage9", "has no stage9"),
        ("hlod/stage2", "Did you mean 'hold'"),
        ("tiny/step/seed7/stage1", "has no seed 7"),
        ("stge2", "Did you mean 'stage2'"),
        ("a/b/c/d/stage2", "is not a snapshot reference"),
        ("timm:", "names no model"),
        ("hf-hub:justname", "names no model"),
    ],
)
def test_wrong_reference_error_says_what_is_expected(snapshot, place, text, message):
    with pytest.raises(InputError, match=message):
        resolve_reference(text, place.workspace)


def test_stage_without_any_suite_is_refused_with_advice(home, place):
    with pytest.raises(InputError, match="no suite was pretrained"):
        resolve_reference("stage2", place.workspace)


def test_file_has_one_reference_for_all_spellings(home, monkeypatch):
    place = Workspace(root=home)
    folder = home / "checkpoints" / "foreign"
    folder.mkdir(parents=True)
    for path in (folder / "ok.safetensors", home / "mine.safetensors"):
        save_file({"weight": torch.zeros(1)}, path)
    spellings = (
        "foreign/ok",
        "checkpoints/foreign/ok.safetensors",
        f"../{home.name}/checkpoints/foreign/ok.safetensors",
    )
    assert {resolve_reference(spelling, place).text for spelling in (*spellings, str(folder / "ok.safetensors"))} == {
        "foreign/ok"
    }
    own = ("mine.safetensors", "./checkpoints/../mine.safetensors", str(home / "mine.safetensors"))
    assert {resolve_reference(spelling, place).text for spelling in own} == {"mine.safetensors"}
    # From any folder, and with LRBENCH_HOME as a link.
    (home.parent / "link").symlink_to(home)
    linked = Workspace(root=home.parent / "link")
    for here in (home, folder, home.parent):
        monkeypatch.chdir(here)
        near = os.path.relpath(home / "mine.safetensors")
        for spelling, workspace in ((near, place), (near, linked), ("mine.safetensors", place)):
            reference = resolve_reference(spelling, workspace)
            assert reference.text == "mine.safetensors" and reference.path.is_file()
        assert resolve_reference(os.path.relpath(folder / "ok.safetensors"), linked).text == "foreign/ok"
    # A file outside of the workspace is named by its absolute path.
    outside = home.parent / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, outside)
    assert resolve_reference("other.safetensors", place).text == str(outside)


def test_missing_snapshot_error_names_the_command(lrbench, snapshot):
    missing = lrbench("transfer", "--snapshot", "hold/stage2", "--task", "tiny-objects")
    assert missing.status == 2
    assert "no snapshot tiny/hold/seed0/stage2 yet" in missing.err
    assert "Create it with `lrbench pretrain tiny --arm hold --seed 0`" in missing.err


def test_missing_prefix_of_a_reference_is_suggested(lrbench, home):
    folder = home / "checkpoints" / "foreign"
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / "dino.safetensors")
    command = ("transfer", "--task", "tiny-objects", "--snapshot")
    assert "Did you mean 'foreign/dino'?" in lrbench(*command, "dino").err
    assert "Did you mean 'timm:resnet18.a1_in1k'?" in lrbench(*command, "resnet18.a1_in1k").err
