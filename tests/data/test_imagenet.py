"""Common forms of ImageNet: partly unpacked, flat, Kaggle's, the Hub's, and every tenth class."""

import shutil

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.helpers import counts, load


def pack(folder):
    """A class whose archive was never unpacked."""
    shutil.rmtree(folder)
    folder.with_suffix(".tar").write_bytes(b"x")


def mine(home, name="mine", **changes):
    """Return a task for ImageNet with three classes."""
    keys = {"classes": 3, **changes}
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    (home / f"{name}.toml").write_text(f'name = "mine"\nlike = "imagenet1k"\n{lines}')
    return load_task(f"{name}.toml")


def test_imagenet_reads_both_folders_and_unusual_files(tmp_path):
    data = load("imagenet1k", trees.imagenet(tmp_path))
    assert data.classes == ("n01440764", "n01440765", "n01440766")
    assert (len(data.splits["train"]), len(data.splits["test"])) == (24, 9)
    for split in data.splits.values():
        for index in range(len(split)):
            assert split.images.read(index).shape[2] == 3


def test_partly_unpacked_imagenet_is_reported(tmp_path):
    trees.imagenet(tmp_path)
    pack(tmp_path / "imagenet" / "train" / "n01440766")
    with pytest.raises(InputError, match=r"partly unpacked: it has 1 archive \('n01440766\.tar'\)"):
        load_task_data(load_task("imagenet1k"), [tmp_path])


def test_partial_imagenet_leaves_out_packed_classes(tmp_path):
    trees.imagenet(tmp_path)
    pack(tmp_path / "imagenet" / "train" / "n01440765")
    data = load("imagenet1k", tmp_path)
    assert data.classes == ("n01440764", "n01440766") and any("partly unpacked" in problem for problem in data.problems)
    assert counts(data, "test") == {"n01440764": 3, "n01440766": 3}


def test_imagenet_of_archives_only_says_to_unpack(tmp_path):
    trees.imagenet(tmp_path)
    for folder in sorted((tmp_path / "imagenet" / "train").iterdir()):
        pack(folder)
    with pytest.raises(InputError, match=r"partly unpacked: it has 3 archives.* Unpack each archive"):
        load("imagenet1k", tmp_path)


def test_archives_next_to_unpacked_classes_are_ignored(home):
    trees.imagenet(home / "data")
    task = mine(home, counts="{ train = 24, test = 9 }")
    folders = sorted((home / "data" / "imagenet" / "train").iterdir())
    for folder in folders:
        folder.with_suffix(".tar").write_bytes(b"x")
    assert not load_task_data(task, [home / "data"]).partial
    # An empty class folder was not unpacked.
    for picture in folders[1].iterdir():
        picture.unlink()
    with pytest.raises(InputError, match=r"train is only partly unpacked: it has 1 archive \('n01440765\.tar'\)"):
        load_task_data(task, [home / "data"])
    assert len(load_task_data(task, [home / "data"], partial=True).classes) == 2


def test_missing_class_error_names_packed_archives(tmp_path):
    trees.imagenet(tmp_path)
    train = tmp_path / "imagenet" / "train"
    pack(train / "n01440766")
    shutil.rmtree(train / "n01440765")
    with pytest.raises(InputError, match=r"partly unpacked.*and has test images of class 'n01440765', but no training"):
        load("imagenet1k", tmp_path)


def test_flat_validation_images_without_labels_are_rejected(tmp_path):
    trees.imagenet_kaggle(tmp_path, solutions=False)
    with pytest.raises(
        InputError, match=r"val is flat.*LOC_val_solution\.csv, meta/val\.txt, meta\.bin.*Move each image"
    ):
        load("imagenet1k", tmp_path)


def classes_of_tests(data):
    return {name.rpartition("/")[2]: data.classes[label] for name, label in zip(*images_and_labels(data), strict=True)}


def images_and_labels(data):
    return data.splits["test"].ids, data.splits["test"].labels


