"""The layout `folders`: splits of the class folders, and detection of the right folder."""

import hashlib
import os

import pytest

from lrbench.config import load_task
from lrbench.config.registry import shipped_folder
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_file
from lrbench.data.loading import find_task_data, load_task_data
from lrbench.data.split_lists import write_drawn_split
from tests import trees
from tests.data.helpers import MINE, counts, load


def test_caltech101_draws_30_per_class_without_clutter(tmp_path):
    data = load("caltech101", trees.caltech101(tmp_path))
    assert data.classes == ("Faces", "accordion")
    assert set(counts(data, "train").values()) == {30} and counts(data, "test") == {"Faces": 6, "accordion": 7}


def test_class_too_small_for_drawn_split_is_reported(tmp_path):
    trees.caltech101(tmp_path)
    for picture in sorted((tmp_path / "101_ObjectCategories" / "Faces").iterdir())[29:]:
        picture.unlink()
    with pytest.raises(
        InputError, match=r"class 'Faces' of task caltech101 has 29 images, and files\.split\.train takes 30"
    ):
        load("caltech101", tmp_path)


def test_eurosat_tests_on_a_fifth(tmp_path):
    data = load("eurosat", trees.eurosat(tmp_path))
    assert counts(data, "test") == {"AnnualCrop": 2, "SeaLake": 2}
    assert counts(data, "train") == {"AnnualCrop": 8, "SeaLake": 8}


def test_drawn_split_is_saved_and_can_be_pinned(home):
    data = load("eurosat", trees.eurosat(home / "data"))
    digest = write_drawn_split(home / "splits", data)
    (path,) = (home / "splits").iterdir()
    assert path.name == f"eurosat-{digest[:16]}.txt" and sha256_file(path) == digest
    (home / "pinned.toml").write_text(
        'name = "pinned"\n[files]\nlayout = "folders"\nroot = "eurosat/2750"\n'
        f'split = {{ kind = "listed", test = "splits/{path.name}", sha256 = "{digest}" }}\n'
    )
    pinned = load_task_data(load_task("pinned.toml"), [home / "data", home])
    assert pinned.splits["test"].ids == data.splits["test"].ids and pinned.drawn_list is None


@pytest.mark.parametrize("place", ["data/mine", "data"])
def test_split_list_may_be_next_to_the_images(home, place):
    own_folders(home, ["cat", "dog"])
    path = pin(home / "tasks", "pinned", "cat/1.png\ndog/0.png\n")
    path.with_suffix(".txt").rename(home / place / "pinned.txt")
    pinned = load_task_data(load_task(str(path)), [home / "data"])
    assert pinned.splits["test"].ids == ("cat/1.png", "dog/0.png")
    (home / place / "pinned.txt").unlink()
    with pytest.raises(InputError, match=r"'pinned\.txt' .* was not found\. Looked at: .*data/mine/pinned\.txt"):
        load_task_data(load_task(str(path)), [home / "data"])


def test_caltech256_trains_on_first_60_names_and_ignores_junk(tmp_path):
    data = load("caltech256", trees.caltech256(tmp_path))
    assert data.classes == ("001.ak47", "056.dog", "198.spider", "257.clutter")
    assert set(counts(data, "train").values()) == {60}
    # Number 7 is missing, so the first 60 names end at 61 and four are left.
    assert set(counts(data, "test").values()) == {4}
    tested = sorted(name for name in data.splits["test"].ids if name.startswith("001"))
    assert tested[0] == "001.ak47/001_0062.jpg"


@pytest.mark.parametrize("inner", ["", "256_ObjectCategories"])
def test_data_root_may_be_the_data_set_folder(tmp_path, inner):
    trees.caltech256(tmp_path)
    assert len(load("caltech256", tmp_path / inner).classes) == 4


