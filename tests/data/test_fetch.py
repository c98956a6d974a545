import errno
import hashlib
import io
import os
import zipfile

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.data import download
from lrbench.data.fetch import fetch
from tests.data.archive_server import ARCHIVE, archive_task, make_tar, with_archives


def test_archive_is_fetched_once(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE
    messages = []
    control = Control()
    control.say = messages.append
    fetch(archive_task(home, server), home / "data", control)
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    server.files.clear()
    (home / "data" / "mine.tar.gz").unlink()
    fetch(archive_task(home, server), home / "data", control)
    assert "already exists" in messages[-1]


def test_mirror_is_tried_when_the_first_address_fails(home, server):
    server.files["/copy/mine.tar.gz"] = ARCHIVE
    fetch(archive_task(home, server, mirrors=f'["{server.url}/copy/mine.tar.gz"]'), home / "data", Control())
    assert (home / "data" / "mine").is_dir()


def test_failed_download_leaves_no_files(home, server):
    with pytest.raises(FailureError, match=r"could not be downloaded.*404"):
        fetch(archive_task(home, server), home / "data", Control())
    assert [path.name for path in (home / "data").iterdir() if not path.name.endswith(".lock")] == []


def test_redirect_loop_is_reported_in_one_sentence(home, server):
    server.redirects["/mine.tar.gz"] = "/mine.tar.gz"
    with pytest.raises(FailureError, match=r"Exceeded 30 redirects\. You can also download it yourself"):
        fetch(archive_task(home, server), home / "data", Control())


@pytest.mark.parametrize("place", ["http://[", "http://.x/", f"http://{'a' * 300}.x/", "/\xff", "file:///etc/hostname"])
def test_invalid_redirect_is_a_failed_download(home, server, place):
    server.redirects["/mine.tar.gz"] = place
    with pytest.raises(
        FailureError, match=r"could not be downloaded\. http://127\.0\.0\.1.*You can also download it yourself"
    ):
        fetch(archive_task(home, server), home / "data", Control())


def test_web_page_instead_of_an_archive_is_reported(home, server):
    server.files["/mine.tar.gz"] = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(FailureError, match=r"is a web page instead of the file.* to .*/mine\.tar\.gz and run"):
        fetch(archive_task(home, server), home / "data", Control())
    assert not (home / "data" / "mine").exists()


def test_wrong_hash_is_shown_with_the_expected_one(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE[:-5]
    with pytest.raises(FailureError, match=f"has md5 .*, expected {hashlib.md5(ARCHIVE).hexdigest()}"):
        fetch(archive_task(home, server), home / "data", Control())


def test_tar_member_outside_the_folder_is_refused(home, server):
    bad = make_tar({"mine/train/a/1.txt": b"one", "../../escaped.txt": b"x"})
    server.files["/mine.tar.gz"] = bad
    with pytest.raises(FailureError, match="could not be unpacked"):
        fetch(archive_task(home, server, bad), home / "data", Control())
    assert not (home / "data" / "mine").exists()
    assert not list(home.rglob("escaped.txt")) and not list(home.parent.glob("escaped.txt"))


def test_cut_connection_is_resumed(home, server):
    content = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    server.files["/mine.tar.gz"], server.cut_after["/mine.tar.gz"] = content, 1_200_000
    fetch(archive_task(home, server, content), home / "data", Control())
    # Only complete blocks of 1 MiB are written.
    assert [asked for _, asked in server.requests] == [None, "bytes=1048576-", "bytes=2097152-"]
    assert (home / "data" / "mine.tar.gz").read_bytes() == content
    assert not list((home / "data").glob("*.part"))


def test_partial_file_of_a_pinned_download_is_resumed(home, server):
    content = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    server.files["/mine.tar.gz"], server.cut_after["/mine.tar.gz"] = content, 0
    part = home / "data" / "mine.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(content[:2_000_000])
    with pytest.raises(FailureError, match=r"The same command continues from the 2,000,000 bytes received"):
        fetch(archive_task(home, server, content), home / "data", Control())
    server.cut_after.clear()
    fetch(archive_task(home, server, content), home / "data", Control())
    assert server.requests[-1][1] == "bytes=2000000-" and (home / "data" / "mine").is_dir()


def test_partial_file_of_different_content_is_discarded(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE
    part = home / "data" / "mine.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(b"something else")
    fetch(archive_task(home, server), home / "data", Control())
    assert (home / "data" / "mine.tar.gz").read_bytes() == ARCHIVE
    part.write_bytes(b"much longer than what the server has" * 100)
    (home / "data" / "mine.tar.gz").unlink()
    (home / "data" / "mine").rename(home / "elsewhere")
    fetch(archive_task(home, server), home / "data", Control())
    assert (home / "data" / "mine.tar.gz").read_bytes() == ARCHIVE


def test_server_without_ranges_sends_the_whole_file(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE
    server.without_ranges.add("/mine.tar.gz")
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz.part").write_bytes(ARCHIVE[:40])
    fetch(archive_task(home, server), home / "data", Control())
    assert server.requests == [("/mine.tar.gz", "bytes=40-")] and (home / "data" / "mine").is_dir()


def test_unpinned_partial_file_is_not_resumed(home, server):
    server.files["/mine.tar.gz"] = ARCHIVE
    pinned = archive_task(home, server)
    bare = pinned.model_copy(update={"archives": (pinned.archives[0].model_copy(update={"md5": None}),)})
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz.part").write_bytes(b"of last week")
    fetch(bare, home / "data", Control())
    assert server.requests == [("/mine.tar.gz", None)] and (home / "data" / "mine").is_dir()


def wrong_length_task(home, server, length, content=ARCHIVE):
    """Return a task whose first address sends a wrong length and whose mirror sends the right one."""
    server.files["/mine.tar.gz"], server.wrong_length["/mine.tar.gz"] = content, length
    server.files["/copy/mine.tar.gz"] = content
    return archive_task(home, server, content, mirrors=f'["{server.url}/copy/mine.tar.gz"]')


def test_too_long_content_length_is_ignored_if_the_hash_matches(home, server):
    # Only complete blocks of 1 MiB are written; gzip ignores zeros at the end.
    fetch(wrong_length_task(home, server, 500, ARCHIVE.ljust(2 << 20, b"\0")), home / "data", Control())
    assert server.requests == [("/mine.tar.gz", None)] and (home / "data" / "mine").is_dir()


@pytest.mark.parametrize(("length", "bad"), [(500, None), (-20, ARCHIVE[:-20])])
def test_mirror_is_tried_after_a_wrong_content_length(home, server, length, bad):
    fetch(wrong_length_task(home, server, length), home / "data", Control())
    assert server.requests == [("/mine.tar.gz", None), ("/copy/mine.tar.gz", None)]
    assert (home / "data" / "mine.tar.gz").read_bytes() == ARCHIVE
    aside = home / "data" / "mine.tar.gz.bad"
    assert (aside.read_bytes() if aside.exists() else None) == bad


@pytest.mark.parametrize("length", ["none", "-1", "9" * 5000])
def test_invalid_content_length_is_ignored(home, server, length):
    server.files["/mine.tar.gz"], server.wrong_length["/mine.tar.gz"] = ARCHIVE, length
    fetch(archive_task(home, server), home / "data", Control())
    assert (home / "data" / "mine").is_dir()


@pytest.mark.parametrize("known", [{}, {"md5": None}])
@pytest.mark.parametrize("length", [500, -20])
def test_wrong_content_length_is_reported(home, server, known, length):
    pinned = with_archives(wrong_length_task(home, server, length), {"mirrors": (), **known})
    short = "has md5" if not known else "could not be unpacked: Compressed file ended"
    with pytest.raises(FailureError, match="500 more expected" if length > 0 else short):
        fetch(pinned, home / "data", Control())
    assert not (home / "data" / "mine").exists()


@pytest.mark.parametrize("known", [{}, {"md5": None}])
def test_full_disk_error_states_if_the_download_resumes(home, server, monkeypatch, known):
    content = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    server.files["/mine.tar.gz"] = content
    write = download._PartialFile.write

    def full(self, chunk):
        if self.size + len(chunk) > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, chunk)

    pinned = with_archives(archive_task(home, server, content), known)
    then = "the download starts again, .* no hash or size .*" if known else "the download continues"
    with monkeypatch.context() as patch:
        patch.setattr(download._PartialFile, "write", full)
        with pytest.raises(FailureError, match=rf"no space left on device.*run the same command again; {then}\."):
            fetch(pinned, home / "data", Control())
    assert not (home / "data" / "mine.tar.gz").exists()
    fetch(pinned, home / "data", Control())
    assert server.requests[-1][1] == (None if known else "bytes=1048576-") and (home / "data" / "mine").is_dir()


def test_full_disk_while_unpacking_leaves_no_files(home, server, monkeypatch):
    server.files["/mine.tar.gz"] = ARCHIVE

    def full(self, parts):
        self.make_folder(parts[:-1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lrbench.data.archives.safe_tree.SafeTree.create_file", full)
    with pytest.raises(FailureError, match="no space left"):
        fetch(archive_task(home, server), home / "data", Control())
    assert sorted(path.name for path in (home / "data").iterdir()) == [".mine.lock", "mine.tar.gz"]


def test_stop_keeps_received_bytes(home, server):
    content = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    server.files["/mine.tar.gz"] = content
    control = Control()
    reports = []
    control.progress = lambda done, total, unit: (reports.append((done, total, unit)), control.stop())
    with pytest.raises(InterruptedWork, match=r"1,048,576 bytes\. Run the same command again to continue"):
        fetch(archive_task(home, server, content), home / "data", control)
    assert reports == [(1 << 20, len(content), "bytes")]
    assert (home / "data" / "mine.tar.gz.part").stat().st_size == 1 << 20
    # Without a pin, a partial file may be of different content and is not resumed.
    unpinned = with_archives(archive_task(home, server, content), {"md5": None})
    control = Control()
    control.progress = lambda *_: control.stop()
    with pytest.raises(
        InterruptedWork, match=r"1,048,576 bytes\. Run the same command again \(the download starts again"
    ):
        fetch(unpinned, home / "other", control)
    server.requests.clear()
    fetch(unpinned, home / "other", Control())
    assert server.requests == [("/mine.tar.gz", None)]


@pytest.mark.parametrize("shown", [b'{"error": "quota exceeded"}', ARCHIVE[:20]])
def test_file_that_is_no_archive_is_renamed_and_mirror_tried(home, server, shown):
    server.files.update({"/mine.tar.gz": shown, "/copy/mine.tar.gz": ARCHIVE})
    pinned = archive_task(home, server, mirrors=f'["{server.url}/copy/mine.tar.gz"]')
    fetch(with_archives(pinned, {"md5": None}), home / "data", Control())
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert (home / "data" / "mine.tar.gz.bad").read_bytes() == shown
    server.files.pop("/copy/mine.tar.gz")
    with pytest.raises(FailureError, match=r"is not a tar or zip file, or is truncated \(kept as .*\.bad\)"):
        fetch(with_archives(pinned, {"md5": None}), home / "other", Control())


def test_url_query_is_not_part_of_the_file_name(home, server):
    server.files["/mine.tar.gz?download=1"] = ARCHIVE
    pinned = archive_task(home, server, name="mine.tar.gz?download=1")
    fetch(pinned, home / "data", Control())
    assert (home / "data" / "mine.tar.gz").is_file() and (home / "data" / "mine").is_dir()


def test_images_are_counted_before_the_folder_is_moved(home, server):
    content = make_tar({"mine/a/1.png": b"one", "mine/b/2.JPG": b"two", "mine/b/.DS_Store": b"", "mine/list.txt": b""})
    server.files["/mine.tar.gz"] = content
    pinned = archive_task(home, server, content)
    with_images = lambda images: pinned.model_copy(  # noqa: E731
        update={"archives": (pinned.archives[0].model_copy(update={"images": images}),)}
    )
    with pytest.raises(FailureError, match=r"contains 2 images, expected 3\. Delete it"):
        fetch(with_images(3), home / "data", Control())
    assert not (home / "data" / "mine").exists()
    fetch(with_images(2), home / "data", Control())
    # A folder with a marker is not counted again; one without is.
    (home / "data" / "mine" / "a" / "1.png").unlink()
    fetch(with_images(2), home / "data", Control())
    (home / "data" / "mine" / ".lrbench-fetched.json").unlink()
    with pytest.raises(FailureError, match=r"is incomplete: it contains 1 images, expected 2\."):
        fetch(with_images(2), home / "data", Control())


def test_zip_member_outside_the_folder_is_refused(home, server):
    for member, good in (("mine/a/1.txt", True), ("../out.txt", False)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("mine/b/2.txt", "two")
            archive.writestr(member, "x")
        server.files["/mine.zip"] = buffer.getvalue()
        folder = home / ("good" if good else "bad")
        if good:
            fetch(archive_task(home, server, buffer.getvalue(), name="mine.zip"), folder, Control())
            assert (folder / "mine" / "a" / "1.txt").is_file()
        else:
            with pytest.raises(FailureError, match="leads out of it"):
                fetch(archive_task(home, server, buffer.getvalue(), name="mine.zip"), folder, Control())
            assert not (folder / "mine").exists()


def test_file_downloaded_by_the_user_is_unpacked(home, server):
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz").write_bytes(ARCHIVE)
    fetch(archive_task(home, server), home / "data", Control())
    assert (home / "data" / "mine").is_dir()


def test_task_without_download_says_how_to_get_the_data(home):
    with pytest.raises(InputError, match=r"image-net\.org"):
        fetch(load_task("imagenet1k"), home / "data", Control())
