import json

import pytest
import torch

from lrbench.config.protocols import Probe
from lrbench.core.errors import FailureError
from lrbench.core.workspace import Workspace
from lrbench.store.cells import TransferSettings
from lrbench.store.reference_lists import resolve_references
from tests import trees

pytestmark = pytest.mark.usefixtures("small_probe_grid")


def test_recommend_ranks_all_snapshots_of_the_last_suite(lrbench, pretrain_tiny, home):
    pretrain_tiny()
    done = lrbench("recommend", "--task", "tiny-objects", "--top", "3", "--json")
    assert done.status == 0, done.err
    ranked = json.loads(done.out)["ranked"]
    probed = [entry for entry in ranked if entry["validation"] is not None]
    assert len(ranked) == 9 and len(probed) == 3 and ranked[:3] == probed
    scores = [row["score"] for row in probed]
    assert scores == sorted(scores, reverse=True)
    # The probed snapshots are the best by LogME.
    others = [entry["logme"] for entry in ranked[3:]]
    assert min(entry["logme"] for entry in probed) >= max(others) and others == sorted(others, reverse=True)
    low, high = probed[0]["test_top1_interval"]
    assert low < probed[0]["metrics"]["top1"] < high
    again = lrbench("recommend", "--task", "tiny-objects", "--top", "3")
    assert again.status == 0 and ranked[0]["snapshot"] in again.out.split("images do not affect")[1]
    assert "not pretraining again." in again.out and "5-fold cross-validation on 48 training images" in again.out


def test_recommend_extracts_features_once_per_snapshot(lrbench, pretrain_tiny, home, monkeypatch):
    from lrbench.transfer import features

    pretrain_tiny()
    extract, extracted = features.extract, []
    monkeypatch.setattr(features, "extract", lambda *given: extracted.append(1) or extract(*given))
    done = lrbench("recommend", "--task", "tiny-objects", "--snapshots", "stage1", "--snapshots", "stage2")
    assert done.status == 0 and len(extracted) == 2


def test_broken_file_in_a_folder_is_left_out(lrbench, pretrain_tiny, home):
    pretrain_tiny()
    folder = home / "mine"
    folder.mkdir()
    for stage in (1, 3):
        source = home / "checkpoints" / "tiny" / "step" / "seed0" / f"stage{stage}.safetensors"
        (folder / f"stage{stage}.safetensors").write_bytes(source.read_bytes())
        (folder / f"stage{stage}.bn.safetensors").write_bytes(
            source.with_suffix("").with_suffix(".bn.safetensors").read_bytes()
        )
    (folder / "broken.safetensors").write_bytes(b"no tensors")
    (folder / "other.pth").write_bytes(b"weights of another form")
    done = lrbench("recommend", "--task", "tiny-indoor", "--snapshots", folder)
    assert done.status == 2
    assert "skipped: " in done.err and "with `lrbench snapshots add FILE" in done.err
    assert "lrbench: 1 of 3 snapshots failed. mine/broken.safetensors: " in done.err.splitlines()[-1]
    table = done.out.split("Ranked by")[0]
    assert len([line for line in table.splitlines() if ".safetensors " in line]) == 3


def test_random_weights_cannot_be_recommended(lrbench, home):
    for label in range(3):
        for number in range(12):
            trees.save(home / "data" / "mine" / f"c{label}" / f"{number}.png", trees.image(label, number), "PNG")
    (home / "my.toml").write_text('name = "mine"\n[files]\nlayout = "folders"\nroot = "mine"\n')
    random = lrbench("recommend", "--task", "my.toml", "--snapshots", "timm:test_resnet")
    assert random.status == 2 and "1 of 1 snapshots failed. timm:test_resnet: its weights are random" in random.err
    both = lrbench("recommend", "--task", "my.toml", "--snapshots", "timm:test_resnet", "--snapshots", "timm:resnet14t")
    assert both.err.count("its weights are random") == 1 and "timm:test_resnet, timm:resnet14t: its weights" in both.err
    empty = home / "nothing"
    empty.mkdir()
    wrong = lrbench("recommend", "--task", "my.toml", "--snapshots", empty)
    assert wrong.status == 2 and "holds no .safetensors file" in wrong.err


def test_snapshot_named_twice_is_compared_once(lrbench, pretrain_tiny, home):
    pretrain_tiny()
    workspace = Workspace(root=home)
    assert len(resolve_references(["stage1", "step/stage1", "tiny/step/seed0/stage1", "stage2"], workspace)) == 2


