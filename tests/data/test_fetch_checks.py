"""When data counts as fetched, files downloaded by the user, and the checks of a download."""

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
from tests.data.archive_server import ARCHIVE, RecordingControl, archive_task, make_tar, make_zip, with_archives


def complete_task(name, data):
    """Return a registered task whose pins match a small tree."""
    task = load_task(name)
    task = task.model_copy(update={"files": task.files.model_copy(update={"hashes": {}})})
    loaded = load_task_data(task, [data], partial=True)
    counts = {split: len(loaded.splits[split]) for split in loaded.splits}
    return task.model_copy(update={"counts": counts, "classes": len(loaded.classes), "least": {}, "most": {}})


@pytest.fixture
def no_network(monkeypatch):
    def refuse(task, archive, path, control):
        raise AssertionError(f"would download {archive.url}")

    monkeypatch.setattr(module, "download", refuse)


def test_data_in_another_known_folder_is_not_fetched(home, no_network):
    data = trees.caltech256(home / "data")
    (data / "caltech256").mkdir()
    (data / "256_ObjectCategories").rename(data / "caltech256" / "256_ObjectCategories")
    control = RecordingControl()
    fetch(complete_task("caltech256", data), data, control)
    assert control.messages == [f"caltech256 is already complete in {data}/caltech256/256_ObjectCategories"]


def test_kaggle_copy_of_indoor67_is_not_fetched(home, no_network):
    data = trees.indoor67(home / "data")
    for name in ("TrainImages.txt", "TestImages.txt"):
        (data / "indoorCVPR_09" / name).rename(data / name)
    control = RecordingControl()
    fetch(complete_task("indoor67", data), data, control)
    assert len(control.messages) == 1 and "indoor67 is already complete" in control.messages[0]


def test_data_under_another_root_is_not_fetched(home, no_network):
    control = RecordingControl()
    other = trees.caltech256(home / "other")
    fetch(complete_task("caltech256", other), home / "data", control, roots=(home / "data", home / "other"))
    assert control.messages == [f"caltech256 is already complete in {home}/other/256_ObjectCategories"]
    assert not (home / "data").exists()


def test_incomplete_data_is_fetched(home, no_network):
    data = trees.caltech256(home / "data")
    (data / "caltech256").mkdir()
    (data / "256_ObjectCategories").rename(data / "caltech256" / "256_ObjectCategories")
    task = complete_task("caltech256", data)
    shutil.rmtree(data / "caltech256" / "256_ObjectCategories" / "056.dog")
    with pytest.raises(AssertionError, match="would download"):
        fetch(task, data, Control())


def test_lists_are_fetched_next_to_existing_images(home, server):
    data = trees.indoor67(home / "data")
    task = complete_task("indoor67", data)
    folder = data / "indoorCVPR_09"
    assert (folder / "Images").is_dir()
    task = task.model_copy(
        update={
            "archives": tuple(
                archive.model_copy(
                    update={
                        "url": f"{server.url}/{archive.url.rpartition('/')[2]}", "mirrors": (), "md5": None, "bytes": None,
                        "images": 3 if archive.images else None,
                    }
                )
                for archive in task.archives
            )
        }
    )  # fmt: skip
    for name in ("TrainImages.txt", "TestImages.txt"):
        server.files[f"/{name}"] = (folder / name).read_bytes()
        (folder / name).unlink()
    fetch(task, data, Control())
    # The archive of images, which the server does not have, was not requested.
    assert (folder / "TestImages.txt").is_file() and not load_task_data(task, [data]).partial


def test_incomplete_folder_is_an_error(lrbench, home):
    (home / "data" / "cifar-10-batches-py").mkdir(parents=True)
    (home / "data" / "cifar-10-batches-py" / "junk").write_bytes(b"x")
    outcome = lrbench("data", "fetch", "cifar10")
    assert outcome.status == FailureError.exit_status
    assert "its data is incomplete" in outcome.err and "Move cifar-10-batches-py out of data" in outcome.err


