"""The layouts `lists` and `indexed`: lists of images, and text files joined on an image id."""

import shutil

import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.helpers import counts, load


def test_sun397_classes_are_whole_paths(tmp_path):
    data = load("sun397", trees.sun397(tmp_path))
    assert data.classes == ("a/abbey", "a/apartment_building/outdoor", "b/bistro/outdoor")
    assert set(counts(data, "train").values()) == {5} and set(counts(data, "test").values()) == {4}


def test_indoor67_reads_lists_and_unusual_files(tmp_path):
    data = load("indoor67", trees.indoor67(tmp_path))
    assert counts(data, "train") == {"buffet": 6, "mall": 7, "nursery": 8}
    assert "mall/shopping mall.jpg" in data.splits["train"].ids
    assert "nursery/baby's_room.jpg.jpg" in data.splits["test"].ids
    assert not any("Unlisted" in name for split in data.splits.values() for name in split.ids)
    for split in data.splits.values():
        for index in range(len(split)):
            assert split.images.read(index).shape == (48, 64, 3)


def test_indoor67_with_other_lists_is_incomplete(tmp_path):
    with pytest.raises(InputError, match="not the list that the task pins"):
        load_task_data(load_task("indoor67"), [trees.indoor67(tmp_path)])


def test_indoor67_reports_missing_listed_image(tmp_path):
    trees.indoor67(tmp_path)
    (tmp_path / "indoorCVPR_09" / "Images" / "mall" / "shopping mall.jpg").unlink()
    data = load("indoor67", tmp_path)
    assert any("shopping mall.jpg" in problem for problem in data.problems)


def test_cub200_joins_on_image_id(tmp_path):
    data = load("cub200", trees.cub200(tmp_path))
    assert data.classes[0] == "001.Black_footed_Albatross"
    assert set(counts(data, "train").values()) == {6}
    assert set(counts(data, "test").values()) == {4}
    for split in data.splits.values():
        for name, label in zip(split.ids, split.labels, strict=True):
            assert name.startswith(data.classes[label])


def test_cub200_of_2010_is_rejected(tmp_path):
    (tmp_path / "CUB_200_2011" / "lists").mkdir(parents=True)
    (tmp_path / "CUB_200_2011" / "lists" / "train.txt").write_text("x")
    with pytest.raises(InputError, match="CUB-200 of 2010"):
        load("cub200", tmp_path)


def listed(home, train, test, *, label="folder", images='"pictures"', name="listed"):
    """Return a task whose splits are the two lists, next to the image folders."""
    for split, lines in (("train", train), ("test", test)):
        (home / "data" / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    (home / f"{name}.toml").write_text(
        f'name = "{name}"\n[files]\nlayout = "lists"\nimages = {images}\ntrain = "train.txt"\ntest = "test.txt"\n'
        f'label = "{label}"\n'
    )
    return load_task(f"{name}.toml")


def pictures(home, names, folder="pictures"):
    for number, name in enumerate(names):
        trees.save(home / "data" / folder / name, trees.image(number % 5, number))


def test_kaggle_indoor67_has_lists_next_to_image_folder(tmp_path):
    kaggle, plain = (
        load("indoor67", tree(tmp_path / tree.__name__)) for tree in (trees.indoor67_kaggle, trees.indoor67)
    )
    assert kaggle.fingerprint == plain.fingerprint
    assert kaggle.splits["test"].images.read(0).shape == (48, 64, 3)


def test_unrelated_images_folder_does_not_hide_indoor67(tmp_path):
    trees.indoor67_kaggle(tmp_path)
    trees.save(tmp_path / "images" / "buffet" / "mine.jpg", trees.image(0, 0))
    data = load("indoor67", tmp_path)
    assert counts(data, "train") == {"buffet": 6, "mall": 7, "nursery": 8}
    assert not any("missing" in problem for problem in data.problems)


def test_lists_may_be_one_folder_deeper(tmp_path):
    home = trees.indoor67(tmp_path) / "indoorCVPR_09"
    inner = home / "indoorCVPR_09"
    inner.mkdir()
    for name in ("Images", "TrainImages.txt", "TestImages.txt"):
        (home / name).rename(inner / name)
    assert len(load("indoor67", tmp_path).classes) == 3


def test_lists_may_use_one_image_folder_per_split(home):
    pictures(home, [f"c{k}/{n}.jpg" for k in range(2) for n in range(3)], "train")
    pictures(home, [f"{n}.jpg" for n in range(4)], "val")
    train = [f"c{k}/{n}.jpg {k}" for k in range(2) for n in range(3)]
    task = listed(home, train, [f"{n}.jpg {n % 2}" for n in range(4)], label="column", images='["train", "val"]')
    data = load_task_data(task, [home / "data"])
    assert data.splits["test"].labels.tolist() == [0, 1, 0, 1] and data.splits["train"].labels.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
    ]
    assert data.splits["test"].ids == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert data.splits["test"].images.read(3).shape == (48, 64, 3)


