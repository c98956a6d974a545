"""Entries with an image's name that are not files: broken links, pipes, folders."""

import os

import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import describe_unused, load_task_data
from tests import trees
from tests.data.helpers import MINE, load

KINDS = {
    "a broken link": lambda path: path.symlink_to("not there"),
    "a pipe, socket or device": os.mkfifo,
}
KINDS_AND_CIRCLE = [*KINDS.items(), ("a broken link", lambda path: path.symlink_to(path.name))]


def instead(path, make):
    path.unlink()
    make(path)


@pytest.mark.parametrize(("what", "make"), KINDS_AND_CIRCLE)
@pytest.mark.parametrize("layout", ["folders", "split-folders"])
def test_unreadable_entries_make_data_incomplete(home, what, make, layout):
    for folder in ("mine/train", "mine/test"):
        for label in range(2):
            for number in range(5):
                trees.save(home / "data" / folder / f"c{label}" / f"{number}.png", trees.image(label, number), "PNG")
    root = {"folders": "mine/train", "split-folders": "mine"}[layout]
    (home / "mine.toml").write_text(MINE.replace("folders", layout).replace('root = "mine"', f'root = "{root}"'))
    task, roots = load_task("mine.toml"), [home / "data"]
    assert not load_task_data(task, roots).partial
    instead(home / "data" / "mine" / "train" / "c1" / "3.png", make)
    with pytest.raises(
        InputError, match=rf"is incomplete: .*1 entry with an image's name cannot be read \('c1/3\.png' is {what}\)"
    ):
        load_task_data(task, roots)
    data = load_task_data(task, roots, partial=True)
    assert data.unused == () and sum(map(len, data.splits.values())) == (9 if layout == "folders" else 19)
    for number in (0, 1, 2, 4):
        instead(home / "data" / "mine" / "train" / "c1" / f"{number}.png", make)
    # The endings are right, so the error does not mention them.
    with pytest.raises(
        InputError, match=rf"'c1' .* has no images \('c1': 5 entries with images' names .*{what}.*…\)\)\. Copy"
    ):
        load_task_data(task, roots, partial=True)


def test_broken_link_that_shifts_the_split_is_reported(tmp_path):
    root = trees.caltech256(tmp_path)
    instead(root / "256_ObjectCategories" / "056.dog" / "056_0001.jpg", KINDS["a broken link"])
    assert any("'056.dog/056_0001.jpg' is a broken link" in problem for problem in load("caltech256", root).problems)


def test_unreadable_entries_of_a_flat_folder_are_reported(home):
    root = trees.imagenet_kaggle(home / "data")
    folder = root / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    first, *others = sorted(folder.iterdir())
    instead(first, KINDS["a broken link"])
    assert any(
        f"in val, 1 entry with an image's name cannot be read ({first.name!r} is" in problem
        for problem in load("imagenet1k", root).problems
    )
    for path in others:
        instead(path, KINDS["a pipe, socket or device"])
    with pytest.raises(InputError, match="val of task imagenet1k has no readable image: in val, 9 entries"):
        load("imagenet1k", root)


def test_folder_named_like_an_image_is_unused(home):
    trees.mine(home / "data" / "mine")
    (home / "data" / "mine" / "c0" / "9.png").mkdir()
    (home / "mine.toml").write_text(MINE)
    data = load_task_data(load_task("mine.toml"), [home / "data"])
    assert data.unused == (
        "c0/9.png/",
    ) and "Only files directly in a class folder with one of the endings" in describe_unused(data)