def test_unrelated_picture_folders_are_not_a_data_set(tmp_path):
    trees.save(tmp_path / "first" / "holiday" / "1.jpg", trees.image(0, 0))
    trees.save(tmp_path / "first" / "train" / "station" / "1.jpg", trees.image(0, 0))
    for name in ("caltech256", "sketch250", "caltech101", "eurosat", "imagenet1k", "imagenet100"):
        with pytest.raises(InputError, match=r"was not found\. .*first \(it has \d of [\d,]+ class folders\)"):
            find_task_data(load_task(name), [tmp_path / "first"])
    trees.caltech256(tmp_path / "second")
    data = load_task_data(load_task("caltech256"), [tmp_path / "first", tmp_path / "second"], partial=True)
    assert len(data.classes) == 4


def test_named_folder_in_later_root_precedes_first_root_itself(home):
    for label in range(2):
        trees.save(home / "first" / f"c{label}" / "1.jpg", trees.image(label, 0))
        trees.save(home / "second" / "mine" / f"c{label}" / "1.jpg", trees.image(label, 0))
    (home / "mine.toml").write_text(MINE.replace('root = "mine"', 'root = [".", "mine"]'))
    roots = [home / "first", home / "second"]
    assert find_task_data(load_task("mine.toml"), roots) == str(home / "second" / "mine")
    assert find_task_data(load_task("mine.toml"), roots[:1]) == str(home / "first")


def test_first_root_with_the_named_folder_is_used(tmp_path):
    for name in ("a", "b"):
        trees.caltech256(tmp_path / name)
    folder = find_task_data(load_task("caltech256"), [tmp_path / "none", tmp_path / "b", tmp_path / "a"])
    assert folder == str(tmp_path / "b" / "256_ObjectCategories")


def test_complete_data_set_may_be_the_data_root(home):
    for label in range(3):
        for number in range(4):
            trees.save(home / "data" / f"c{label}" / f"{number}.jpg", trees.image(label, number))
    (home / "mine.toml").write_text('name = "mine"\nclasses = 3\n[files]\nlayout = "folders"\nroot = ["mine", "."]\n')
    assert len(load_task_data(load_task("mine.toml"), [home / "data"]).classes) == 3


def test_sketch250_tests_on_16_of_80_from_shipped_list(tmp_path):
    data = load("sketch250", trees.sketch250(tmp_path))
    assert counts(data, "train") == {"airplane": 64, "alarm clock": 64, "mouse (animal)": 64}
    assert counts(data, "test") == {"airplane": 16, "alarm clock": 16, "mouse (animal)": 16}
    listed = (tmp_path / "png" / "filelist.txt").read_text().splitlines()
    for split in data.splits.values():
        assert list(split.ids) == [name for name in listed if name in set(split.ids)]


def ranked_sketches():
    """Yield the file numbers of each class in the order of the hash that the lists' headers describe."""
    for start in range(1, 20001, 80):
        yield sorted(range(start, start + 80), key=lambda n: hashlib.sha256(f"sketch250 {n}".encode()).hexdigest())


def listed_sketches(name):
    lines = (shipped_folder("lrbench.tasks") / "splits" / f"{name}.txt").read_text().splitlines()
    return [int(line) for line in lines if not line.startswith("#")]


def test_sketch250_list_matches_its_header():
    expected = [number for ranked in ranked_sketches() for number in sorted(ranked[:16])]
    assert listed_sketches("sketch250") == expected


def test_sketch250_folds_match_headers_and_partition_images(tmp_path):
    folds = [listed_sketches(f"sketch250-fold{fold}") for fold in range(3)]
    assert sorted(number for listed in folds for number in listed) == list(range(1, 20001))
    for fold, listed in enumerate(folds):
        assert listed == [number for ranked in ranked_sketches() for number in sorted(ranked[fold::3])]
        assert load_task(f"sketch250-fold{fold}").counts == {"train": 20000 - len(listed), "test": len(listed)}
    trees.sketch250(tmp_path)
    assert set(counts(load("sketch250-fold2", tmp_path), "test").values()) == {26}


