"""VTAB-1k's tasks, and other tasks of published layouts that need no reader of their own."""

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.config.protocols import PROTOCOLS
from lrbench.config.registry import find_groups, tasks_named
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.helpers import counts, load

TASKS = tasks_named(["vtab"])


def test_vtab_has_seven_natural_four_specialised_and_eight_structured_tasks():
    sizes = {name: len(members) for name, members in find_groups().items() if name.startswith("vtab")}
    assert sizes == {"vtab": 19, "vtab-natural": 7, "vtab-specialised": 4, "vtab-structured": 8}
    assert set(TASKS) == set(tasks_named(["vtab-natural,vtab-specialised", "vtab-structured", "vtab-dtd"]))


@pytest.mark.parametrize("name", TASKS)
def test_vtab_lists_are_read_as_published(tmp_path, name):
    task = load_task(name)
    assert (task.counts["train"], task.counts["val"], task.metric) == (800, 200, "top1")
    trees.vtab(tmp_path, task.files.root[1])
    with pytest.raises(InputError, match="expected 800"):
        load_task_data(task, [tmp_path])
    data = load(name, tmp_path)
    assert {split: counts(data, split) for split in data.splits} == {
        "train": dict.fromkeys("0123", 4),
        "val": dict.fromkeys("0123", 1),
        "test": dict.fromkeys("0123", 3),
    }
    assert data.splits["val"].ids[0] == "images/val200/000000.jpg"
    # The vtab-1k folder itself may be the data root.
    assert load(name, tmp_path / "vtab-1k").fingerprint == data.fingerprint


def test_a_class_without_training_images_is_kept(home):
    trees.vtab(home / "data", "sun397", untrained=1)
    data = load("vtab-sun397", home / "data")
    assert data.classes == ("0", "1", "2", "3") and 1 not in data.splits["train"].labels
    (home / "refused.toml").write_text(
        'name = "refused"\nlike = "vtab-caltech101"\nuntrained_classes = false\n[files]\nroot = "vtab-1k/sun397"\n'
    )
    with pytest.raises(InputError, match="test images of class '1', but no training images"):
        load("refused.toml", home / "data")


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "concat"])
def test_every_protocol_accepts_a_class_without_training_images(home, lrbench, pretrain_tiny, protocol):
    pretrain_tiny("step", "hold")
    trees.vtab(home / "data", "sun397", untrained=1)
    words = ("--snapshot", "stage1", "--task", "vtab-sun397", "--partial", "--protocol", protocol)
    done = lrbench("transfer", *words)
    assert done.status == 0, done.err
    # Chance is a quarter, and the images of the class are all wrong.
    assert float(done.out.partition("top-1 ")[2].split()[0]) <= 75


def test_inaturalist_is_read_by_species(tmp_path):
    data = load("inat2021-mini", trees.inat2021_mini(tmp_path))
    assert [len(data.splits[split]) for split in ("train", "test")] == [6, 4] and len(data.classes) == 2
    assert data.classes[1].startswith("00001_Animalia_Annelida_Polychaeta")
    assert np.array_equal(data.splits["test"].labels, [0, 0, 1, 1])