def test_column_classes_are_sorted_by_number(home):
    numbers = [10, 2, 1]
    names = [f"{n}_{k}.jpg" for n in numbers for k in range(2)]
    pictures(home, names)
    train = [f"{n}_0.jpg {n:02d}" for n in numbers]
    data = load_task_data(listed(home, train, [f"{n}_1.jpg {n}" for n in numbers], label="column"), [home / "data"])
    assert data.classes == ("1", "2", "10") and data.splits["test"].labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["a/1.jpg", "b/1.jpg", "a/2.jpg"], r"name 1 image for both train and test \('pictures/a/2\.jpg'\)"),
        (["a/1.jpg", "b/1.jpg", "a/1.jpg"], r"train\.txt of task listed names 'a/1\.jpg' twice"),
        (["a/1.jpg", "b/1.jpg", "../b/1.jpg"], r"train\.txt names '\.\./b/1\.jpg', which is outside the image folder"),
        (["a/1.jpg", "1.jpg"], r"train\.txt, line 2: '1\.jpg' is not `class/file`"),
        (["a/1.jpg", "b/1.jpg", "a/7.jpg"], r"1 of 3 listed train images are missing \('a/7\.jpg'\)"),
    ],
)
def test_invalid_lists_are_rejected(home, train, message):
    pictures(home, ["a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg"])
    task = listed(home, train, ["a/2.jpg", "b/2.jpg"])
    with pytest.raises(InputError, match=message):
        load_task_data(task, [home / "data"])


def test_lists_without_images_name_the_first_path(home):
    pictures(home, ["a/1.jpg", "b/1.jpg"])
    task = listed(home, ["x/a/1.jpg"], ["x/b/1.jpg"], label="path")
    with pytest.raises(
        InputError, match=r"none of the 1 images .*first was looked for at .*pictures/x/a/1\.jpg\. .*files\.images"
    ):
        load_task_data(task, [home / "data"])


def test_unexpected_label_column_is_reported_with_its_key(home):
    pictures(home, ["a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg"])
    task = listed(home, ["a/1.jpg 0", "b/1.jpg 1"], ["a/2.jpg 0", "b/2.jpg 1"])
    with pytest.raises(InputError, match=r"'a/1\.jpg' does, and its line ends with the number 0\..*label = \"column\""):
        load_task_data(task, [home / "data"])


def test_cub200_one_folder_deeper_is_found(tmp_path):
    trees.cub200(tmp_path / "CUB_200_2011")
    assert len(load("cub200", tmp_path).classes) == 3


def rewrite(path, change):
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_cub200_ignores_line_order(tmp_path, name):
    first = load("cub200", trees.cub200(tmp_path / "first"))
    trees.cub200(tmp_path / "other")
    rewrite(tmp_path / "other" / "CUB_200_2011" / name, sorted)
    other = load("cub200", tmp_path / "other")
    for split in ("train", "test"):
        ours, theirs = (
            dict(zip(data.splits[split].ids, data.splits[split].labels.tolist(), strict=True))
            for data in (first, other)
        )
        assert ours == theirs