def test_caltech256_variants_read_the_same_files(tmp_path):
    trees.caltech256(tmp_path)
    objects = load("caltech256-objects", tmp_path)
    assert objects.classes == ("001.ak47", "056.dog", "198.spider")
    assert set(counts(objects, "train").values()) == {60}
    tested = {}
    for number, rest in ((60, 4), (30, 34)):
        drawn = load(f"caltech256-random{number}", tmp_path)
        assert drawn.classes[-1] == "257.clutter"
        assert set(counts(drawn, "train").values()) == {number} and set(counts(drawn, "test").values()) == {rest}
        tested[number] = set(drawn.splits["test"].ids)
    griffin = load("caltech256-griffin", tmp_path)
    assert griffin.classes == objects.classes
    assert set(counts(griffin, "train").values()) == {30} and set(counts(griffin, "test").values()) == {25}
    # The images are drawn, not the last by name. Images tested with 60 training images are also tested with 30.
    first = set(load("caltech256", tmp_path).splits["test"].ids)
    assert tested[60] != first and tested[60] < tested[30]


def test_test_images_per_class_can_be_capped(tmp_path):
    trees.caltech256(tmp_path)
    whole, capped = (load(name, tmp_path) for name in ("caltech256", "caltech256-l2sp"))
    assert capped.splits["train"].ids == whole.splits["train"].ids
    assert set(counts(capped, "test").values()) == {4}
    content = (tmp_path / "256_ObjectCategories").parent / "own.toml"
    kinds = (
        '{ kind = "first", train = 50, test_images = 3 }',
        '{ kind = "drawn", train = 50, test_images = 3 }',
        '{ kind = "drawn", train = 50 }',
    )
    variants = []
    for kind in kinds:
        content.write_text(
            f'name = "own"\n[files]\nlayout = "folders"\nroot = "256_ObjectCategories"\nsplit = {kind}\n'
        )
        variants.append(load(str(content), tmp_path))
    first, drawn, uncapped = variants
    for data in (first, drawn):
        assert set(counts(data, "train").values()) == {50} and set(counts(data, "test").values()) == {3}
    assert next(name for name in first.splits["test"].ids if name.startswith("001")) == "001.ak47/001_0052.jpg"
    assert drawn.splits["train"].ids == uncapped.splits["train"].ids
    assert set(drawn.splits["test"].ids) < set(uncapped.splits["test"].ids)


def test_empty_class_folder_is_reported(tmp_path):
    trees.caltech256(tmp_path)
    (tmp_path / "256_ObjectCategories" / "003.backpack").mkdir()
    with pytest.raises(InputError, match=r"'003\.backpack'.*has no images"):
        load("caltech256", tmp_path)


def test_user_folder_needs_five_lines_and_split_is_repeatable(home):
    for label in range(3):
        for number in range(10):
            trees.save(home / "data" / "mine" / f"class {label}" / f"{number}.png", trees.image(label, number), "PNG")
    (home / "mine.toml").write_text(MINE)
    first, again = (load_task_data(load_task("mine.toml"), [home / "data"]) for _ in range(2))
    assert counts(first, "test") == {"class 0": 2, "class 1": 2, "class 2": 2}
    assert first.splits["test"].ids == again.splits["test"].ids
    assert first.fingerprint == again.fingerprint
    assert not set(first.splits["train"].ids) & set(first.splits["test"].ids)


def own_folders(home, classes, images=5):
    """Write class folders under `data/mine` and a task for them; return its data."""
    for label, klass in enumerate(classes):
        for number in range(images):
            trees.save(home / "data" / "mine" / klass / f"{number}.png", trees.image(label, number), "PNG")
    (home / "mine.toml").write_text(MINE)
    return load_task_data(load_task("mine.toml"), [home / "data"])


