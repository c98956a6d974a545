"""What counts as fetched: data that is there whole, files put by hand, and what a download is held against."""

import errno
import hashlib
import os
import shutil
import threading

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError
from lrbench.data import fetch as module
from lrbench.data.fetch import fetch
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.serving import ASKED, CUT, FILES, GOOD, Watching, tar, task, with_archives, zipped


def whole(name, data):
    """A registered task, of which a small tree is the whole."""
    described = load_task(name)
    described = described.model_copy(update={"files": described.files.model_copy(update={"hashes": {}})})
    found = load_task_data(described, [data], partial=True)
    counts = {split: len(found.splits[split]) for split in found.splits}
    return described.model_copy(update={"counts": counts, "classes": len(found.classes), "least": {}, "most": {}})


@pytest.fixture
def no_network(monkeypatch):
    def refuse(task, archive, path, control):
        raise AssertionError(f"would download {archive.url}")

    monkeypatch.setattr(module, "download", refuse)


def test_data_in_a_folder_that_a_reader_knows_is_not_fetched_again(home, no_network):
    data = trees.caltech256(home / "data")
    (data / "caltech256").mkdir()
    (data / "256_ObjectCategories").rename(data / "caltech256" / "256_ObjectCategories")
    control = Watching()
    fetch(whole("caltech256", data), data, control)
    assert control.said == [f"caltech256 is already complete in {data}/caltech256/256_ObjectCategories"]


def test_kaggles_folder_of_indoor_scenes_is_not_fetched_again(home, no_network):
    data = trees.indoor67(home / "data")
    for name in ("TrainImages.txt", "TestImages.txt"):
        (data / "indoorCVPR_09" / name).rename(data / name)
    control = Watching()
    fetch(whole("indoor67", data), data, control)
    assert len(control.said) == 1 and "indoor67 is already complete" in control.said[0]


def test_data_under_another_root_is_not_fetched_again(home, no_network):
    control = Watching()
    other = trees.caltech256(home / "other")
    fetch(whole("caltech256", other), home / "data", control, roots=(home / "data", home / "other"))
    assert control.said == [f"caltech256 is already complete in {home}/other/256_ObjectCategories"]
    assert not (home / "data").exists()


def test_data_that_is_there_in_part_is_fetched(home, no_network):
    data = trees.caltech256(home / "data")
    (data / "caltech256").mkdir()
    (data / "256_ObjectCategories").rename(data / "caltech256" / "256_ObjectCategories")
    described = whole("caltech256", data)
    shutil.rmtree(data / "caltech256" / "256_ObjectCategories" / "056.dog")
    with pytest.raises(AssertionError, match="would download"):
        fetch(described, data, Control())


def test_lists_are_fetched_beside_images_that_lie_under_another_known_name(home, server):
    data = trees.indoor67(home / "data")
    described = whole("indoor67", data)
    folder = data / "indoorCVPR_09"
    assert (folder / "Images").is_dir()
    described = described.model_copy(
        update={
            "archives": tuple(
                each.model_copy(
                    update={
                        "url": f"{server}/{each.url.rpartition('/')[2]}", "mirrors": (), "md5": None, "bytes": None,
                        "images": 3 if each.images else None,
                    }
                )
                for each in described.archives
            )
        }
    )  # fmt: skip
    for name in ("TrainImages.txt", "TestImages.txt"):
        FILES[f"/{name}"] = (folder / name).read_bytes()
        (folder / name).unlink()
    fetch(described, data, Control())
    # The images' archive, which no server offers, was not asked for.
    assert (folder / "TestImages.txt").is_file() and not load_task_data(described, [data]).partial


def test_a_folder_of_the_right_name_that_holds_a_part_is_not_reported_as_fetched(lrbench, home):
    (home / "data" / "cifar-10-batches-py").mkdir(parents=True)
    (home / "data" / "cifar-10-batches-py" / "junk").write_bytes(b"x")
    outcome = lrbench("data", "fetch", "cifar10")
    assert outcome.status == FailureError.exit_status
    assert "its data is incomplete" in outcome.err and "Move cifar-10-batches-py out of data" in outcome.err


