"""Behaviour of all layouts: missing and incomplete data, pinned counts, system files, fingerprints."""

from typing import get_args

import pytest

from lrbench.config import load_task
from lrbench.config.files import Files
from lrbench.core.errors import InputError
from lrbench.data.layouts.registry import LAYOUTS
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.helpers import MINE, counts, load


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
def test_incomplete_data_needs_partial(tmp_path, name, tree):
    tree(tmp_path)
    task = load_task(name)
    with pytest.raises(InputError, match=f"the data of task {name} at .* is incomplete: .*--partial"):
        load_task_data(task, [tmp_path])
    data = load_task_data(task, [tmp_path], partial=True)
    assert data.partial and data.problems


@pytest.mark.parametrize("name", ["imagenet1k", "caltech256", "cub200", "indoor67", "sketch250"])
def test_missing_data_error_names_paths_and_how_to_get_it(tmp_path, name):
    with pytest.raises(InputError) as missing:
        load_task_data(load_task(name), [tmp_path / "data"])
    message = str(missing.value)
    assert str(tmp_path / "data") in message
    assert "lrbench data fetch" in message or "image-net.org" in message
    assert "--data-root" in message


def test_file_instead_of_folder_is_reported(tmp_path):
    (tmp_path / "CUB_200_2011").write_bytes(b"x")
    with pytest.raises(InputError, match="CUB_200_2011 is a file"):
        load("cub200", tmp_path)


def test_fingerprint_changes_with_a_label(home):
    trees.mine(home / "data" / "mine")
    (home / "mine.toml").write_text(MINE)
    before = load_task_data(load_task("mine.toml"), [home / "data"]).fingerprint
    (home / "data" / "mine" / "c0" / "0.png").rename(home / "data" / "mine" / "c1" / "9.png")
    assert load_task_data(load_task("mine.toml"), [home / "data"]).fingerprint != before


def own(home, kind="PNG", ending="png", split=""):
    """Write two class folders of five images each and a task for them; return the task."""
    for label in range(2):
        for number in range(5):
            trees.save(home / "data" / "mine" / f"c{label}" / f"{number}.{ending}", trees.image(label, number), kind)
    (home / "mine.toml").write_text(split + MINE)
    return load_task("mine.toml")


def test_image_endings_ignore_case(home):
    data = load_task_data(own(home, "JPEG", "JPG"), [home / "data"])
    assert counts(data, "train") == {"c0": 4, "c1": 4}


def test_system_files_are_ignored(home):
    task = own(home)
    before = load_task_data(task, [home / "data"]).fingerprint
    folder = home / "data" / "mine"
    for place in (folder, folder / "c0"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", ".hidden.jpg"):
            (place / name).write_bytes(b"no image")
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        (folder / name).mkdir()
        (folder / name / "._0.png").write_bytes(b"no image")
    assert load_task_data(task, [home / "data"]).fingerprint == before


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ("classes = 3\n", "it has 2 classes, expected 3"),
        ("counts = { test = 3 }\n", "it has 2 test images, expected 3"),
        ("counts = { train = 9 }\n", "it has 8 train images, expected 9"),
        ("counts = { val = 1 }\n", "it has 0 val images, expected 1"),
    ],
)
def test_wrong_counts_make_data_incomplete(home, pins, message):
    task = own(home, split=pins)
    with pytest.raises(InputError, match=message):
        load_task_data(task, [home / "data"])
    data = load_task_data(task, [home / "data"], partial=True)
    assert data.partial and data.problems == (message,)


def test_data_with_pinned_counts_is_complete(home):
    task = own(home, split="classes = 2\ncounts = { train = 8, test = 2 }\n")
    assert not load_task_data(task, [home / "data"], partial=True).partial


def test_advice_names_an_unregistered_toml_by_path(home, lrbench):
    (home / "my tasks").mkdir()
    (home / "my tasks" / "mine.toml").write_text(
        MINE + '[[archives]]\nurl = "http://127.0.0.1:9/mine.zip"\nunpacks_to = "mine"\n'
    )
    task = load_task("my tasks/mine.toml")
    with pytest.raises(InputError, match=r"`lrbench data fetch 'my tasks/mine\.toml'`"):
        load_task_data(task, [home / "data"])
    own(home)
    for picture in (home / "data" / "mine" / "c0").iterdir():
        picture.write_bytes(b"no image")
    with pytest.raises(
        InputError, match=r"`lrbench data verify 'my tasks/mine\.toml'` \(with the same --data-root\) lists"
    ):
        load_task_data(task, [home / "data"]).splits["test"].images.read(0)
    assert lrbench("data", "verify", "my tasks/mine.toml").status == 1


def test_location_of_toml_is_not_part_of_the_task(home):
    own(home)
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "mine.toml").write_text(MINE)
    first, other = load_task("mine.toml"), load_task("elsewhere/mine.toml")
    assert first.model_dump() == other.model_dump()
    assert load_task("cub200").argument == "cub200" and other.argument == "elsewhere/mine.toml"


def test_every_layout_has_a_reader():
    records, _ = get_args(Files)
    names = {get_args(record.model_fields["layout"].annotation)[0] for record in get_args(records)}
    assert names == {*LAYOUTS, "synthetic"}
    assert all(layout.description for layout in LAYOUTS.values())