def pin(folder, name, listed, digest=None):
    """Write a list of test images and a TOML that pins it; return the path of the TOML."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_bytes(listed.encode())
    digest = digest or hashlib.sha256(listed.encode()).hexdigest()
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\n[files]\nlayout = "folders"\nroot = "mine"\n'
        f'split = {{ kind = "listed", test = "{name}.txt", sha256 = "{digest}" }}\n'
    )
    return path


def test_folder_that_is_not_a_class_can_be_excluded(home):
    folder = home / "data" / "mine" / "clutter"
    folder.mkdir(parents=True)
    (folder / "read.me").write_text("notes")
    with pytest.raises(
        InputError, match=r"'clutter' has 'read\.me'; .*jpg.*files\.exclude = \[\"clutter\"\] in the task's TOML"
    ):
        own_folders(home, ["cat", "dog"])
    trees.save(folder / "scan.png", trees.image(0, 0), "PNG")
    (home / "mine.toml").write_text(MINE + 'exclude = ["cluter"]\n')
    with pytest.raises(InputError, match=r"names 'cluter', but .*mine has no such folder\. Did you mean 'clutter'\?"):
        load_task_data(load_task("mine.toml"), [home / "data"])
    (home / "mine.toml").write_text(MINE + 'exclude = ["CLUTTER"]\n')
    with pytest.raises(InputError, match=r"names 'CLUTTER', but .* has no such folder\. Did you mean 'clutter'\?"):
        load_task_data(load_task("mine.toml"), [home / "data"])
    (home / "mine.toml").write_text(MINE + 'exclude = ["clutter", "BACKGROUND"]\n')
    assert load_task_data(load_task("mine.toml"), [home / "data"]).classes == ("cat", "dog")


def test_split_folders_are_not_taken_for_classes(home):
    for split in ("train", "test"):
        trees.save(home / "data" / "mine" / split / "cat" / "1.png", trees.image(0, 0), "PNG")
    (home / "mine.toml").write_text(MINE)
    with pytest.raises(InputError, match=r'folders .test., .train.: use layout = "split-folders"'):
        load_task_data(load_task("mine.toml"), [home / "data"])


def test_class_without_test_images_is_incomplete_unless_pinned(home):
    for split, classes in (("train", ("cat", "dog")), ("test", ("cat",))):
        for klass in classes:
            trees.save(home / "data" / "mine" / split / klass / "1.png", trees.image(0, 0), "PNG")
    content = 'name = "mine"\n{}[files]\nlayout = "split-folders"\nroot = "mine"\n'
    (home / "mine.toml").write_text(content.format(""))
    with pytest.raises(InputError, match=r"no test image of 1 of its 2 classes \('dog'; .*train = 2, test = 1"):
        load_task_data(load_task("mine.toml"), [home / "data"])
    (home / "mine.toml").write_text(content.format("counts = { train = 2, test = 1 }\n"))
    assert counts(load_task_data(load_task("mine.toml"), [home / "data"]), "test") == {"cat": 1}


def test_drawn_split_is_the_same_everywhere(home):
    data = own_folders(home, ["cat", "dog"], images=10)
    # Fixed values: a different draw would change the split of existing tasks.
    assert list(data.splits["test"].ids) == ["cat/0.png", "cat/5.png", "dog/0.png", "dog/7.png"]


def test_toml_sets_seed_and_share_of_drawn_split(home):
    first = own_folders(home, ["cat", "dog"], images=10)
    tests = {}
    for seed, share in ((0, 0.2), (1, 0.2), (0, 0.5)):
        (home / "other.toml").write_text(
            'name = "other"\n[files]\nlayout = "folders"\nroot = "mine"\n'
            f'split = {{ kind = "drawn", test = {share}, seed = {seed} }}\n'
        )
        data = load_task_data(load_task("other.toml"), [home / "data"])
        tests[seed, share] = set(data.splits["test"].ids)
        assert set(counts(data, "test").values()) == {int(10 * share)}
    assert tests[0, 0.2] == set(first.splits["test"].ids) != tests[1, 0.2]
    assert tests[0, 0.2] < tests[0, 0.5]


def test_split_list_is_next_to_an_unregistered_toml(home):
    own_folders(home, ["cat", "dog"])
    path = pin(home / "elsewhere", "pinned", "cat/0.png\ndog/3.png\n")
    data = load_task_data(load_task(str(path)), [home / "data"])
    assert list(data.splits["test"].ids) == ["cat/0.png", "dog/3.png"]
    path.with_suffix(".txt").unlink()
    with pytest.raises(InputError, match=r"pinned\.txt.*Looked at: .*elsewhere/pinned\.txt.*next to the task's TOML"):
        load_task_data(load_task(str(path)), [home / "data"])


def test_split_list_with_another_hash_is_reported(home):
    own_folders(home, ["cat", "dog"])
    path = pin(home, "pinned", "cat/0.png\ndog/3.png\n", digest="0" * 64)
    with pytest.raises(
        InputError, match=r"pinned\.txt is not the list that the task pins \(sha256 [0-9a-f]{64}, not 0"
    ):
        load_task_data(load_task(str(path)), [home / "data"])


def test_missing_images_of_a_split_list_are_reported(home):
    own_folders(home, ["cat", "dog"])
    path = pin(home, "pinned", "cat/0.png\ncat/9.png\ndog/3.png\n")
    with pytest.raises(InputError, match=r"1 of 3 test images in the split list are missing \('cat/9\.png'\)"):
        load_task_data(load_task(str(path)), [home / "data"])


def test_split_list_with_duplicates_is_rejected(home):
    own_folders(home, ["cat", "dog"])
    path = pin(home, "pinned", "cat/0.png\ndog/3.png\ncat/0.png\n")
    with pytest.raises(InputError, match=r"names 'cat/0\.png' twice"):
        load_task_data(load_task(str(path)), [home / "data"])


@pytest.mark.parametrize("klass", ["#a", "# a"])
def test_pinned_split_keeps_classes_that_start_with_hash(home, klass):
    drawn = own_folders(home, [klass, "b"])
    path = pin(home, "pinned", "# A comment.\n#\n" + drawn.drawn_list)
    pinned = load_task_data(load_task(str(path)), [home / "data"])
    assert list(pinned.splits["test"].ids) == list(drawn.splits["test"].ids)
    assert counts(pinned, "test") == {klass: 1, "b": 1}


def test_names_that_are_not_utf8_can_be_read_and_pinned(home):
    own_folders(home, ["cat", "dog"])
    folder = os.fsencode(home / "data" / "mine")
    for name in (b"/cat/", b"/caf\xe9/"):
        os.makedirs(folder + name, exist_ok=True)
        for number in range(3):
            with open(folder + name + b"\xe9%d.png" % number, "wb") as file:
                file.write((home / "data" / "mine" / "dog" / f"{number}.png").read_bytes())
    drawn = load_task_data(load_task("mine.toml"), [home / "data"])
    assert drawn.classes == (r"caf\xe9", "cat", "dog") and len(drawn.fingerprint) == 64
    assert r"caf\xe9/\xe91.png" in {name for split in drawn.splits.values() for name in split.ids}
    for split in drawn.splits.values():
        assert len(split.images.stamp()) == 64
        assert {split.images.read(index).shape for index in range(len(split))} == {(48, 64, 3)}
    write_drawn_split(home / "splits", drawn)
    pinned = load_task_data(load_task(str(pin(home, "pinned", drawn.drawn_list))), [home / "data"])
    assert pinned.splits["test"].ids == drawn.splits["test"].ids


def test_renumbered_sketches_are_rejected(tmp_path):
    names = ("airplane", "alarm clock", "mouse (animal)")
    for label, name in enumerate(names):
        for number in range(80):
            # The numbers cycle through the classes.
            trees.save(
                tmp_path / "turns" / "png" / name / f"{3 * number + label + 1}.png", trees.image(label, 0), "PNG"
            )
            trees.save(tmp_path / "twins" / "png" / name / f"{number + 1}.png", trees.image(label, 0), "PNG")
    with pytest.raises(
        InputError, match=r"class 'alarm clock' has \d+ test images instead of 16\)\. Some mirrors renumber"
    ):
        load("sketch250", tmp_path / "turns")
    with pytest.raises(InputError, match=r"3 files are named '1'\)\. Some mirrors renumber"):
        load("sketch250", tmp_path / "twins")


def test_incomplete_sketches_are_not_taken_for_renumbered(tmp_path):
    trees.sketch250(tmp_path, per_class=70)
    assert set(counts(load("sketch250", tmp_path), "test").values()) <= set(range(10, 17))
