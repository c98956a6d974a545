import hashlib
from collections import Counter

import numpy as np
import pytest

from lrbench.data.drawn import keep_drawn_split
from lrbench.data.loading import load_task_data
from lrbench.errors import InputError
from lrbench.files import sha256_file
from lrbench.registry import load_task
from lrbench.registry.loading import shipped_folder
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


def test_imagenet_with_flat_validation_images_and_no_labels_says_what_to_do(tmp_path):
    trees.imagenet_kaggle(tmp_path, solutions=False)
    with pytest.raises(
        InputError, match=r"val is flat.*LOC_val_solution\.csv, meta/val\.txt, meta\.bin.*Move each image"
    ):
        load("imagenet1k", tmp_path)


def classes_of_tests(data):
    return {name.rpartition("/")[2]: data.classes[label] for name, label in zip(*images_and_labels(data), strict=True)}


def images_and_labels(data):
    return data.splits["test"].ids, data.splits["test"].labels


def test_kaggles_imagenet_is_the_same_data_set_as_torchvisions(tmp_path):
    plain = load("imagenet1k", trees.imagenet(tmp_path / "plain"))
    kaggle = load("imagenet1k", trees.imagenet_kaggle(tmp_path / "kaggle"))
    assert kaggle.fingerprint == plain.fingerprint
    assert classes_of_tests(kaggle)["ILSVRC2012_val_00000005.JPEG"] == "n01440765"
    for index in range(len(kaggle.splits["test"])):
        ours, theirs = (np.asarray(data.splits["test"].images.read(index)) for data in (kaggle, plain))
        assert np.array_equal(ours, theirs)