def test_recommend_takes_a_suite_and_a_seed(lrbench, pretrain_tiny, home):
    pretrain_tiny()
    (home / "later.toml").write_text((home / "tiny.toml").read_text().replace('name = "tiny"', 'name = "later"'))
    assert "no snapshots of suite later" in lrbench("recommend", "--task", "tiny-objects", "--suite", "later.toml").err
    assert lrbench("pretrain", "later.toml", "--arm", "step", "--seed", "0", "--workers", "1").status == 0
    done = lrbench("recommend", "--task", "tiny-objects", "--suite", "tiny", "--seed", "4", "--top", "1", "--json")
    assert done.status == 0, done.err
    assert {entry["snapshot"].partition("/")[0] for entry in json.loads(done.out)["ranked"]} == {"tiny"}
    kept = [path.name for path in (home / "leaderboard" / "results" / "tiny").glob("*.tiny-objects.*.json")]
    # LogME of eight networks (a one-epoch stage is its own average), and the probe of the best.
    assert len(kept) == 9 and all(name.endswith(".seed4.json") for name in kept)


def test_copies_of_a_snapshot_are_compared_once(lrbench, home):
    from lrbench.models.networks import create_model

    for seed, names in ((1, ("a", "copy-of-a", "again-a")), (2, ("b",))):
        weights = create_model("test_resnet", {}, classes=4, seed=seed).state_dict()
        for name in names:
            torch.save(weights, home / f"{name}.pth")
            assert lrbench("snapshots", "add", f"{name}.pth", "--architecture", "test_resnet").status == 0
    command = ("recommend", "--task", "tiny-objects", "--snapshots", "checkpoints/foreign", "--top", "2")
    done = lrbench(*command, "--json")
    # A network is computed and counted once, under its first name.
    assert done.status == 0 and "2 snapshots (4 names), of which the 2 best by LogME are probed" in done.err
    assert "[2/2] foreign/b" in done.err and "foreign/copy-of-a" not in done.err
    kept = home.glob("leaderboard/results/foreign/*.probe.*.json")
    assert sorted(path.name[: len("foreign-a")] for path in kept) == ["foreign-a", "foreign-b"]
    report = json.loads(done.out)
    assert all(entry["validation"] is not None for entry in report["ranked"])
    first, against = report["ranked"][0]["snapshot"], report["lead"]["against"]
    assert (first == "foreign/b") != (against == "foreign/b")
    text = lrbench(*command).out
    assert "are the same weights)" in text or against in text


def test_snapshots_of_two_suites_have_separate_results(lrbench, home):
    """Both are `step/seed0/stage1` of their suites, and are compared as foreign snapshots."""
    for name in ("tiny", "other"):
        options = ["--set", f"name={name}", "--set", "targets=['tiny-indoor']", "--seed", "0", "--arm", "step"]
        changed = ["--set", "schedule.rates=[0.05, 0.01, 0.001]"] if name == "other" else []
        assert lrbench("pretrain", "tiny.toml", *options, *changed, "--workers", "1").status == 0
    both = ["--snapshots", "tiny/stage1", "--snapshots", "other/stage1"]
    first = lrbench("recommend", "--task", "tiny-objects", *both, "--json")
    assert first.status == 0, first.err
    files = sorted((home / "leaderboard" / "results" / "foreign").glob("*.json"))
    assert len([path for path in files if ".probe." in path.name]) == 2
    assert not any(path.name.startswith("step-seed0") for path in files)
    before = {path: path.stat().st_mtime_ns for path in files}
    again = lrbench("recommend", "--task", "tiny-objects", *both, "--json")
    assert again.status == 0 and json.loads(again.out)["ranked"] == json.loads(first.out)["ranked"]
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_result_of_a_copied_snapshot_is_found_again(lrbench, pretrain_tiny, home):
    """The header of a copied file still names its suite."""
    pretrain_tiny("step")
    folder = home / "checkpoints" / "foreign"
    folder.mkdir()
    for stage, name in ((1, "one"), (2, "two")):
        source = home / "checkpoints" / "tiny" / "step" / "seed0"
        for ending in (".safetensors", ".bn.safetensors"):
            (folder / f"{name}{ending}").write_bytes((source / f"stage{stage}{ending}").read_bytes())
        assert lrbench("transfer", "--snapshot", f"foreign/{name}", "--task", "tiny-objects").status == 0
    again = lrbench("transfer", "--snapshot", "foreign/one", "--task", "tiny-objects")
    assert "nothing was computed" in again.err
    records = [json.loads(path.read_text()) for path in (home / "leaderboard" / "results" / "foreign").glob("*.json")]
    assert len(records) == 2 and all(record["snapshot"]["arm"] is None for record in records)


