"""Split lists are compared with their hashes at unpacking; data with a changed list is incomplete."""

import hashlib
import io
import tarfile

import pytest

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.data.fetch import fetch
from lrbench.data.loading import load_task_data
from tests import trees

MARK = ".lrbench-fetched.json"


def packed(folder):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return buffer.getvalue()


def fetched(name, make, home, server):
    """Fetch the small tree of a registered task from one archive per folder; return the task and its data root."""
    tree = make(home / "source")
    task = load_task(name)
    archives = []
    for archive in task.archives:
        content = packed(tree / archive.into / archive.unpacks_to)
        server.files[f"/{archive.unpacks_to}.tar.gz"] = content
        known = {"md5": hashlib.md5(content).hexdigest(), "sha256": None, "images": None, "mirrors": ()}
        archives.append(archive.model_copy(update={"url": f"{server.url}/{archive.unpacks_to}.tar.gz", **known}))
    loaded = load_task_data(task, [tree], partial=True)
    task = task.model_copy(
        update={
            "archives": tuple(archives),
            "classes": len(loaded.classes),
            "counts": {split: len(images) for split, images in loaded.splits.items()},
            "least": {},
            "most": {},
        }
    )
    fetch(task, home / "data", Control())
    return task, home / "data"


def test_swapped_split_flags_are_detected(home, server):
    cub, data = fetched("cub200", trees.cub200, home, server)
    assert not load_task_data(cub, [data]).problems
    split = data / "CUB_200_2011" / "train_test_split.txt"
    text = split.read_text()
    # Images 1 and 10 are of the same class, so no count changes.
    split.write_text(text.replace("\n10 0\n", "\n10 1\n").replace("\n1 1\n", "\n1 0\n"))
    assert split.read_text() != text
    with pytest.raises(
        InputError,
        match=r"is incomplete: .*train_test_split\.txt is not the list that was unpacked from CUB_200_2011\.tar\.gz \(sha256",
    ):
        load_task_data(cub, [data])
    assert load_task_data(cub, [data], partial=True).partial
    split.write_text(text)
    assert not load_task_data(cub, [data]).problems


def test_lists_in_a_separate_archive_are_checked(home, server):
    sun, data = fetched("sun397", trees.sun397, home, server)
    assert not load_task_data(sun, [data]).problems
    trained, tested = data / "Partitions" / "Training_01.txt", data / "Partitions" / "Testing_01.txt"
    for path, number, other in ((trained, 0, 5), (tested, 5, 0)):
        path.write_bytes(path.read_bytes().replace(f"sun_0{number}.jpg".encode(), f"sun_0{other}.jpg".encode()))
    with pytest.raises(InputError, match=r"Testing_01\.txt is not the list that was unpacked.*Training_01\.txt is not"):
        load_task_data(sun, [data])


@pytest.mark.parametrize(
    ("name", "make", "changed"),
    [("dtd", trees.dtd, "dtd/dtd/labels/train1.txt"), ("food101", trees.food101, "food-101/meta/train.json")],
)
def test_lists_read_by_torchvision_are_checked(home, server, name, make, changed):
    task, data = fetched(name, make, home, server)
    assert not load_task_data(task, [data]).problems
    # One more space, which does not change what is read.
    content = (data / changed).read_bytes()
    (data / changed).write_bytes(content.rstrip() + b" " + content[len(content.rstrip()) :])
    [problem] = load_task_data(task, [data], partial=True).problems
    assert problem.startswith(f"{data / changed} is not the list that was unpacked from ")


def test_data_without_a_marker_is_not_checked(home, server):
    cub, data = fetched("cub200", trees.cub200, home, server)
    mark = data / "CUB_200_2011" / MARK
    split = data / "CUB_200_2011" / "train_test_split.txt"
    split.write_text(split.read_text() + "\n")
    # Markers of an earlier version, damaged, and missing.
    long = f'{{"lists": {{"{"x" * 300}/train_test_split.txt": 1, "a\\u0000/images.txt": [], "../images.txt": {{}}}}}}'
    for content in ('{"archive": "a.tgz", "images": 3}', '["lists"]', "{", "[" * 100_000, long, None):
        mark.unlink() if content is None else mark.write_text(content)
        assert not load_task_data(cub, [data]).problems


def test_edited_lists_error_says_how_to_keep_them(home, server):
    tree = home / "source" / "mine"
    for number in range(4):
        for name in ("a", "b"):
            trees.save(tree / name / f"{number}.png", trees.image(0, number), "PNG")
    (tree / "train.txt").write_text("a/0.png\na/1.png\nb/0.png\n")
    (tree / "test.txt").write_text("a/2.png\nb/2.png\n")
    (tree / "notes.txt").write_text("as it came")
    server.files["/mine.tar.gz"] = packed(tree)
    (home / "t.toml").write_text(
        'name = "own"\n\n[files]\nlayout = "lists"\nroot = "mine"\ntrain = "train.txt"\ntest = "test.txt"\n\n'
        f'[[archives]]\nurl = "{server.url}/mine.tar.gz"\nunpacks_to = "mine"\n'
    )
    own = load_task("t.toml")
    fetch(own, home / "data", Control())
    (home / "data" / "mine" / "notes.txt").write_text("no list of its splits")
    assert not load_task_data(own, [home / "data"]).problems
    (home / "data" / "mine" / "test.txt").write_text("a/3.png\nb/3.png\n")
    with pytest.raises(InputError, match=rf"\(if this was intended, delete {MARK} in its folder\)"):
        load_task_data(own, [home / "data"])
    (home / "data" / "mine" / MARK).unlink()
    assert not load_task_data(own, [home / "data"]).problems


def test_edited_table_makes_data_incomplete(home, server):
    tree = home / "source" / "mine"
    for number in range(4):
        trees.save(tree / f"{number}.png", trees.image(number % 2, number), "PNG")
    table = "file,class,use\n" + "".join(f"{n}.png,{n % 2},{'test' if n > 1 else 'train'}\n" for n in range(4))
    (tree / "labels.csv").write_text(table)
    server.files["/mine.tar.gz"] = packed(tree)
    (home / "t.toml").write_text(
        'name = "own"\n\n[files]\nlayout = "table"\nroot = "mine"\nfile = "labels.csv"\n'
        'split = { kind = "column", name = "use" }\n\n'
        f'[[archives]]\nurl = "{server.url}/mine.tar.gz"\nunpacks_to = "mine"\n'
    )
    own = load_task("t.toml")
    fetch(own, home / "data", Control())
    assert not load_task_data(own, [home / "data"]).problems
    # Swaps two classes, so no count changes.
    swapped = table.replace("2.png,0", "2.png,1").replace("3.png,1", "3.png,0")
    (home / "data" / "mine" / "labels.csv").write_text(swapped)
    with pytest.raises(InputError, match=r"labels\.csv is not the list that was unpacked from mine\.tar\.gz"):
        load_task_data(own, [home / "data"])