def test_fetch_searches_all_data_roots(lrbench, home, monkeypatch):
    other = trees.caltech256(home / "other")
    task = complete_task("caltech256", other)
    monkeypatch.setattr("lrbench.config.load_task", lambda name: task)
    monkeypatch.setenv("LRBENCH_DATA", f"{home / 'data'}:{other}")
    outcome = lrbench("data", "fetch", "caltech256")
    assert outcome.status == 0 and "is already complete" in outcome.err


def listed(home, server, content, **changes):
    """Return a task with an archive that is unpacked and a list that is used directly."""
    task = archive_task(home, server)
    changes = {"url": f"{server.url}/list.txt", "unpacks_to": None, "md5": None, "into": "lists", **changes}
    server.files.update({"/mine.tar.gz": ARCHIVE, "/list.txt": content})
    return with_archives(task, {}, changes)


def test_each_archive_is_fetched_into_its_folder(home, server):
    server.files["/more.tar.gz"] = make_tar({"more/x.txt": b"x"})
    task = listed(home, server, b"a/1.txt\n")
    other = task.archives[0].model_copy(
        update={"url": f"{server.url}/more.tar.gz", "md5": None, "unpacks_to": "more", "into": "deep/er"}
    )
    task = task.model_copy(update={"archives": (*task.archives, other)})
    fetch(task, home / "data", Control())
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").is_file()
    assert (home / "data" / "lists" / "list.txt").read_bytes() == b"a/1.txt\n"
    assert (home / "data" / "deep" / "er" / "more" / "x.txt").read_bytes() == b"x"
    assert not (home / "data" / "list.txt").exists() and not (home / "data" / "more").exists()


def test_list_that_is_a_web_page_is_fetched_again(home, server):
    content = b"a/1.txt\n"
    task = listed(home, server, content, md5=hashlib.md5(content).hexdigest())
    path = home / "data" / "lists" / "list.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<!DOCTYPE html>please log in")
    fetch(task, home / "data", Control())
    assert path.read_bytes() == content
    assert path.with_name("list.txt.bad").read_bytes() == b"<!DOCTYPE html>please log in"
    server.requests.clear()
    fetch(task, home / "data", Control())
    assert not server.requests


def test_folder_in_place_of_a_list_is_named(home, server):
    task = listed(home, server, b"a/1.txt\n")
    (home / "data" / "lists" / "list.txt").mkdir(parents=True)
    with pytest.raises(InputError, match=r"lists/list\.txt is a folder, but task fetched needs a file there"):
        fetch(task, home / "data", Control())


def test_wrong_file_of_the_user_is_renamed_not_deleted(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE
    wrong = make_tar({"mine/train/a/1.txt": b"other content"})
    path = home / "data" / "mine.tar.gz"
    path.parent.mkdir()
    path.write_bytes(wrong)
    control = RecordingControl()
    fetch(archive_task(home, server), home / "data", control)
    assert path.read_bytes() == ARCHIVE and (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert path.with_name("mine.tar.gz.bad").read_bytes() == wrong
    assert any("has md5" in message and "renamed to mine.tar.gz.bad" in message for message in control.messages)
    # A second wrong file does not replace the first one.
    (home / "data" / "mine").rename(home / "elsewhere")
    path.write_bytes(b"another")
    fetch(archive_task(home, server), home / "data", Control())
    assert path.with_name("mine.tar.gz.bad").read_bytes() == wrong
    assert path.with_name("mine.tar.gz.bad2").read_bytes() == b"another"


@pytest.mark.parametrize(
    ("known", "problem"),
    [
        ({"bytes": len(ARCHIVE)}, f"has {len(ARCHIVE) + 1:,} bytes, expected {len(ARCHIVE):,}"),
        (
            {"sha256": hashlib.sha256(ARCHIVE).hexdigest()},
            f"has sha256 .*, expected {hashlib.sha256(ARCHIVE).hexdigest()}",
        ),
    ],
)
def test_download_is_checked_against_size_and_sha256(home, server, known, problem):
    task = with_archives(archive_task(home, server), {"md5": None, **known})
    # gzip ignores the additional byte, so only the pins can detect it.
    server.files["/mine.tar.gz"] = ARCHIVE + b"\0"
    with pytest.raises(FailureError, match=problem):
        fetch(task, home / "data", Control())
    assert not (home / "data" / "mine").exists()
    server.files["/mine.tar.gz"] = ARCHIVE
    fetch(task, home / "data", Control())
    assert (home / "data" / "mine").is_dir()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "is a web page"),
        ("\ufeff<html><body>moved".encode("utf-16-le"), "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML page instead of the file"),
        (b"", "is empty"),
    ],
)
def test_pages_sent_instead_of_a_file_are_reported(home, server, content, problem):
    task = listed(home, server, content)
    with pytest.raises(
        FailureError, match=rf"list\.txt of task fetched could not be downloaded.*the received file {problem}"
    ):
        fetch(task, home / "data", Control())
    assert not (home / "data" / "lists" / "list.txt").exists()