def test_fetching_looks_at_all_data_roots_first(lrbench, home, monkeypatch):
    other = trees.caltech256(home / "other")
    described = whole("caltech256", other)
    monkeypatch.setattr("lrbench.config.load_task", lambda name: described)
    monkeypatch.setenv("LRBENCH_DATA", f"{home / 'data'}:{other}")
    found = lrbench("data", "fetch", "caltech256")
    assert found.status == 0 and "is already complete" in found.err


def listed(home, server, content, **changes):
    """A task with an archive that is unpacked and a list that is used as it is."""
    described = task(home, server)
    changes = {"url": f"{server}/list.txt", "unpacks_to": None, "md5": None, "into": "lists", **changes}
    FILES.update({"/mine.tar.gz": GOOD, "/list.txt": content})
    return with_archives(described, {}, changes)


def test_every_archive_is_fetched_into_its_own_folder(home, server):
    FILES["/more.tar.gz"] = tar({"more/x.txt": b"x"})
    described = listed(home, server, b"a/1.txt\n")
    other = described.archives[0].model_copy(
        update={"url": f"{server}/more.tar.gz", "md5": None, "unpacks_to": "more", "into": "deep/er"}
    )
    described = described.model_copy(update={"archives": (*described.archives, other)})
    fetch(described, home / "data", Control())
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").is_file()
    assert (home / "data" / "lists" / "list.txt").read_bytes() == b"a/1.txt\n"
    assert (home / "data" / "deep" / "er" / "more" / "x.txt").read_bytes() == b"x"
    assert not (home / "data" / "list.txt").exists() and not (home / "data" / "more").exists()


def test_a_list_that_is_a_web_page_is_set_aside_and_fetched_again(home, server):
    content = b"a/1.txt\n"
    described = listed(home, server, content, md5=hashlib.md5(content).hexdigest())
    path = home / "data" / "lists" / "list.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<!DOCTYPE html>please log in")
    fetch(described, home / "data", Control())
    assert path.read_bytes() == content
    assert path.with_name("list.txt.bad").read_bytes() == b"<!DOCTYPE html>please log in"
    ASKED.clear()
    fetch(described, home / "data", Control())
    assert not ASKED


def test_a_folder_where_a_list_should_be_is_named(home, server):
    described = listed(home, server, b"a/1.txt\n")
    (home / "data" / "lists" / "list.txt").mkdir(parents=True)
    with pytest.raises(InputError, match=r"lists/list\.txt is a folder, but task fetched needs a file there"):
        fetch(described, home / "data", Control())


def test_a_wrong_file_put_by_hand_is_neither_believed_nor_deleted(home, server):
    FILES["/mine.tar.gz"] = GOOD
    wrong = tar({"mine/train/a/1.txt": b"of somebody else"})
    path = home / "data" / "mine.tar.gz"
    path.parent.mkdir()
    path.write_bytes(wrong)
    control = Watching()
    fetch(task(home, server), home / "data", control)
    assert path.read_bytes() == GOOD and (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert path.with_name("mine.tar.gz.bad").read_bytes() == wrong
    assert any("has md5" in said and "renamed to mine.tar.gz.bad" in said for said in control.said)
    # A second one does not take the first one's place.
    (home / "data" / "mine").rename(home / "elsewhere")
    path.write_bytes(b"another")
    fetch(task(home, server), home / "data", Control())
    assert path.with_name("mine.tar.gz.bad").read_bytes() == wrong
    assert path.with_name("mine.tar.gz.bad2").read_bytes() == b"another"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"bytes": len(GOOD)}, f"has {len(GOOD) + 1:,} bytes, expected {len(GOOD):,}"),
        ({"sha256": hashlib.sha256(GOOD).hexdigest()}, f"has sha256 .*, expected {hashlib.sha256(GOOD).hexdigest()}"),
    ],
)
def test_a_download_is_held_against_all_that_is_known_of_it(home, server, known, said):
    described = with_archives(task(home, server), {"md5": None, **known})
    # Gzip does not mind what follows it, so that nothing else tells.
    FILES["/mine.tar.gz"] = GOOD + b"\0"
    with pytest.raises(FailureError, match=said):
        fetch(described, home / "data", Control())
    assert not (home / "data" / "mine").exists()
    FILES["/mine.tar.gz"] = GOOD
    fetch(described, home / "data", Control())
    assert (home / "data" / "mine").is_dir()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "is a web page"),
        ("\ufeff<html><body>moved".encode("utf-16-le"), "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML page instead of the file"),
        (b"", "is empty"),
    ],
)
def test_what_a_server_sends_in_a_files_place_is_named(home, server, content, said):
    described = listed(home, server, content)
    with pytest.raises(
        FailureError, match=rf"list\.txt of task fetched could not be downloaded.*the received file {said}"
    ):
        fetch(described, home / "data", Control())
    assert not (home / "data" / "lists" / "list.txt").exists()


