"""Further test sets of ImageNet's classifier, on small trees in the official layouts."""

import json

import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.helpers import load

FIRST, THIRD, LAST = "n01440764", "n01484850", "n15075141"
FOLDERS = {
    "imagenet-v2": ("imagenetv2-matched-frequency-format-val", {"0": "04{}.jpeg", "2": "13{}.jpeg", "999": "5{}.jpeg"}),
    "imagenet-a": (
        "imagenet-a",
        {FIRST: "0.00{}_soap dispenser _ hair dryer_0.28.jpg", LAST: "0.1{}_apron _ apron.jpeg"},
    ),
    "imagenet-r": ("imagenet-r", {FIRST: "cartoon_{}.jpg", LAST: "painting_{}.jpg"}),
    "imagenet-sketch": ("sketch", {FIRST: "sketch_{}.JPEG", LAST: "sketch_{}.JPEG"}),
}
COUNTS = {"imagenet-v2": 10_000, "imagenet-a": 7_500, "imagenet-r": 30_000, "imagenet-sketch": 50_889}


@pytest.mark.parametrize("name", FOLDERS)
def test_official_class_folders_are_read(tmp_path, name):
    folder, names = FOLDERS[name]
    trees.class_folders(tmp_path / folder, names)
    task = load_task(name)
    assert task.counts == {"test": COUNTS[name]} and task.metric == "top1"
    with pytest.raises(InputError, match=f"expected {COUNTS[name]:,}"):
        load_task_data(task, [tmp_path])
    data = load(name, tmp_path)
    assert set(data.splits) == {"test"}
    tested = [data.classes[label] for label in data.splits["test"].labels]
    expected = (FIRST, THIRD, LAST) if name == "imagenet-v2" else (FIRST, LAST)
    assert tested == [one for one in expected for _ in range(3)]
    # A task of 1,000 classes compares all of them, even if a folder is missing.
    assert len(data.classes) == (1000 if task.classes == 1000 else 2)


def test_a_folder_that_is_no_class_is_refused(tmp_path):
    trees.class_folders(tmp_path / "imagenet-a", {FIRST: "{}.jpg", "n00000000": "{}.jpg"})
    with pytest.raises(InputError, match=r"1 folder named neither like a class .*n00000000"):
        load("imagenet-a", tmp_path)


@pytest.mark.parametrize("flat", [True, False])
def test_reassessed_labels_are_joined_by_number(tmp_path, flat):
    trees.imagenet(tmp_path)
    val = tmp_path / "imagenet" / "val"
    if flat:
        for picture in list(val.glob("*/*.JPEG")):
            picture.rename(val / picture.name)
    accepted = [[5, 7], [], [2], [999], [0, 1, 2], [], [4], [], [8]]
    (tmp_path / "imagenet" / "real.json").write_text(json.dumps(accepted))
    data = load("imagenet-real", tmp_path)
    test = data.splits["test"]
    assert [name[-7:-5] for name in test.ids] == ["01", "03", "04", "05", "07", "09"]
    assert list(test.labels) == [5, 2, 999, 0, 4, 8] and len(data.classes) == 1000
    assert [int(column[3]) for column in test.annotations.values()] == [0, 1, 2]
    assert any("is not the list that the task pins" in problem for problem in data.problems)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[[1]", "it is not JSON"), ("[[1000]]", "numbers from 0 to 999"), ("[[1], [2]]", "not numbered from 1 to 2")],
)
def test_wrong_labels_are_refused(tmp_path, content, message):
    trees.imagenet(tmp_path)
    with pytest.raises(InputError, match="the labels of task imagenet-real were not found"):
        load("imagenet-real", tmp_path)
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load("imagenet-real", tmp_path)


def test_images_that_cannot_be_read_are_named(tmp_path):
    val = tmp_path / "imagenet" / "val"
    val.mkdir(parents=True)
    (val / "ILSVRC2012_val_00000001.JPEG").symlink_to("nowhere")
    (tmp_path / "real.json").write_text("[[1]]")
    with pytest.raises(InputError, match=r"no image in .*val of task imagenet-real can be read: .*00000001.JPEG"):
        load("imagenet-real", tmp_path)


def test_layout_and_head_belong_together(home):
    path = home / "mine.toml"
    path.write_text('name = "mine"\n[files]\nlayout = "test-folders"\n')
    with pytest.raises(InputError, match="add a table"):
        load_task("mine.toml")
    path.write_text('name = "mine"\nlike = "imagenet-v2"\n[files]\nlayout = "folders"\nroot = "."\n')
    with pytest.raises(InputError, match="has the layout 'test-folders' or 'test-labels', not 'folders'"):
        load_task("mine.toml")