def test_failed_probe_is_replaced_by_the_next(lrbench, home, monkeypatch):
    from lrbench.models.networks import create_model
    from lrbench.transfer.cell import Transfer

    for seed in (1, 2, 3):
        torch.save(create_model("test_resnet", {}, classes=4, seed=seed).state_dict(), home / f"r{seed}.pth")
    assert lrbench("snapshots", "add", "r1.pth", "r2.pth", "r3.pth", "--architecture", "test_resnet").status == 0
    run, probes = Transfer.run, []

    def failing_at_first(self, cell, **options):
        if cell.protocol == "probe":
            probes.append(cell)
            if len(probes) == 1:
                raise FailureError("its probe failed.")
        return run(self, cell, **options)

    monkeypatch.setattr(Transfer, "run", failing_at_first)
    done = lrbench("recommend", "--task", "tiny-objects", "--snapshots", "checkpoints/foreign", "--top", "1", "--json")
    assert done.status == 1, done.err
    ranked = json.loads(done.out)["ranked"]
    by_logme = sorted(ranked, key=lambda entry: entry["logme"], reverse=True)
    assert len(probes) == 2 and [entry["validation"] is not None for entry in by_logme] == [False, True, False]
    assert ranked[0] == by_logme[1] and ranked[-1]["problem"] == "its probe failed."
    assert f"1 of 3 snapshots failed. {by_logme[0]['snapshot']}: its probe failed." in done.err


def taken_in(lrbench, home):
    """Two untrained networks, `foreign/r1` and `foreign/r2`."""
    from lrbench.models.networks import create_model

    for seed in (1, 2):
        torch.save(create_model("test_resnet", {}, classes=4, seed=seed).state_dict(), home / f"r{seed}.pth")
    add = ("snapshots", "add", "r1.pth", "r2.pth", "--architecture", "test_resnet", "--input", "size=32")
    assert lrbench(*add).status == 0


def test_foreign_names_all_imported_snapshots(lrbench, home, monkeypatch):
    taken_in(lrbench, home)
    elsewhere = home.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    workspace = Workspace(root=home)
    names = ["foreign/r1", "foreign/r2"]
    for text in ("foreign", "foreign/", "checkpoints/foreign"):
        assert [reference.text for reference in resolve_references([text], workspace).values()] == names
    assert resolve_references(["foreign/r2"], workspace)["foreign/r2"].text == "foreign/r2"


def test_small_validation_split_means_cross_validation(lrbench, home, monkeypatch):
    """tiny-objects has 48 training images, eight of which would be held out."""
    from lrbench.transfer import features

    taken_in(lrbench, home)
    monkeypatch.setattr(
        "lrbench.transfer.recommend.TransferSettings", lambda: TransferSettings(probe=Probe(strengths=2))
    )
    extract, extracted = features.extract, []
    monkeypatch.setattr(features, "extract", lambda *given: extracted.append(1) or extract(*given))
    command = ("recommend", "--task", "tiny-objects", "--snapshots", "foreign", "--json")
    first = json.loads(lrbench(*command).out)
    assert (
        first["ranked_by"] == {"protocol": "probe", "images": 48, "validation": 8, "folds": 5} and len(extracted) == 2
    )
    assert all(round(row["score"] * 48, 6).is_integer() for row in first["ranked"])
    kept = sorted((home / "cache" / "recommend").iterdir())
    assert len(kept) == 2 and json.loads(lrbench(*command).out) == first and len(extracted) == 2
    # A damaged score is computed again.
    kept[0].write_text(json.dumps({**json.loads(kept[0].read_text()), "score": 0.5}))
    again = json.loads(lrbench(*command).out)
    assert [row["score"] for row in again["ranked"]] == [row["score"] for row in first["ranked"]] and len(
        extracted
    ) == 3


def test_large_validation_split_ranks_alone(lrbench, home, monkeypatch):
    taken_in(lrbench, home)
    monkeypatch.setattr(
        "lrbench.transfer.recommend.TransferSettings", lambda: TransferSettings(probe=Probe(strengths=2))
    )
    monkeypatch.setattr("lrbench.transfer.recommendation.LEAST_VALIDATION", 8)
    done = lrbench("recommend", "--task", "tiny-objects", "--snapshots", "foreign", "--json")
    ranking = json.loads(done.out)
    assert ranking["ranked_by"] == {"protocol": "probe", "images": 8, "validation": 8, "folds": None}
    assert all(row["score"] == row["validation"] for row in ranking["ranked"])
    assert not (home / "cache" / "recommend").exists()