def test_kaggle_and_torchvision_imagenet_are_identical(tmp_path):
    plain = load("imagenet1k", trees.imagenet(tmp_path / "plain"))
    kaggle = load("imagenet1k", trees.imagenet_kaggle(tmp_path / "kaggle"))
    assert kaggle.fingerprint == plain.fingerprint
    assert classes_of_tests(kaggle)["ILSVRC2012_val_00000005.JPEG"] == "n01440765"
    for index in range(len(kaggle.splits["test"])):
        ours, theirs = (np.asarray(data.splits["test"].images.read(index)) for data in (kaggle, plain))
        assert np.array_equal(ours, theirs)


def flat_without_solutions(tmp_path):
    """Return a flat tree, its image folder, the classes, and the class of each image in the order of names."""
    root = trees.imagenet_kaggle(tmp_path / "flat", solutions=False)
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    wnids = sorted(folder.name for folder in (images / "train").iterdir())
    return root, images, wnids, [wnids[number % 3] for number in range(9)]


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
    # ILSVRC's numbers do not follow the order of the wnids, and its table also has inner nodes.
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
def test_flat_validation_images_accept_all_label_files(home, source):
    task = mine(home)
    root, images, wnids, right = flat_without_solutions(home)
    source(images, wnids, right)
    data = load_task_data(task, [root], partial=True)
    plain = load_task_data(task, [trees.imagenet(home / "plain")], partial=True)
    assert data.fingerprint == plain.fingerprint
    classes = {name[:23]: klass for name, klass in classes_of_tests(data).items()}
    assert classes == {f"ILSVRC2012_val_{number + 1:08d}": klass for number, klass in enumerate(right)}


def test_class_numbers_count_packed_classes(home):
    task = mine(home)
    root, images, wnids, right = flat_without_solutions(home)
    caffe_list(images, wnids, right)
    pack(images / "train" / wnids[0])
    classes = classes_of_tests(load_task_data(task, [root], partial=True))
    assert classes == {f"ILSVRC2012_val_{n + 1:08d}.JPEG": klass for n, klass in enumerate(right) if klass != wnids[0]}


@pytest.mark.parametrize("change", ["one is missing", "one too many"])
def test_class_numbers_are_rejected_if_classes_are_missing(home, change):
    task = mine(home)
    root, images, wnids, right = flat_without_solutions(home)
    caffe_list(images, wnids, right)
    if change == "one is missing":
        shutil.rmtree(images / "train" / wnids[0])
    else:
        shutil.copytree(images / "train" / wnids[0], images / "train" / "n00000000")
    with pytest.raises(InputError, match=r"val\.txt numbers the .* classes.* would mean other classes"):
        load_task_data(task, [root], partial=True)
    # A file with class names works.
    torchvision_meta(images, wnids, right)
    assert load_task_data(task, [root], partial=True).problems


def test_missing_flat_image_shifts_no_label(tmp_path):
    root, images, wnids, right = flat_without_solutions(tmp_path)
    torchvision_meta(images, wnids, right)
    (images / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    classes = classes_of_tests(load("imagenet1k", root))
    assert classes == {f"ILSVRC2012_val_{n + 1:08d}.JPEG": klass for n, klass in enumerate(right) if n != 1}


def test_labels_of_other_classes_or_images_are_reported(tmp_path):
    root, images, _, _ = flat_without_solutions(tmp_path)
    solutions = images / "LOC_val_solution.csv"
    solutions.write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\nILSVRC2012_val_00000002,n7 1\n"
    )
    problems = " ".join(load("imagenet1k", root).problems)
    assert "names classes without a training folder ('n7')" in problems
    assert "has no label for 7 images in val" in problems
    solutions.write_text("ImageId,PredictionString\nother,n01440764\n")
    with pytest.raises(InputError, match="labels none of the images"):
        load("imagenet1k", root)
    solutions.write_text("ImageId,PredictionString\nother\n")
    with pytest.raises(InputError, match="line 2: 'other' is not"):
        load("imagenet1k", root)


