from collections import Counter

import numpy as np
import pytest

from lrbench.data.loading import load_task_data
from lrbench.errors import InputError
from lrbench.registry import load_task
from tests import trees


def counts(data, split):
    return dict(sorted(Counter(data.classes[label] for label in data.splits[split].labels).items()))


def load(name, root, **options):
    return load_task_data(load_task(name), [root], partial=True, **options)


def test_imagenet_reads_both_folders_and_odd_containers(tmp_path):
    data = load("imagenet1k", trees.imagenet(tmp_path))
    assert data.classes == ("n01440764", "n01440765", "n01440766")
    assert (len(data.splits["train"]), len(data.splits["test"])) == (24, 9)
    for split in data.splits.values():
        for index in range(len(split)):
            assert split.images.read(index).mode == "RGB"


def test_imagenet_half_unpacked_is_recognised(tmp_path):
    trees.imagenet(tmp_path)
    (tmp_path / "imagenet" / "train" / "n09999999.tar").write_bytes(b"x")
    with pytest.raises(InputError, match="half unpacked: 1 classes are still archives"):
        load_task_data(load_task("imagenet1k"), [tmp_path])


def test_imagenet_with_flat_validation_images_says_what_to_do(tmp_path):
    trees.imagenet(tmp_path)
    val = tmp_path / "imagenet" / "val"
    for picture in list(val.glob("*/*.JPEG")):
        picture.rename(val / picture.name)
    for folder in list(val.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    with pytest.raises(InputError, match=r"is flat.*LOC_val_solution\.csv"):
        load("imagenet1k", tmp_path)


def test_caltech_trains_on_the_first_sixty_names_and_passes_over_junk(tmp_path):
    data = load("caltech256", trees.caltech256(tmp_path))
    assert data.classes == ("001.ak47", "056.dog", "198.spider")
    assert set(counts(data, "train").values()) == {60}
    # Number 7 is missing, so the sixty first names end at 61 and four are left.
    assert set(counts(data, "test").values()) == {4}
    tested = sorted(name for name in data.splits["test"].ids if name.startswith("001"))
    assert tested[0] == "001.ak47/001_0062.jpg"


@pytest.mark.parametrize("inner", ["256_ObjectCategories", "."])
def test_caltech_is_found_when_the_root_is_the_folder_itself(tmp_path, inner):
    trees.caltech256(tmp_path)
    assert len(load("caltech256", tmp_path / inner).classes) == 3


def test_cub_joins_on_the_image_id(tmp_path):
    data = load("cub200", trees.cub200(tmp_path))
    assert data.classes[0] == "001.Black_footed_Albatross"
    assert set(counts(data, "train").values()) == {6}
    assert set(counts(data, "test").values()) == {4}
    for split in data.splits.values():
        for name, label in zip(split.ids, split.labels, strict=True):
            assert name.startswith(data.classes[label])


def test_cub_of_2010_is_told_apart(tmp_path):
    (tmp_path / "CUB_200_2011" / "lists").mkdir(parents=True)
    (tmp_path / "CUB_200_2011" / "lists" / "train.txt").write_text("x")
    with pytest.raises(InputError, match="CUB-200 of 2010"):
        load("cub200", tmp_path)


def test_indoor_reads_the_lists_and_odd_names_and_containers(tmp_path):
    data = load("indoor67", trees.indoor67(tmp_path))
    assert counts(data, "train") == {"buffet": 6, "mall": 7, "nursery": 8}
    assert "mall/shopping mall.jpg" in data.splits["train"].ids
    assert "nursery/baby's_room.jpg.jpg" in data.splits["test"].ids
    assert not any("Unlisted" in name for split in data.splits.values() for name in split.ids)
    for split in data.splits.values():
        for index in range(len(split)):
            assert split.images.read(index).size == (64, 48)


def test_indoor_with_other_lists_is_not_whole(tmp_path):
    with pytest.raises(InputError, match="not the list that the task pins"):
        load_task_data(load_task("indoor67"), [trees.indoor67(tmp_path)])


def test_indoor_with_a_listed_image_missing_names_it(tmp_path):
    trees.indoor67(tmp_path)
    (tmp_path / "indoorCVPR_09" / "Images" / "mall" / "shopping mall.jpg").unlink()
    data = load("indoor67", tmp_path)
    assert any("shopping mall.jpg" in problem for problem in data.problems)


def test_sketch_takes_sixteen_of_each_eighty_from_the_shipped_list(tmp_path):
    data = load("sketch250", trees.sketch250(tmp_path))
    assert counts(data, "train") == {"airplane": 64, "alarm clock": 64, "mouse (animal)": 64}
    assert counts(data, "test") == {"airplane": 16, "alarm clock": 16, "mouse (animal)": 16}


def test_the_sketch_list_is_what_its_head_says():
    import hashlib

    from lrbench.registry.loading import shipped_folder

    lines = (shipped_folder("lrbench.tasks") / "splits" / "sketch250.txt").read_text().splitlines()
    numbers = [int(line) for line in lines if not line.startswith("#")]
    expected = []
    for start in range(1, 20001, 80):
        ranked = sorted(range(start, start + 80), key=lambda n: hashlib.sha256(f"sketch250 {n}".encode()).hexdigest())
        expected += sorted(ranked[:16])
    assert numbers == expected


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        ("imagenet1k", trees.imagenet),
        ("caltech256", trees.caltech256),
        ("cub200", trees.cub200),
        ("indoor67", trees.indoor67),
        ("sketch250", trees.sketch250),
    ],
)
def test_small_trees_are_half_copied_unless_partial(tmp_path, name, tree):
    tree(tmp_path)
    task = load_task(name)
    with pytest.raises(InputError, match=f"the data of task {name} at .* is not whole: .*--partial"):
        load_task_data(task, [tmp_path])
    data = load_task_data(task, [tmp_path], partial=True)
    assert data.partial and data.problems


