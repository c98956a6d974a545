"""Drawn splits that keep groups of images together, such as those of one patient."""

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from lrbench.stats.grouping import hold_out_groups
from lrbench.store.cells import task_sha256
from lrbench.transfer.protocols.crossval import assign_folds
from lrbench.transfer.selection import validation_split
from tests.trees import image, save


@pytest.fixture
def patients(tmp_path):
    """Forty patients with three images each, of which every fifth is ill; in a table and in class folders."""
    lines = ["image,label,patient"]
    for patient in range(40):
        label = "ill" if patient % 5 == 0 else "healthy"
        for number in range(3):
            save(tmp_path / "scans" / label / f"p{patient:02d}-{number}.png", image(0, number, size=(8, 8)))
            lines.append(f"{label}/p{patient:02d}-{number}.png,{label},{patient}")
    (tmp_path / "scans.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def read(folder, files, split):
    path = folder / "scans.toml"
    path.write_text(f'name = "scans"\n[files]\n{files}\nsplit = {split}\n')
    return load_task_data(load_task(str(path)), (folder,))


TABLE = 'layout = "table"\nfile = "scans.csv"\nimages = "scans"'
FOLDERS = 'layout = "folders"\nroot = "scans"'


@pytest.mark.parametrize(
    ("files", "group"),
    [(TABLE, 'column = "patient"'), (TABLE, 'pattern = "(p[0-9]+)-"'), (FOLDERS, 'pattern = "/(p[0-9]+)-"')],
)
def test_no_group_is_in_two_splits(patients, files, group):
    data = read(patients, files, f'{{ kind = "drawn", test = 0.25, group = {{ {group} }} }}')
    train, test = (set(data.splits[name].groups) for name in ("train", "test"))
    assert not train & test and len(train) == 30
    # A quarter of the patients of each class.
    assert np.bincount(data.splits["test"].labels).tolist() == [24, 6]
    assert data.drawn_list.count("\n") == 31


@pytest.mark.parametrize("group", ['column = "patient"', "level = 1"])
def test_group_in_two_unicode_forms_is_one_group(tmp_path, group):
    lines = ["image,label,patient"]
    # Composed, and decomposed as on macOS.
    for patient, name in enumerate(["Mu\u0308ller", "M\u00fcller", "Roe", "Doe"]):
        for label in ("ill", "healthy"):
            save(tmp_path / "scans" / name / f"{label}.png", image(0, patient, size=(8, 8)))
            lines.append(f"{name}/{label}.png,{label},{name}")
    (tmp_path / "scans.csv").write_text("\n".join(lines) + "\n")
    data = read(tmp_path, TABLE, f'{{ kind = "drawn", test = 0.34, group = {{ {group} }} }}')
    assert sorted({name for split in data.splits.values() for name in split.groups}) == ["Doe", "M\u00fcller", "Roe"]


def test_folder_level_and_seed_select_the_groups(tmp_path):
    lines = ["image,label"]
    for scene in range(8):
        for label in ("day", "night"):
            save(tmp_path / "photos" / f"scene{scene}" / f"{label}.png", image(0, scene, size=(8, 8)))
            lines.append(f"scene{scene}/{label}.png,{label}")
    (tmp_path / "photos.csv").write_text("\n".join(lines) + "\n")
    files = 'layout = "table"\nfile = "photos.csv"\nimages = "photos"'
    tests = [
        set(read(tmp_path, files, f'{{ kind = "drawn", test = 0.25, seed = {seed}, group = {{ level = 1 }} }}').drawn)
        for seed in range(4)
    ]
    assert all(len(images) == 4 for images in tests) and len(set(map(frozenset, tests))) > 1


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ('{ kind = "drawn", group = { pattern = "^(..)/" } }', "does not occur in the path"),
        ('{ kind = "drawn", group = { pattern = "^(ill|healthy)/" } }', "all images of class 'healthy'"),
        ('{ kind = "drawn", group = { level = 2 } }', "is in 1 folder, but"),
        ('{ kind = "drawn", group = { column = "patient" } }', "needs a table"),
        ('{ kind = "drawn", group = { pattern = "(" } }', "no regular expression"),
        ('{ kind = "drawn", train = 3, group = { level = 1 } }', "give test, not train"),
        ('{ kind = "drawn", group = { level = 1, pattern = "a" } }', "exactly one of"),
    ],
)
def test_wrong_groups_are_explained(patients, split, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read(patients, FOLDERS, split)


def test_tasks_without_groups_keep_their_hash(patients):
    """The hash of the description is that of the lrbench before groups."""
    read(patients, FOLDERS, '{ kind = "drawn", seed = 3 }')
    assert task_sha256(load_task(str(patients / "scans.toml"))).startswith("57cf9b9747f94021")


def test_held_out_groups_balance_classes():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 30, 200)
    groups = np.repeat(np.arange(200), sizes)
    labels = (generator.integers(0, 5, 200)[groups] + generator.integers(0, 2, len(groups))) % 5
    held_out = hold_out_groups(labels, groups, 0.2, range(200))[groups]
    shares = [held_out[labels == label].mean() for label in range(5)]
    assert np.allclose(shares, 0.2, atol=0.01)


def test_selection_and_folds_keep_groups_together():
    groups = np.repeat(np.arange(20), 4)
    labels = groups % 2
    train, validation = validation_split(labels, 0.2, 0, groups)
    assert not set(groups[train]) & set(groups[validation]) and len(validation) == 16
    folds = assign_folds(labels, 0, groups=groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    assert np.bincount(folds).tolist() == [16] * 5