@pytest.mark.filterwarnings("error")
def test_meta_bin_with_code_is_rejected(tmp_path):
    import pickle

    root, images, _, _ = flat_without_solutions(tmp_path)

    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    (images / "meta.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"is not torchvision's meta\.bin"):
        load("imagenet1k", root)
    assert not (tmp_path / "ran").exists()


def test_meta_bin_next_to_class_folders_is_ignored(tmp_path):
    trees.imagenet(tmp_path)
    before = load("imagenet1k", tmp_path).fingerprint
    torchvision_meta(tmp_path / "imagenet", ["n1"], ["n1"])
    assert load("imagenet1k", tmp_path).fingerprint == before


def test_class_missing_from_train_is_reported(tmp_path):
    trees.imagenet(tmp_path)
    folder = tmp_path / "imagenet" / "train" / "n01440764"
    for picture in folder.iterdir():
        picture.unlink()
    folder.rmdir()
    with pytest.raises(InputError, match="class 'n01440764', but no training image"):
        load("imagenet1k", tmp_path)


def test_every_tenth_class_is_a_separate_task(tmp_path):
    trees.imagenet(tmp_path / "folders", classes=23, train=2, val=1)
    trees.imagenet_kaggle(tmp_path / "flat", classes=23, train=2, val=1)
    every = [load("imagenet100", tmp_path / layout) for layout in ("folders", "flat")]
    for data in every:
        assert list(data.classes) == ["n01440764", "n01440774", "n01440784"]
        assert (len(data.splits["train"].labels), data.splits["test"].labels.tolist()) == (6, [0, 1, 2])
    assert every[0].fingerprint == every[1].fingerprint


def test_every_tenth_class_of_incomplete_imagenet_is_reported(home):
    # One of thirty classes is missing: three are taken, but not the right ones.
    (home / "tenth.toml").write_text(
        'name = "tenth"\nlike = "imagenet1k"\nclasses = 3\ncounts = { train = 6, test = 3 }\n[files]\nevery = 10\n'
    )
    trees.imagenet(home / "data", classes=30, train=2, val=1)
    whole = load_task_data(load_task("tenth.toml"), [home / "data"])
    for split in ("train", "val"):
        shutil.rmtree(home / "data" / "imagenet" / split / "n01440765")
    with pytest.raises(InputError, match=r"29 class folders instead of 30.*may take different classes"):
        load_task_data(load_task("tenth.toml"), [home / "data"])
    # An archive counts as its class.
    (home / "data" / "imagenet" / "train" / "n01440765.tar").write_bytes(b"x")
    assert load_task_data(load_task("tenth.toml"), [home / "data"], partial=True).fingerprint == whole.fingerprint


def test_truncated_class_is_reported_without_counts(home):
    trees.imagenet(home / "data", classes=5, train=4, val=1)
    changes = {"classes": 5, "counts": "{}", "least": "{ train = 4 }"}
    assert len(load_task_data(mine(home, **changes), [home / "data"]).splits["train"]) == 20
    short = sorted((home / "data" / "imagenet" / "train" / "n01440766").iterdir())
    for picture in short[1:]:
        picture.unlink()
    with pytest.raises(
        InputError, match=r"is incomplete: each class should have at least 4 train images, .*fewer: n01440766 \(1\)\."
    ):
        load_task_data(mine(home, **changes), [home / "data"])
    assert load_task_data(mine(home, **changes), [home / "data"], partial=True).partial
    assert load_task("imagenet100").least == {"train": 732, "test": 50}


def test_class_with_images_of_another_is_reported(home):
    trees.imagenet(home / "data", classes=3, train=4, val=2)
    changes = {"counts": "{ train = 12, test = 6 }", "most": "{ test = 2 }"}
    assert not load_task_data(mine(home, **changes), [home / "data"]).partial
    first, second, _ = sorted((home / "data" / "imagenet" / "val").iterdir())
    picture = sorted(first.iterdir())[0]
    picture.rename(second / f"moved-{picture.name}")
    with pytest.raises(InputError, match=r"at most 2 test images, but these have more: n01440765 \(3\)\."):
        load_task_data(mine(home, **changes), [home / "data"])


def test_kaggle_imagenet_is_found_in_a_subfolder(tmp_path):
    trees.imagenet_kaggle(tmp_path / "imagenet")
    assert len(load("imagenet1k", tmp_path).classes) == 3