def test_xml_file_with_the_right_hash_is_accepted(home, server):
    content = b'<?xml version="1.0"?><annotation/>'
    fetch(listed(home, server, content, md5=hashlib.md5(content).hexdigest()), home / "data", Control())
    assert (home / "data" / "lists" / "list.txt").read_bytes() == content


def test_unpinned_download_restarts_at_another_address(home, server):
    first = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    server.files["/mine.tar.gz"], server.files["/copy/mine.tar.gz"] = first, ARCHIVE + bytes(4_000_000)
    # The first address sends 1.2 MB and then nothing.
    server.cut_after["/mine.tar.gz"] = 1_200_000
    control = Control()
    control.progress = lambda done, total, unit: server.cut_after.update({"/mine.tar.gz": 0})
    task = archive_task(home, server, mirrors=f'["{server.url}/copy/mine.tar.gz"]')
    fetch(with_archives(task, {"md5": None}), home / "data", control)
    assert server.requests[-1] == ("/copy/mine.tar.gz", None) and server.requests[-2][0] == "/mine.tar.gz"
    assert (home / "data" / "mine.tar.gz").read_bytes() == server.files["/copy/mine.tar.gz"]


@pytest.mark.parametrize("pinned", [True, False])
def test_concurrent_fetches_download_once(home, server, pinned):
    content = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(6_000_000)})
    server.files["/mine.tar.gz"] = content
    task = archive_task(home, server, content)
    task = with_archives(task, {} if pinned else {"md5": None})
    outcomes, begun = [], threading.Event()

    def work():
        control = RecordingControl()
        # Slow enough for the other thread to start during the download.
        control.progress = lambda done, total, unit: begun.set() or threading.Event().wait(0.05)
        try:
            fetch(task, home / "data", control)
            outcomes.append(control.messages)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert sorted(len(messages) for messages in outcomes) == [1, 3] and outcomes[1] == [
        f"{home}/data/mine already exists"
    ]
    assert not list((home / "data").glob("*.part"))


def test_full_disk_error_suggests_another_data_root(home, server, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lrbench.data.download._download_from", full)
    with pytest.raises(
        FailureError,
        match=r"choose a larger disk \(--data-root or LRBENCH_DATA for data, LRBENCH_HOME for everything else\)",
    ):
        fetch(archive_task(home, server), home / "data", Control())


def test_lists_at_the_top_of_sun397_archive_are_found(home, server):
    task = load_task("sun397")
    lists = task.archives[1]
    server.files["/Partitions.zip"] = make_zip({"Training_01.txt": b"/a/x.jpg\n", "Testing_01.txt": b"/a/y.jpg\n"})
    served = lists.model_copy(update={"url": f"{server.url}/Partitions.zip", "sha256": None})
    # The lists are fetched; the missing images are reported.
    with pytest.raises(
        FailureError, match=r"its data is incomplete: .*it has no folder SUN397.*Move Partitions out of"
    ):
        fetch(task.model_copy(update={"archives": (served,)}), home / "data", Control())
    assert any((home / "data" / name).is_file() for name in task.files.train)