def test_cub200_classes_are_sorted_by_number(tmp_path):
    home = trees.cub200(tmp_path) / "CUB_200_2011"
    # As text, 10 comes before 2.
    rewrite(
        home / "classes.txt", lambda lines: [line.replace("3 ", "10 ", 1) if line[0] == "3" else line for line in lines]
    )
    rewrite(
        home / "image_class_labels.txt",
        lambda lines: [line[:-1] + "10" if line.endswith(" 3") else line for line in lines],
    )
    assert load("cub200", tmp_path).classes == (
        "001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("image_class_labels.txt", lambda lines: lines[1:], r"1 id in only one of them"),
        ("train_test_split.txt", lambda lines: ["999 1", *lines[1:]], r"2 ids in only one of them"),
        ("train_test_split.txt", lambda lines: [lines[0][:-1] + "2", *lines[1:]], r"has '2' instead of 0 or 1"),
        (
            "image_class_labels.txt",
            lambda lines: [lines[0][:-1] + "9", *lines[1:]],
            r"has class ids that .* not have: '9'",
        ),
        ("images.txt", lambda lines: [lines[0], *lines], r"line 2: the id 1 occurs twice"),
        ("images.txt", lambda lines: ["1 ../../x.jpg", *lines[1:]], r"is outside the image folder"),
        ("classes.txt", lambda lines: ["1", *lines[1:]], r"line 1: '1' is not an id, a space and a value"),
    ],
)
def test_inconsistent_text_files_are_rejected(tmp_path, name, change, message):
    home = trees.cub200(tmp_path) / "CUB_200_2011"
    rewrite(home / name, change)
    with pytest.raises(InputError, match=message):
        load("cub200", tmp_path)


def test_cub200_reports_missing_images_and_rejects_empty_class(tmp_path):
    folder = trees.cub200(tmp_path) / "CUB_200_2011" / "images" / "001.Black_footed_Albatross"
    pictures_there = sorted(folder.iterdir())
    pictures_there[0].unlink()
    problems = " ".join(load("cub200", tmp_path).problems)
    assert f"1 of 30 images in images.txt are missing ('{folder.name}/{pictures_there[0].name}')" in problems
    for picture in pictures_there[1:]:
        picture.unlink()
    with pytest.raises(InputError, match=r"task cub200 has 1 class folder in .* without any listed image"):
        load("cub200", tmp_path)
    shutil.rmtree(folder)
    assert len(load("cub200", tmp_path).classes) == 2


@pytest.mark.parametrize("left", ["nothing", "a folder", "class folders"])
def test_cub200_without_images_names_the_first_path(tmp_path, left):
    home = trees.cub200(tmp_path) / "CUB_200_2011"
    first = (home / "images.txt").read_text().splitlines()[0].removeprefix("1 ")
    (home / "images").rename(tmp_path / "elsewhere")
    if left != "nothing":
        (home / "images").mkdir()
    if left == "class folders":
        (home / "images" / first).parent.mkdir()
    with pytest.raises(InputError) as missing:
        load("cub200", tmp_path)
    message = str(missing.value)
    assert message.startswith(f"none of the 30 images in {home / 'images.txt'} exists; the first was looked for at ")
    assert f"looked for at {home / 'images' / first}. Copy the images of task cub200 to {home / 'images'}" in message


def test_image_path_may_end_in_a_slash(home):
    trees.cub200(home / "data" / "CUB_200_2011")
    root = home / "data" / "CUB_200_2011" / "CUB_200_2011"
    root = root if root.is_dir() else root.parent
    rewrite(root / "images.txt", lambda lines: [f"{lines[0]}/", *lines[1:]])
    (home / "birds.toml").write_text(f'name = "birds"\n[files]\nlayout = "indexed"\nroot = "{root}"\n')
    data = load_task_data(load_task("birds.toml"), [home / "data"])
    assert len(data.classes) == 3