@pytest.mark.parametrize("name", ["imagenet1k", "caltech256", "cub200", "indoor67", "sketch250"])
def test_missing_data_says_what_was_looked_for_where_and_how_to_get_it(tmp_path, name):
    with pytest.raises(InputError) as missing:
        load_task_data(load_task(name), [tmp_path / "data"])
    message = str(missing.value)
    assert str(tmp_path / "data") in message
    assert "lrbench data fetch" in message or "image-net.org" in message
    assert "--data-root" in message


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "CUB_200_2011").write_bytes(b"x")
    with pytest.raises(InputError, match="CUB_200_2011 is a file"):
        load("cub200", tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    trees.caltech256(tmp_path)
    (tmp_path / "256_ObjectCategories" / "003.backpack").mkdir()
    with pytest.raises(InputError, match=r"'003\.backpack'.*without any image"):
        load("caltech256", tmp_path)


def test_a_class_missing_from_train_is_named(tmp_path):
    trees.imagenet(tmp_path)
    folder = tmp_path / "imagenet" / "train" / "n01440764"
    for picture in folder.iterdir():
        picture.unlink()
    folder.rmdir()
    with pytest.raises(InputError, match="class 'n01440764', but no training image"):
        load("imagenet1k", tmp_path)


MINE = 'name = "mine"\n\n[files]\nlayout = "folders"\nroot = "mine"\n'


def test_a_users_folder_needs_five_lines_and_draws_the_same_split_each_time(home):
    for label in range(3):
        for number in range(10):
            trees.save(home / "data" / "mine" / f"class {label}" / f"{number}.png", trees.image(label, number), "PNG")
    (home / "mine.toml").write_text(MINE)
    first, again = (load_task_data(load_task("mine.toml"), [home / "data"]) for _ in range(2))
    assert counts(first, "test") == {"class 0": 2, "class 1": 2, "class 2": 2}
    assert first.splits["test"].ids == again.splits["test"].ids
    assert first.fingerprint == again.fingerprint
    assert not set(first.splits["train"].ids) & set(first.splits["test"].ids)


def test_the_fingerprint_changes_with_any_image_label_or_split(home):
    for label in range(2):
        for number in range(5):
            trees.save(home / "data" / "mine" / f"c{label}" / f"{number}.png", trees.image(label, number), "PNG")
    (home / "mine.toml").write_text(MINE)
    before = load_task_data(load_task("mine.toml"), [home / "data"]).fingerprint
    (home / "data" / "mine" / "c0" / "0.png").rename(home / "data" / "mine" / "c1" / "9.png")
    assert load_task_data(load_task("mine.toml"), [home / "data"]).fingerprint != before


def test_a_hub_data_set_in_a_folder_is_read(home):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for split, count in (("train", 6), ("test", 4)):
        rows = {
            "image": [trees.image(number % 2, number) for number in range(count)],
            "label": [number % 2 for number in range(count)],
        }
        (home / "hubset").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(home / "hubset" / f"{split}.parquet"))
    (home / "hub.toml").write_text('name = "hubbed"\n\n[files]\nlayout = "hub"\nid = "hubset"\nrevision = "main"\n')
    data = load_task_data(load_task("hub.toml"), [home])
    assert set(data.classes) == {"cat", "dog"} or data.classes == ("0", "1")
    assert counts(data, "train") and len(data.splits["test"]) == 4
    assert data.splits["test"].images.read(1).size == (64, 48)


def test_a_torchvision_class_is_read(home):
    trees.dtd(home / "data")
    (home / "dtd.toml").write_text(
        'name = "textures"\n\n[files]\nlayout = "torchvision"\ndataset = "DTD"\n'
        'splits = { train = { split = "train" }, val = { split = "val" }, test = { split = "test" } }\n'
    )
    data = load_task_data(load_task("dtd.toml"), [home / "data"])
    assert data.classes == ("banded", "dotted")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert np.asarray(data.splits["val"].images.read(0)).shape == (48, 64, 3)
