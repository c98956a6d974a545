import json

import pytest

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.data import verify as verify_module
from lrbench.data.loading import load_task_data
from lrbench.transfer.target import open_target
from tests import trees


def test_verify_lists_bad_images_and_fails(lrbench, home):
    trees.cub200(home / "data")
    folder = home / "data" / "CUB_200_2011" / "images"
    good = lrbench("data", "verify", "cub200", "--partial", "--json")
    assert good.status == 0
    record = json.loads(good.out)
    assert record["counts"] == {"train": 18, "test": 12} and record["partial"] and record["bad"] == []
    assert record["pinned"] == {
        "classes": 200,
        "counts": {"train": 5994, "test": 5794},
        "least": {"train": 29, "test": 11},
        "most": {"train": 30, "test": 30},
    }
    assert set(record["by_class"]["train"].values()) == {6} and record["by_class"]["test"]["002.Laysan_Albatross"] == 4
    broken = sorted(folder.glob("*/*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    bad = lrbench("data", "verify", "cub200", "--partial")
    assert bad.status == 1
    assert broken.name in bad.out and "1 images of cub200 cannot be read" in bad.err
    # Identifies the splits across machines.
    assert f"sha256 {record['fingerprint']}" in bad.out


def test_verify_opens_images_of_every_split(lrbench, home):
    trees.dtd(home / "data")
    folder = home / "data" / "dtd" / "dtd" / "images" / "dotted"
    (home / "mine.toml").write_text(
        'name = "mine"\n[files]\nlayout = "lists"\nroot = "dtd/dtd"\nimages = "images"\n'
        'train = "labels/train1.txt"\nval = "labels/val1.txt"\ntest = "labels/test1.txt"\n'
    )
    (folder / "dotted_train0.jpg").write_bytes(b"")
    (folder / "dotted_val1.jpg").write_bytes(b"<!DOCTYPE html>")
    (folder / "dotted_test2.jpg").write_bytes((folder / "dotted_test1.jpg").read_bytes()[:200])
    outcome = lrbench("data", "verify", "mine.toml", "--json")
    assert outcome.status == 1
    bad = {
        (image["split"], image["name"].rpartition("/")[2]): image["reason"] for image in json.loads(outcome.out)["bad"]
    }
    assert set(bad) == {("train", "dotted_train0.jpg"), ("val", "dotted_val1.jpg"), ("test", "dotted_test2.jpg")}
    assert bad["train", "dotted_train0.jpg"] == "the file is empty"
    assert bad["val", "dotted_val1.jpg"] == "it is a web page"
    assert "runcated" in bad["test", "dotted_test2.jpg"]


def test_verify_refuses_incomplete_data_without_partial(lrbench, home):
    trees.cub200(home / "data")
    outcome = lrbench("data", "verify", "cub200")
    assert outcome.status == 2
    assert "18 train images, expected 5,994" in outcome.err
    # Existing images are opened nevertheless.
    sorted((home / "data" / "CUB_200_2011" / "images").rglob("*.jpg"))[0].write_bytes(b"")
    outcome = lrbench("data", "verify", "cub200", "--json")
    assert outcome.status == 1 and len(json.loads(outcome.out)["bad"]) == 1 and json.loads(outcome.out)["partial"]


def test_verify_uses_all_cores_and_reports_progress(home, monkeypatch):
    workers, reports = [], []
    monkeypatch.setattr(verify_module, "available_cores", lambda: 3)
    pool = verify_module.ThreadPoolExecutor
    monkeypatch.setattr(
        verify_module, "ThreadPoolExecutor", lambda max_workers: workers.append(max_workers) or pool(max_workers)
    )
    control = Control()
    control.progress = lambda done, total, unit: reports.append((done, total, unit))
    data = load_task_data(load_task("dtd"), [trees.dtd(home / "data")], partial=True)
    assert not verify_module.verify(data, control).bad
    assert workers == [3] and reports[-1] == (18, 18, "images")


def test_prepare_prints_the_cache_folder(lrbench, home):
    outcome = lrbench("data", "prepare", "tiny-objects", "--suite", "tiny.toml")
    assert outcome.status == 0
    assert "48 images at 32 px" in outcome.err
    # Training and test images.
    assert len(list((home / "cache" / "pixels").glob("tiny-objects-*/shard-00000.arrow"))) == 2


def test_test_images_in_training_are_reported(lrbench, home):
    folder = home / "data" / "mine"
    for number in range(4):
        for split, label in (("train", 0), ("train", 1), ("test", 0), ("test", 1)):
            picture = trees.image(label, number + 10 * (split == "test"))
            trees.save(folder / split / f"c{label}" / f"{number}.png", picture, "PNG")
    (home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "split-folders"\nroot = "mine"\ntest = "test"\n')
    clean = lrbench("data", "verify", "mine.toml", "--json")
    assert clean.status == 0 and json.loads(clean.out)["repeated"] == [] and "warning" not in clean.err
    # The same pixels in a different format, and a copy in a different class.
    trees.save(folder / "test" / "c0" / "copy.bmp", trees.image(0, 2), "BMP")
    (folder / "test" / "c1" / "odd.png").write_bytes((folder / "train" / "c0" / "1.png").read_bytes())
    outcome = lrbench("data", "verify", "mine.toml")
    assert outcome.status == 0
    assert "test image test/c0/copy.bmp equals train image train/c0/2.png, pixel by pixel\n" in outcome.out
    assert "test/c1/odd.png equals train image train/c0/1.png, pixel by pixel, of another class" in outcome.out
    assert "2 of 10 test images of mine are also training images" in outcome.err
    assert json.loads(lrbench("data", "verify", "mine.toml", "--json").out)["repeated"] == [
        {"test": "test/c0/copy.bmp", "split": "train", "other": "train/c0/2.png", "same_class": True},
        {"test": "test/c1/odd.png", "split": "train", "other": "train/c0/1.png", "same_class": False},
    ]


def test_unused_files_in_class_folders_are_reported(lrbench, home):
    for split in ("train", "test"):
        for label in range(2):
            for number in range(2):
                trees.save(
                    home / "data" / "mine" / split / f"c{label}" / f"{number}.png", trees.image(label, number), "PNG"
                )
    (home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "split-folders"\nroot = "mine"\ntest = "test"\n')
    assert "not used" not in lrbench("data", "verify", "mine.toml").err
    folder = home / "data" / "mine" / "train" / "c0"
    (folder / "photo.heic").write_bytes(b"an image that lrbench does not read")
    (folder / ".DS_Store").write_bytes(b"litter")
    trees.save(folder / "more" / "2.png", trees.image(0, 2), "PNG")
    for verb in ("verify", "prepare"):
        outcome = lrbench("data", verb, "mine.toml")
        assert outcome.status == 0
        assert (
            "not used: 2 files or folders in the class folders of mine ('train/c0/more/', 'train/c0/photo.heic')"
            in outcome.err
        )
    transfer = ("transfer", "--snapshot", "timm:resnet10t", "--protocol", "knn", "--task", "mine.toml", "--again")
    assert lrbench(*transfer).err.count("not used: 2 files or folders in the class folders of mine") == 1
    # With pinned counts the data is known to be complete, and unused files are not reported.
    toml = (home / "mine.toml").read_text()
    (home / "mine.toml").write_text("counts = { train = 4, test = 4 }\n" + toml)
    open_target.cache_clear()
    pinned = lrbench(*transfer)
    assert pinned.status == 0 and "not used" not in pinned.err
    (home / "mine.toml").write_text(toml)
    record = json.loads(lrbench("data", "verify", "mine.toml", "--json").out)
    assert record["unused"] == ["train/c0/more/", "train/c0/photo.heic"] and record["counts"]["train"] == 4
    (home / "whole.toml").write_text(
        'name = "whole"\n[files]\nlayout = "folders"\nroot = "mine/train"\nsplit = { kind = "drawn", test = 0.5 }\n'
    )
    assert json.loads(lrbench("data", "verify", "whole.toml", "--json").out)["unused"] == ["c0/more/", "c0/photo.heic"]


def test_prepare_for_a_snapshot_is_reused_by_transfer(lrbench, monkeypatch):
    from lrbench.data.pixel_cache import PixelCache

    done = lrbench("data", "prepare", "tiny-objects", "--snapshot", "timm:resnet10t")
    assert done.status == 0 and "tiny-objects test: 40 images at 176 px are in" in done.err
    with monkeypatch.context() as patched:
        patched.setattr(PixelCache, "_write", lambda *given, **named: pytest.fail("images are prepared again"))
        again = lrbench("transfer", "--snapshot", "timm:resnet10t", "--task", "tiny-objects", "--protocol", "knn")
    assert again.status == 0
    # The input size is read from timm without downloading weights.
    tagged = lrbench("data", "prepare", "tiny-objects", "--snapshot", "timm:resnet18.a1_in1k")
    assert tagged.status == 0 and "at 224 px" in tagged.err
    mistyped = lrbench("data", "prepare", "tiny-objects", "--snapshot", "timm:resnet18.a1_in9k")
    assert mistyped.status == 2 and "no weights 'resnet18.a1_in9k'" in mistyped.err