def flat_without_solutions(tmp_path):
    """A flat tree, its images' folder, the classes in order, and the right class of each image in the order of names."""
    root = trees.imagenet_kaggle(tmp_path / "flat", solutions=False)
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    wnids = sorted(folder.name for folder in (images / "train").iterdir())
    return root, images, wnids, [wnids[number // 3] for number in range(9)]


def caffe_list(images, wnids, right):
    (images / "meta").mkdir()
    lines = [f"ILSVRC2012_val_{number + 1:08d}.JPEG {wnids.index(klass)}\n" for number, klass in enumerate(right)]
    (images / "meta" / "val.txt").write_text("".join(lines))


def torchvision_meta(images, wnids, right):
    import torch

    torch.save((dict.fromkeys(wnids, ("a name",)), right), images / "meta.bin")


def development_kit(images, wnids, right):
    from scipy.io import savemat

    kit = images / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    # ILSVRC's own numbers are not in the order of the wnids, and its table has inner nodes too.
    numbers = {wnid: 3 - position for position, wnid in enumerate(wnids)}
    rows = [(numbers[wnid], wnid, "words") for wnid in wnids] + [(1001, "n00001740", "entity")]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{numbers[klass]}\n" for klass in right))


def names_with_classes(images, wnids, right):
    for number, klass in enumerate(right):
        name = f"ILSVRC2012_val_{number + 1:08d}"
        (images / "val" / f"{name}.JPEG").rename(images / "val" / f"{name}_{klass}.JPEG")


@pytest.mark.parametrize("source", [caffe_list, torchvision_meta, development_kit, names_with_classes])
def test_flat_validation_images_get_their_labels_from_what_users_have(tmp_path, source):
    root, images, wnids, right = flat_without_solutions(tmp_path)
    source(images, wnids, right)
    data = load("imagenet1k", root)
    assert data.fingerprint == load("imagenet1k", trees.imagenet(tmp_path / "plain")).fingerprint
    assert [data.classes[label] for label in data.splits["test"].labels] == right


def test_a_missing_flat_image_shifts_no_label(tmp_path):
    root, images, wnids, right = flat_without_solutions(tmp_path)
    torchvision_meta(images, wnids, right)
    (images / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    found = classes_of_tests(load("imagenet1k", root))
    assert found == {f"ILSVRC2012_val_{n + 1:08d}.JPEG": klass for n, klass in enumerate(right) if n != 1}


def test_labels_of_other_classes_or_images_are_named(tmp_path):
    root, images, _, _ = flat_without_solutions(tmp_path)
    solutions = images / "LOC_val_solution.csv"
    solutions.write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\nILSVRC2012_val_00000002,n7 1\n"
    )
    problems = " ".join(load("imagenet1k", root).problems)
    assert "names 1 classes that have no training folder ('n7')" in problems
    assert "7 images in val are not in" in problems
    solutions.write_text("ImageId,PredictionString\nother,n01440764\n")
    with pytest.raises(InputError, match="labels none of the images"):
        load("imagenet1k", root)
    solutions.write_text("ImageId,PredictionString\nother\n")
    with pytest.raises(InputError, match="line 2: 'other' is not"):
        load("imagenet1k", root)


def test_a_meta_bin_that_holds_code_is_refused(tmp_path):
    import pickle

    root, images, _, _ = flat_without_solutions(tmp_path)

    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    (images / "meta.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"is not torchvision's meta\.bin"):
        load("imagenet1k", root)
    assert not (tmp_path / "ran").exists()


def test_a_meta_bin_beside_class_folders_changes_nothing(tmp_path):
    trees.imagenet(tmp_path)
    before = load("imagenet1k", tmp_path).fingerprint
    torchvision_meta(tmp_path / "imagenet", ["n1"], ["n1"])
    assert load("imagenet1k", tmp_path).fingerprint == before


def test_sun397_takes_its_classes_from_whole_paths(tmp_path):
    data = load("sun397", trees.sun397(tmp_path))
    assert data.classes == ("a/abbey", "a/apartment_building/outdoor", "b/bistro/outdoor")
    assert set(counts(data, "train").values()) == {5} and set(counts(data, "test").values()) == {4}


def test_caltech101_draws_thirty_a_class_without_the_clutter(tmp_path):
    data = load("caltech101", trees.caltech101(tmp_path))
    assert data.classes == ("Faces", "accordion")
    assert set(counts(data, "train").values()) == {30} and counts(data, "test") == {"Faces": 6, "accordion": 7}


def test_a_class_with_too_few_images_for_the_draw_is_named(tmp_path):
    trees.caltech101(tmp_path)
    for picture in sorted((tmp_path / "101_ObjectCategories" / "Faces").iterdir())[29:]:
        picture.unlink()
    with pytest.raises(InputError, match="class 'Faces' of task caltech101 has 29 images, and 30 of each class"):
        load("caltech101", tmp_path)


def test_eurosat_draws_a_fifth(tmp_path):
    data = load("eurosat", trees.eurosat(tmp_path))
    assert counts(data, "test") == {"AnnualCrop": 2, "SeaLake": 2}
    assert counts(data, "train") == {"AnnualCrop": 8, "SeaLake": 8}


def test_a_drawn_split_is_written_down_and_can_be_pinned(home):
    data = load("eurosat", trees.eurosat(home / "data"))
    digest = keep_drawn_split(home / "splits", data)
    (path,) = (home / "splits").iterdir()
    assert path.name == f"eurosat-{digest[:16]}.txt" and sha256_file(path) == digest
    (home / "pinned.toml").write_text(
        'name = "pinned"\n[files]\nlayout = "folders"\nroot = "eurosat/2750"\n'
        f'split = {{ kind = "listed", test = "splits/{path.name}", sha256 = "{digest}" }}\n'
    )
    pinned = load_task_data(load_task("pinned.toml"), [home / "data", home])
    assert pinned.splits["test"].ids == data.splits["test"].ids and pinned.drawn_list is None


def test_a_gated_hub_data_set_says_what_to_do(tmp_path, monkeypatch):
    import datasets

    def gated(*arguments, **options):
        raise datasets.exceptions.DatasetNotFoundError(
            "Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub. You must be authenticated to access it."
        )

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(
        InputError, match=r"is a gated dataset.*terms accepted on its page and a token \(`hf auth login`"
    ):
        load_task_data(load_task("imagenet1k-hub"), [tmp_path])


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


def ranked_sketches():
    """File numbers of each class in the order of the hash that the lists' heads name."""
    for start in range(1, 20001, 80):
        yield sorted(range(start, start + 80), key=lambda n: hashlib.sha256(f"sketch250 {n}".encode()).hexdigest())


def listed_sketches(name):
    lines = (shipped_folder("lrbench.tasks") / "splits" / f"{name}.txt").read_text().splitlines()
    return [int(line) for line in lines if not line.startswith("#")]


def test_the_sketch_list_is_what_its_head_says():
    expected = [number for ranked in ranked_sketches() for number in sorted(ranked[:16])]
    assert listed_sketches("sketch250") == expected


def test_the_sketch_folds_are_what_their_heads_say_and_test_each_image_once(tmp_path):
    folds = [listed_sketches(f"sketch250-fold{fold}") for fold in range(3)]
    assert sorted(number for listed in folds for number in listed) == list(range(1, 20001))
    for fold, listed in enumerate(folds):
        assert listed == [number for ranked in ranked_sketches() for number in sorted(ranked[fold::3])]
        assert load_task(f"sketch250-fold{fold}").counts == {"train": 20000 - len(listed), "test": len(listed)}
    trees.sketch250(tmp_path)
    assert set(counts(load("sketch250-fold2", tmp_path), "test").values()) == {26}


def test_caltechs_other_protocols_read_the_same_files(tmp_path):
    trees.caltech256(tmp_path, classes=4)
    objects = load("caltech256-objects", tmp_path)
    assert objects.classes == ("001.ak47", "056.dog", "198.spider")
    assert set(counts(objects, "train").values()) == {60}
    tested = {}
    for number, rest in ((60, 4), (30, 34)):
        drawn = load(f"caltech256-random{number}", tmp_path)
        assert drawn.classes[-1] == "257.clutter"
        assert set(counts(drawn, "train").values()) == {number} and set(counts(drawn, "test").values()) == {rest}
        tested[number] = set(drawn.splits["test"].ids)
    # Drawn, and not the last by name; what is tested with more training images is tested with fewer too.
    first = set(load("caltech256", tmp_path).splits["test"].ids)
    assert tested[60] != first and tested[60] < tested[30]


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        ("imagenet1k", trees.imagenet),
        ("caltech256", trees.caltech256),
        ("cub200", trees.cub200),
        ("indoor67", trees.indoor67),
        ("sketch250", trees.sketch250),
        ("sun397", trees.sun397),
        ("caltech101", trees.caltech101),
        ("eurosat", trees.eurosat),
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
