"""Unused images, errors that name their cause first, and names in other Unicode forms."""

import json
import shutil
import unicodedata

import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import describe_unused, load_task_data
from lrbench.data.split_lists import write_drawn_split
from tests import trees
from tests.data.helpers import MINE, counts

SPLIT = 'name = "mine"\n{}\n[files]\nlayout = "split-folders"\nroot = "mine"\n'
CAFE, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def split_folders(home, classes=("c0", "c1"), pins=""):
    """Write three training and two test images of each class."""
    for label, name in enumerate(classes):
        for split, count in (("train", 3), ("test", 2)):
            for number in range(count):
                trees.save(
                    home / "mine" / split / name / f"{number}.png",
                    trees.image(label, number + 9 * (split == "test")),
                    "PNG",
                )
    (home / "mine.toml").write_text(SPLIT.format(pins))
    return home / "mine"


def read(home, **options):
    return load_task_data(load_task("mine.toml"), [home], **options)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_next_to_class_folders_are_reported(home, lrbench, split):
    folder = split_folders(home) / split
    for number in range(20):
        trees.save(folder / f"beside{number}.png", trees.image(0, 100 + number), "PNG")
    message = f"it has 20 images next to the class folders in {folder} ('beside0.png', "
    with pytest.raises(InputError) as refused:
        read(home)
    assert message in str(refused.value) and "--partial" in str(refused.value)
    for command in (("data", "prepare"), ("transfer", "--snapshot", "timm:test_resnet", "--protocol", "knn", "--task")):
        done = lrbench(*command, "mine.toml", "--data-root", home)
        assert done.status == 2 and message in done.err
    verified = lrbench("data", "verify", "mine.toml", "--data-root", home)
    assert verified.status == 2 and f"incomplete: {message}" in verified.out


def test_images_next_to_drawn_class_folders_are_reported(home):
    trees.mine(home / "mine")
    (home / "mine.toml").write_text(MINE)
    trees.save(home / "mine" / "x.png", trees.image(0, 100), "PNG")
    with pytest.raises(InputError, match=r"1 image next to the class folders in .*mine \('x\.png'\)"):
        read(home)


def test_unsorted_images_are_noted_if_counts_are_complete(home):
    folder = split_folders(home, pins="counts = { train = 6, test = 4 }")
    trees.save(folder / "test" / "x.png", trees.image(0, 100), "PNG")
    data = read(home)
    assert not data.partial and data.unused == ("test/x.png",)
    assert "not used: 1 files or folders in or next to the class folders of mine ('test/x.png')" in describe_unused(
        data
    )


def test_unlisted_images_are_noted(home):
    split_folders(home)
    lists = {"train": "train/c0/0.png\ntrain/c1/0.png\n", "test": "test/c0/0.png\ntest/c1/0.png\n"}
    for split, text in lists.items():
        (home / "mine" / f"{split}.txt").write_text(text)
    toml = 'name = "mine"\n{}\n[files]\nlayout = "lists"\nroot = "mine"\ntrain = "train.txt"\ntest = "test.txt"\n'
    (home / "mine.toml").write_text(toml.format(""))
    data = read(home)
    assert "train/c0/1.png" in data.unused and len(data.unused) == 6
    assert "not used: 6 images in the folders of mine that its lists do not name ('test/c0/1.png'" in describe_unused(
        data
    )
    (home / "mine.toml").write_text(toml.format("counts = { train = 2, test = 2 }"))
    assert read(home).unused == ()


def test_missing_classes_precede_their_consequence(home):
    folder = split_folders(home, ("c0", "c1", "c2"), "classes = 3\ncounts = { train = 9, test = 6 }")
    for split in ("train", "test"):
        for name in ("c1", "c2"):
            shutil.rmtree(folder / split / name)
    with pytest.raises(InputError) as refused:
        read(home, partial=True)
    message = str(refused.value)
    assert "is incomplete: it has 1 classes, expected 3" in message
    assert message.index("is incomplete") < message.index("has only one class, 'c0'")


def test_truncated_list_precedes_its_consequence(home):
    split_folders(home)
    (home / "mine" / "train.txt").write_text("train/c0/0.png\ntrain/c0/0.png\n")
    (home / "mine" / "test.txt").write_text("test/c0/0.png\n")
    (home / "mine.toml").write_text(
        'name = "mine"\n[files]\nlayout = "lists"\nroot = "mine"\ntrain = "train.txt"\ntest = "test.txt"\n'
        'hashes = { train = "md5:00000000000000000000000000000000" }\n'
    )
    with pytest.raises(
        InputError, match=r"train\.txt is not the list that the task pins .* This may have caused: .* twice"
    ):
        read(home)


def test_changed_unpacked_list_comes_first(home):
    trees.cub200(home / "data")
    folder = home / "data" / "CUB_200_2011"
    lists = {"classes.txt": "0" * 64}
    (folder / ".lrbench-fetched.json").write_text(json.dumps({"archive": "CUB.tgz", "images": 30, "lists": lists}))
    (folder / "classes.txt").write_text("1 x\n")
    with pytest.raises(
        InputError, match=r"classes\.txt is not the list that was unpacked from CUB\.tgz .*has class ids that"
    ):
        load_task_data(load_task("cub200"), [home / "data"])


