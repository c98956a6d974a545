"""A task with one training image of each class, which leaves none to select on."""

import json

import pytest

from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.suites import write_effective
from lrbench.transfer import cell, features
from tests import trees
from tests.helpers import one_paragraph
from tests.leaderboard.fake import rewrite


@pytest.fixture
def lonely(home, tiny, place):
    """A task of three classes with one training image each, and snapshots of three stages."""
    for label in range(3):
        for split, numbers in (("train", range(1)), ("test", range(1, 5))):
            for number in numbers:
                path = home / "data" / "lonely" / split / f"c{label}" / f"{number}.png"
                trees.save(path, trees.image(label, number), "PNG")
    (home / "lonely.toml").write_text('name = "lonely"\n[files]\nlayout = "split-folders"\nroot = "lonely"\n')
    for stage in (0, 1, 2):
        make_snapshot(tiny, SnapshotKey(arm="step", seed=0, stage=stage), place, Control())
    write_effective(place.workspace, tiny)
    return "lonely.toml"


def test_selection_without_validation_images_is_refused(lonely, lrbench, home, monkeypatch):
    for module, name in ((features, "extract"), (cell, "Finetuning")):
        monkeypatch.setattr(module, name, lambda *given, **named: pytest.fail("work was begun"))
    for protocol in ("probe", "knn", "depth", "concat", "finetune"):
        refused = lrbench("transfer", "--task", lonely, "--snapshot", "stage2", "--protocol", protocol)
        assert refused.status == 2 and one_paragraph(refused.err), refused.err
        assert "lonely.toml has one training image of each class" in refused.err and "--protocol fewshot" in refused.err
        assert f"hyper-parameters of {protocol}" in refused.err
    assert not list(home.glob("leaderboard/results/*/*.lonely.*"))


@pytest.mark.parametrize("protocol", ["fewshot", "logme"])
def test_protocol_without_selection_needs_no_validation(lonely, lrbench, protocol):
    done = lrbench("transfer", "--task", lonely, "--snapshot", "stage2", "--protocol", protocol, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["train_count"] == 3


def test_recommend_reports_what_it_cannot_rank(lonely, lrbench, home):
    refused = lrbench("recommend", "--task", lonely, "--snapshots", "stage1", "--snapshots", "stage2")
    assert refused.status == 2 and "2 of 2 snapshots failed. " in refused.err, refused.err
    assert "lonely.toml has one training image" in refused.err
    assert "TypeError" not in refused.err


def test_cross_validation_needs_no_validation_scores(lonely, lrbench, home):
    """Results without validation images have no scores."""
    command = ("recommend", "--task", "tiny-objects", "--snapshots", "stage1", "--snapshots", "stage2")
    assert lrbench(*command).status == 0
    (path,) = home.glob("leaderboard/results/tiny/step-seed0-stage1.tiny-objects.probe.*.json")

    def unscored(record):
        for candidate in record["selection"]["candidates"]:
            candidate["score"] = None

    rewrite(path, unscored)
    done = lrbench(*command)
    assert done.status == 0, done.err
    assert "failed" not in done.err and "cross-validated" in done.out


def test_groups_that_cannot_be_divided_are_named(lrbench, home, snapshot):
    lines = ["image,label,scene"]
    for label in range(2):
        for scene in range(2):
            trees.save(home / "data" / "scenes" / f"{label}-{scene}.png", trees.image(label, scene), "PNG")
            lines.append(f"{label}-{scene}.png,c{label},{label}-{scene}")
    (home / "data" / "scenes.csv").write_text("\n".join(lines) + "\n")
    (home / "scenes.toml").write_text(
        'name = "scenes"\n[files]\nlayout = "table"\nfile = "scenes.csv"\nimages = "scenes"\n'
        'split = { kind = "drawn", test = 0.5, group = { column = "scene" } }\n'
    )
    refused = lrbench("transfer", "--task", "scenes.toml", "--snapshot", "stage0", "--protocol", "knn")
    assert refused.status == 2 and "scenes.toml has no group of training images whose classes" in refused.err, (
        refused.err
    )