def test_a_file_that_is_xml_by_its_hash_is_what_it_should_be(home, server):
    content = b'<?xml version="1.0"?><annotation/>'
    fetch(listed(home, server, content, md5=hashlib.md5(content).hexdigest()), home / "data", Control())
    assert (home / "data" / "lists" / "list.txt").read_bytes() == content


def test_without_a_hash_or_a_size_another_address_is_begun_anew(home, server):
    first = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    FILES["/mine.tar.gz"], FILES["/copy/mine.tar.gz"] = first, GOOD + bytes(4_000_000)
    # The first address gives a megabyte and then no more.
    CUT["/mine.tar.gz"] = 1_200_000
    control = Control()
    control.progress = lambda done, total, unit: CUT.update({"/mine.tar.gz": 0})
    described = task(home, server, mirrors=f'["{server}/copy/mine.tar.gz"]')
    fetch(with_archives(described, {"md5": None}), home / "data", control)
    assert ASKED[-1] == ("/copy/mine.tar.gz", None) and ASKED[-2][0] == "/mine.tar.gz"
    assert (home / "data" / "mine.tar.gz").read_bytes() == FILES["/copy/mine.tar.gz"]


@pytest.mark.parametrize("pinned", [True, False])
def test_two_that_fetch_at_once_do_the_work_once(home, server, pinned):
    content = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(6_000_000)})
    FILES["/mine.tar.gz"] = content
    described = task(home, server, content)
    described = with_archives(described, {} if pinned else {"md5": None})
    outcomes, begun = [], threading.Event()

    def work():
        control = Watching()
        # Slow enough for the other one to come in the midst of it.
        control.progress = lambda done, total, unit: begun.set() or threading.Event().wait(0.05)
        try:
            fetch(described, home / "data", control)
            outcomes.append(control.said)
        except BaseException as error:
            outcomes.append(error)

    both = [threading.Thread(target=work) for _ in range(2)]
    both[0].start()
    assert begun.wait(20)
    both[1].start()
    for each in both:
        each.join()
    assert len(ASKED) == 1
    assert sorted(len(said) for said in outcomes) == [1, 3] and outcomes[1] == [f"{home}/data/mine already exists"]
    assert not list((home / "data").glob("*.part"))


def test_a_full_disk_under_a_data_root_is_answered_with_the_data_root(home, server, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lrbench.data.download._download_from", full)
    with pytest.raises(
        FailureError,
        match=r"choose a larger disk \(--data-root or LRBENCH_DATA for data, LRBENCH_HOME for everything else\)",
    ):
        fetch(task(home, server), home / "data", Control())


def test_lists_at_the_top_of_sun397s_archive_are_found_where_its_task_looks(home, server):
    described = load_task("sun397")
    lists = described.archives[1]
    FILES["/Partitions.zip"] = zipped({"Training_01.txt": b"/a/x.jpg\n", "Testing_01.txt": b"/a/y.jpg\n"})
    served = lists.model_copy(update={"url": f"{server}/Partitions.zip", "sha256": None})
    # The lists are fetched, and that the images are not there is told.
    with pytest.raises(FailureError, match=r"its data is incomplete: .*no folder SUN397 in it.*Move Partitions out of"):
        fetch(described.model_copy(update={"archives": (served,)}), home / "data", Control())
    assert any((home / "data" / name).is_file() for name in described.files.train)
