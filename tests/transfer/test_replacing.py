"""A result is replaced by one with different settings or images only on request."""

import json

import pytest

from lrbench.data.loading import user_data_identity
from lrbench.transfer.target import open_target
from tests import trees

OWN = 'name = "mine"\n[files]\nlayout = "folders"\nroot = "mine"\n'


@pytest.fixture
def pretrained(lrbench, pretrain_tiny):
    pretrain_tiny("step")
    return lrbench


@pytest.fixture
def probed(pretrained, home):
    assert pretrained("transfer", "--snapshot", "stage1", "--task", "tiny-objects").status == 0
    (path,) = (home / "leaderboard" / "results" / "tiny").glob("*.tiny-objects.probe.*.json")
    return path


def own_images(home, count, kind=0, *, registered=False):
    for label, name in enumerate(("cat", "dog")):
        folder = home / "data" / "mine" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            trees.image(label + kind, number).save(folder / f"{number}.png")
    (home.parent / "tasks" if registered else home).joinpath("mine.toml").write_text(OWN)
    # A different process would have no caches.
    open_target.cache_clear()
    user_data_identity.cache_clear()


def test_other_settings_need_again_to_replace_a_result(probed, pretrained, home):
    before, suite = probed.read_bytes(), (home / "leaderboard" / "results" / "tiny" / "suite.json").read_bytes()
    command = ("transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--set", "probe.strengths=2")
    refused = pretrained(*command)
    assert refused.status == 2 and probed.read_bytes() == before
    assert "probe.strengths was" in refused.err and "and is now 2" in refused.err and "--again" in refused.err
    assert pretrained(*command, "--again").status == 0
    assert json.loads(probed.read_text())["settings"]["probe"]["strengths"] == 2
    # A setting of one command does not change the suite.
    assert (home / "leaderboard" / "results" / "tiny" / "suite.json").read_bytes() == suite
    assert "probe.strengths was 2" in pretrained("transfer", "--snapshot", "stage1", "--task", "tiny-objects").err


def test_setting_that_no_protocol_reads_is_refused(pretrained):
    for change in ("schedule.batch=8", "finetune.updates=5", "knn.neighbours=[1]", "name=other"):
        refused = pretrained("transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--set", change)
        assert refused.status == 2 and f"--set {change}: probe does not read" in refused.err
    assert "it reads validation, fewshot, probe" in (
        pretrained(
            "transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--protocol", "fewshot", "--set", "knn.x=1"
        ).err
    )


def test_changed_user_images_are_detected(pretrained, home):
    own_images(home, 10)
    command = ("transfer", "--snapshot", "stage1", "--task", "mine.toml")
    first = pretrained(*command)
    assert first.status == 0, first.err
    assert "nothing was computed" in pretrained(*command).err
    own_images(home, 12)
    refused = pretrained(*command)
    assert refused.status == 2 and "mine now has different images, classes or splits" in refused.err
    assert pretrained(*command, "--again").status == 0
    assert "nothing was computed" in pretrained(*command).err
    # A result stays valid when its images are missing.
    (home / "data" / "mine").rename(home / "data" / "away")
    user_data_identity.cache_clear()
    assert "nothing was computed" in pretrained(*command).err


def test_changed_image_files_are_detected(pretrained, home):
    own_images(home, 10, registered=True)
    command = ("transfer", "--snapshot", "stage1", "--task", "mine")
    assert pretrained(*command).status == 0
    (path,) = (home / "leaderboard" / "results" / "tiny").glob("*.mine.probe.*.json")
    before = json.loads(path.read_text())["task"]
    own_images(home, 10, kind=3, registered=True)
    words = "mine now has images of the same names but different file sizes"
    refused = pretrained(*command)
    assert refused.status == 2 and words in refused.err
    # Results on different images are not compared.
    others = ("--snapshots", "stage1", "--snapshots", "stage2")
    compared = pretrained("recommend", "--task", "mine", *others)
    assert "1 of 2 snapshots failed. tiny/step/seed0/stage1: " in compared.err and words in compared.err
    narrow = ("--set", 'arms=["step"]', "--set", 'protocols=["probe"]', "--set", "seeds=[0]")
    suite = ("tiny.toml", "--set", 'targets=["mine"]', *narrow)
    assert words in pretrained("plan", *suite).out
    compared = pretrained("recommend", "--task", "mine", *others, "--again")
    assert compared.status == 0 and "failed" not in compared.err
    after = json.loads(path.read_text())["task"]
    assert before["fingerprint"] == after["fingerprint"] and before["content_sha256"] != after["content_sha256"]
    # A copy has different times and the same images.
    own_images(home, 10, kind=3, registered=True)
    assert "nothing was computed" in pretrained(*command).err


def test_tasks_of_the_same_name_do_not_share_results(pretrained, home):
    own_images(home, 10)
    assert pretrained("transfer", "--snapshot", "stage1", "--task", "mine.toml").status == 0
    (home / "twin.toml").write_text(OWN.replace('root = "mine"', 'root = "other"'))
    (home / "data" / "mine").rename(home / "data" / "other")
    refused = pretrained("transfer", "--snapshot", "stage1", "--task", "twin.toml")
    assert refused.status == 2 and "the TOML of mine has changed" in refused.err and "a different name" in refused.err


def test_recommend_does_not_replace_other_settings(pretrained, home):
    own_images(home, 10)
    snapshot = "checkpoints/tiny/step/seed0/stage1.safetensors"
    command = ("transfer", "--snapshot", snapshot, "--task", "mine.toml", "--set", "probe.strengths=2")
    assert pretrained(*command).status == 0
    (path,) = (home / "leaderboard" / "results" / "foreign").glob("*.mine.probe.*.json")
    before = path.read_bytes()
    others = ("--snapshots", snapshot, "--snapshots", "checkpoints/tiny/step/seed0/stage0.safetensors")
    outcome = pretrained("recommend", "--task", "mine.toml", *others)
    assert outcome.status == 2, outcome.err
    assert "1 of 2 snapshots failed." in outcome.err and "probe.strengths was 2" in outcome.err
    assert path.read_bytes() == before


def test_run_reports_what_it_will_replace(lrbench, home):
    narrow = ("--set", 'arms=["step"]', "--set", 'targets=["tiny-objects"]', "--set", 'protocols=["probe"]')
    command = ("tiny.toml", *narrow, "--set", "seeds=[0]")
    assert lrbench("run", *command, "--workers", "1").status == 0
    assert "will be replaced" not in lrbench("run", *command, "--workers", "1").err
    other = (*command, "--set", "probe.strengths=2")
    planned = lrbench("plan", *other)
    assert "computed with different settings or images and will be replaced: probe.strengths was" in planned.out
    cells = json.loads(lrbench("plan", *other, "--json").out)["cells"]
    assert all("probe.strengths was" in cell["replaces"] for cell in cells)
    assert "will be replaced" in lrbench("run", *other, "--workers", "1").err
