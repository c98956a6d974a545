import json

from tests import trees


def test_bad_images_are_listed_with_the_reason_and_fail(lrbench, home):
    trees.cub200(home / "data")
    folder = home / "data" / "CUB_200_2011" / "images"
    good = lrbench("data", "verify", "cub200", "--partial", "--json")
    assert good.status == 0
    record = json.loads(good.out)
    assert record["counts"] == {"train": 18, "test": 12} and record["partial"] and record["bad"] == []
    assert record["pinned"] == {"classes": 200, "counts": {"train": 5994, "test": 5794}}
    assert set(record["by_class"]["train"].values()) == {6} and record["by_class"]["test"]["002.Laysan_Albatross"] == 4
    broken = sorted(folder.glob("*/*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    bad = lrbench("data", "verify", "cub200", "--partial")
    assert bad.status == 1
    assert broken.name in bad.out and "1 images of cub200 cannot be read" in bad.err


def test_every_split_is_opened_and_each_bad_image_has_its_reason(lrbench, home):
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
    bad = {(each["split"], each["name"].rpartition("/")[2]): each["reason"] for each in json.loads(outcome.out)["bad"]}
    assert set(bad) == {("train", "dotted_train0.jpg"), ("val", "dotted_val1.jpg"), ("test", "dotted_test2.jpg")}
    assert bad["train", "dotted_train0.jpg"] == "the file is empty"
    assert bad["val", "dotted_val1.jpg"] == "it is a web page"
    assert "runcated" in bad["test", "dotted_test2.jpg"]


def test_half_copied_data_is_refused_without_partial(lrbench, home):
    trees.cub200(home / "data")
    outcome = lrbench("data", "verify", "cub200")
    assert outcome.status == 2
    assert "18 train images, and the whole data set 5,994" in outcome.err


def test_prepare_says_where_the_pixels_are(lrbench, home):
    outcome = lrbench("data", "prepare", "tiny-objects", "--suite", "tiny.toml")
    assert outcome.status == 0
    assert "48 images at 32 px" in outcome.err
    assert list((home / "cache" / "pixels").glob("tiny-objects-*/shard-00000.arrow"))