@pytest.mark.parametrize("layout", ["folders", "split-folders"])
def test_images_one_folder_too_deep_are_reported(home, layout):
    """Tiny-ImageNet has `train/<class>/images/x.JPEG`."""
    folder = split_folders(home)
    for klass in (*(folder / "train").iterdir(), *(folder / "test").iterdir()):
        (klass / "images").mkdir()
        for picture in klass.glob("*.png"):
            picture.rename(klass / "images" / picture.name)
        (klass / "boxes.txt").write_text("")
    if layout == "folders":
        (home / "mine.toml").write_text(MINE.replace('root = "mine"', 'root = "mine/train"'))
    with pytest.raises(InputError, match=r"one folder too deep.*c0/images") as refused:
        read(home)
    assert "Copy the class again" not in str(refused.value)


def test_test_images_in_one_folder_are_reported(home):
    """Tiny-ImageNet has `val/images`."""
    folder = split_folders(home)
    for klass in list((folder / "test").iterdir()):
        for picture in klass.iterdir():
            trees.save(folder / "test" / "images" / f"{klass.name}-{picture.name}", trees.image(0, 0), "PNG")
        shutil.rmtree(klass)
    with pytest.raises(
        InputError, match=r"test of task mine has all test images in one folder, 'images', which is not a class"
    ):
        read(home)


def test_unicode_forms_of_a_class_are_one_class(home):
    split_folders(home, (CAFE, "other"))
    (home / "mine" / "test" / CAFE).rename(home / "mine" / "test" / DECOMPOSED)
    data = read(home)
    assert counts(data, "test") == {CAFE: 2, "other": 2} and data.classes == (CAFE, "other")
    assert data.splits["test"].images.read(0).shape == (48, 64, 3)


def test_two_folders_of_one_class_are_rejected(home):
    split_folders(home, (CAFE, DECOMPOSED, "other"))
    with pytest.raises(InputError, match=r"has two class folders named .*'cafe\\u0301' and 'caf\\xe9'"):
        read(home)


@pytest.mark.parametrize("layout", ["lists", "table", "indexed"])
def test_listed_images_are_found_in_other_unicode_forms(home, layout):
    """Files may differ in Unicode form and case of the ending; ids are the names in the list."""
    folder = split_folders(home, (DECOMPOSED, "other"))
    for picture in (folder / "test").rglob("*.png"):
        picture.rename(picture.with_suffix(".PNG"))
    named = {
        split: [f"{split}/{name}/{n}.png" for name in (CAFE, "other") for n in range(2)] for split in ("train", "test")
    }
    files = {
        "lists": 'layout = "lists"\ntrain = "train.csv"\ntest = "test.csv"',
        "table": 'layout = "table"\ntrain = "train.csv"\ntest = "test.csv"',
        "indexed": 'layout = "indexed"\nfolder = "."',
    }[layout]
    for split, names in named.items():
        rows = [f"{name},{name.split('/')[1]}" for name in names]
        (folder / f"{split}.csv").write_text("\n".join(names if layout == "lists" else ["image,label", *rows]))
    every = [*named["train"], *named["test"]]
    for file, value in {
        "images": lambda n, name: name,
        "image_class_labels": lambda n, name: name.count("other"),
        "train_test_split": lambda n, name: int(name.startswith("train")),
    }.items():
        (folder / f"{file}.txt").write_text("".join(f"{n} {value(n, name)}\n" for n, name in enumerate(every)))
    (folder / "classes.txt").write_text(f"0 {CAFE}\n1 other\n")
    (home / "mine.toml").write_text(f'name = "mine"\n[files]\nroot = "mine"\n{files}\n')
    data = read(home)
    assert data.classes == (CAFE, "other") and counts(data, "test") == {CAFE: 2, "other": 2}
    assert [unicodedata.normalize("NFC", name) for name in data.splits["test"].ids] == named["test"]
    assert [data.splits["test"].images.read(index).shape for index in range(4)] == [(48, 64, 3)] * 4


def test_ambiguous_file_names_are_not_guessed(home):
    folder = split_folders(home)
    shutil.copy(folder / "test" / "c0" / "0.png", folder / "test" / "c0" / "0.PNG")
    (folder / "test" / "c0" / "0.png").rename(folder / "test" / "c0" / "0.Png")
    (folder / "train.txt").write_text("train/c0/0.png\ntrain/c1/0.png\n")
    (folder / "test.txt").write_text("test/c0/0.png\ntest/c1/0.png\n")
    (home / "mine.toml").write_text(
        'name = "mine"\n[files]\nlayout = "lists"\nroot = "mine"\ntrain = "train.txt"\ntest = "test.txt"\n'
    )
    with pytest.raises(
        InputError, match=r"1 class folder in .* without any listed image|1 of 2 listed test images are missing"
    ):
        read(home)


def test_truncated_drawn_list_is_written_again(home):
    trees.mine(home / "mine")
    (home / "mine.toml").write_text(MINE)
    data = read(home)
    write_drawn_split(home / "splits", data)
    (path,) = (home / "splits").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    write_drawn_split(home / "splits", data)
    assert path.read_bytes() == whole
