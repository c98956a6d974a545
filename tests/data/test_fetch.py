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
from tests.data.serving import ASKED, CUT, FILES, GOOD, LIE, MOVED, NO_RANGE, tar, task, with_archives


def test_an_archive_is_fetched_checked_and_unpacked_and_then_left_alone(home, server):
    FILES["/mine.tar.gz"] = GOOD
    said = []
    control = Control()
    control.say = said.append
    fetch(task(home, server), home / "data", control)
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    FILES.clear()
    (home / "data" / "mine.tar.gz").unlink()
    fetch(task(home, server), home / "data", control)
    assert "already exists" in said[-1]


def test_a_mirror_is_tried_when_the_first_address_fails(home, server):
    FILES["/copy/mine.tar.gz"] = GOOD
    fetch(task(home, server, mirrors=f'["{server}/copy/mine.tar.gz"]'), home / "data", Control())
    assert (home / "data" / "mine").is_dir()


def test_nothing_is_left_where_nothing_came(home, server):
    with pytest.raises(FailureError, match=r"could not be downloaded.*404"):
        fetch(task(home, server), home / "data", Control())
    assert [each.name for each in (home / "data").iterdir() if not each.name.endswith(".lock")] == []


def test_what_goes_wrong_ends_with_one_full_stop(home, server):
    MOVED["/mine.tar.gz"] = "/mine.tar.gz"
    with pytest.raises(FailureError, match=r"Exceeded 30 redirects\. You can also download it yourself"):
        fetch(task(home, server), home / "data", Control())


@pytest.mark.parametrize("place", ["http://[", "http://.x/", f"http://{'a' * 300}.x/", "/\xff", "file:///etc/hostname"])
def test_a_redirect_to_no_address_is_a_failed_download(home, server, place):
    MOVED["/mine.tar.gz"] = place
    with pytest.raises(
        FailureError, match=r"could not be downloaded\. http://127\.0\.0\.1.*You can also download it yourself"
    ):
        fetch(task(home, server), home / "data", Control())


def test_a_web_page_in_place_of_an_archive_is_named_as_such(home, server):
    FILES["/mine.tar.gz"] = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(FailureError, match=r"is a web page instead of the file.* to .*/mine\.tar\.gz and run"):
        fetch(task(home, server), home / "data", Control())
    assert not (home / "data" / "mine").exists()


def test_a_wrong_hash_is_shown_with_the_right_one(home, server):
    FILES["/mine.tar.gz"] = GOOD[:-5]
    with pytest.raises(FailureError, match=f"has md5 .*, expected {hashlib.md5(GOOD).hexdigest()}"):
        fetch(task(home, server), home / "data", Control())


def test_a_member_that_leads_out_is_refused_and_nothing_is_put_in_place(home, server):
    bad = tar({"mine/train/a/1.txt": b"one", "../../escaped.txt": b"x"})
    FILES["/mine.tar.gz"] = bad
    with pytest.raises(FailureError, match="could not be unpacked"):
        fetch(task(home, server, bad), home / "data", Control())
    assert not (home / "data" / "mine").exists()
    assert not list(home.rglob("escaped.txt")) and not list(home.parent.glob("escaped.txt"))


def test_a_cut_connection_is_gone_on_with_where_it_broke(home, server):
    content = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    FILES["/mine.tar.gz"], CUT["/mine.tar.gz"] = content, 1_200_000
    fetch(task(home, server, content), home / "data", Control())
    # What is written is whole blocks of a mebibyte.
    assert [asked for _, asked in ASKED] == [None, "bytes=1048576-", "bytes=2097152-"]
    assert (home / "data" / "mine.tar.gz").read_bytes() == content
    assert not list((home / "data").glob("*.part"))


def test_what_arrived_is_kept_for_the_next_time_where_a_hash_will_tell(home, server):
    content = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    FILES["/mine.tar.gz"], CUT["/mine.tar.gz"] = content, 0
    part = home / "data" / "mine.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(content[:2_000_000])
    with pytest.raises(FailureError, match=r"The same command continues from the 2,000,000 bytes received"):
        fetch(task(home, server, content), home / "data", Control())
    CUT.clear()
    fetch(task(home, server, content), home / "data", Control())
    assert ASKED[-1][1] == "bytes=2000000-" and (home / "data" / "mine").is_dir()


def test_the_start_of_another_file_is_thrown_away(home, server):
    FILES["/mine.tar.gz"] = GOOD
    part = home / "data" / "mine.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(b"something else")
    fetch(task(home, server), home / "data", Control())
    assert (home / "data" / "mine.tar.gz").read_bytes() == GOOD
    part.write_bytes(b"much longer than what the server has" * 100)
    (home / "data" / "mine.tar.gz").unlink()
    (home / "data" / "mine").rename(home / "elsewhere")
    fetch(task(home, server), home / "data", Control())
    assert (home / "data" / "mine.tar.gz").read_bytes() == GOOD


def test_a_server_that_knows_no_range_sends_all_again(home, server):
    FILES["/mine.tar.gz"] = GOOD
    NO_RANGE.add("/mine.tar.gz")
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz.part").write_bytes(GOOD[:40])
    fetch(task(home, server), home / "data", Control())
    assert ASKED == [("/mine.tar.gz", "bytes=40-")] and (home / "data" / "mine").is_dir()


def test_without_a_hash_or_a_size_the_start_of_an_earlier_time_is_not_trusted(home, server):
    FILES["/mine.tar.gz"] = GOOD
    described = task(home, server)
    bare = described.model_copy(update={"archives": (described.archives[0].model_copy(update={"md5": None}),)})
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz.part").write_bytes(b"of last week")
    fetch(bare, home / "data", Control())
    assert ASKED == [("/mine.tar.gz", None)] and (home / "data" / "mine").is_dir()


def lied_about(home, server, told, content=GOOD):
    """A task whose first address tells a wrong length, and whose mirror tells the right one."""
    FILES["/mine.tar.gz"], LIE["/mine.tar.gz"] = content, told
    FILES["/copy/mine.tar.gz"] = content
    return task(home, server, content, mirrors=f'["{server}/copy/mine.tar.gz"]')


def test_a_length_that_is_told_too_long_does_not_matter_where_the_hash_of_what_was_written_is_right(home, server):
    # Whole blocks of a mebibyte are written; gzip does not mind zeros after it.
    fetch(lied_about(home, server, 500, GOOD.ljust(2 << 20, b"\0")), home / "data", Control())
    assert ASKED == [("/mine.tar.gz", None)] and (home / "data" / "mine").is_dir()


@pytest.mark.parametrize(("told", "bad"), [(500, None), (-20, GOOD[:-20])])
def test_another_address_is_asked_where_a_wrong_length_cost_the_end(home, server, told, bad):
    fetch(lied_about(home, server, told), home / "data", Control())
    assert ASKED == [("/mine.tar.gz", None), ("/copy/mine.tar.gz", None)]
    assert (home / "data" / "mine.tar.gz").read_bytes() == GOOD
    aside = home / "data" / "mine.tar.gz.bad"
    assert (aside.read_bytes() if aside.exists() else None) == bad


@pytest.mark.parametrize("told", ["none", "-1", "9" * 5000])
def test_a_length_that_is_no_length_does_not_matter(home, server, told):
    FILES["/mine.tar.gz"], LIE["/mine.tar.gz"] = GOOD, told
    fetch(task(home, server), home / "data", Control())
    assert (home / "data" / "mine").is_dir()


@pytest.mark.parametrize("known", [{}, {"md5": None}])
@pytest.mark.parametrize("told", [500, -20])
def test_a_server_that_lies_about_the_length_is_refused_with_what_is_wrong(home, server, known, told):
    described = with_archives(lied_about(home, server, told), {"mirrors": (), **known})
    short = "has md5" if not known else "could not be unpacked: Compressed file ended"
    with pytest.raises(FailureError, match="500 more expected" if told > 0 else short):
        fetch(described, home / "data", Control())
    assert not (home / "data" / "mine").exists()


@pytest.mark.parametrize("known", [{}, {"md5": None}])
def test_a_full_disk_is_said_and_whether_what_arrived_is_gone_on_with(home, server, monkeypatch, known):
    content = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    FILES["/mine.tar.gz"] = content
    write = download._PartialFile.write

    def full(self, chunk):
        if self.size + len(chunk) > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, chunk)

    described = with_archives(task(home, server, content), known)
    then = "the download starts again, .* no hash or size .*" if known else "the download continues"
    with monkeypatch.context() as patch:
        patch.setattr(download._PartialFile, "write", full)
        with pytest.raises(FailureError, match=rf"no space left on device.*run the same command again; {then}\."):
            fetch(described, home / "data", Control())
    assert not (home / "data" / "mine.tar.gz").exists()
    fetch(described, home / "data", Control())
    assert ASKED[-1][1] == (None if known else "bytes=1048576-") and (home / "data" / "mine").is_dir()


def test_a_disk_that_fills_while_unpacking_leaves_nothing_half_done(home, server, monkeypatch):
    FILES["/mine.tar.gz"] = GOOD

    def full(self, parts):
        self.make_folder(parts[:-1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lrbench.data.archives.safe_tree.SafeTree.create_file", full)
    with pytest.raises(FailureError, match="no space left"):
        fetch(task(home, server), home / "data", Control())
    assert sorted(each.name for each in (home / "data").iterdir()) == [".mine.lock", "mine.tar.gz"]


def test_a_stop_keeps_what_arrived(home, server):
    content = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
    FILES["/mine.tar.gz"] = content
    control = Control()
    seen = []
    control.progress = lambda done, total, unit: (seen.append((done, total, unit)), control.stop())
    with pytest.raises(InterruptedWork, match=r"1,048,576 bytes\. Run the same command again to continue"):
        fetch(task(home, server, content), home / "data", control)
    assert seen == [(1 << 20, len(content), "bytes")]
    assert (home / "data" / "mine.tar.gz.part").stat().st_size == 1 << 20
    # Of a file of which nothing is known, no part is gone on with: it may be another file's.
    unpinned = with_archives(task(home, server, content), {"md5": None})
    control = Control()
    control.progress = lambda *_: control.stop()
    with pytest.raises(
        InterruptedWork, match=r"1,048,576 bytes\. Run the same command again \(the download starts again"
    ):
        fetch(unpinned, home / "other", control)
    ASKED.clear()
    fetch(unpinned, home / "other", Control())
    assert ASKED == [("/mine.tar.gz", None)]


@pytest.mark.parametrize("shown", [b'{"error": "quota exceeded"}', GOOD[:20]])
def test_what_is_no_archive_is_kept_aside_and_the_next_address_asked(home, server, shown):
    FILES.update({"/mine.tar.gz": shown, "/copy/mine.tar.gz": GOOD})
    described = task(home, server, mirrors=f'["{server}/copy/mine.tar.gz"]')
    fetch(with_archives(described, {"md5": None}), home / "data", Control())
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert (home / "data" / "mine.tar.gz.bad").read_bytes() == shown
    FILES.pop("/copy/mine.tar.gz")
    with pytest.raises(FailureError, match=r"is not a tar or zip file, or is truncated \(kept as .*\.bad\)"):
        fetch(with_archives(described, {"md5": None}), home / "other", Control())


def test_a_query_in_an_address_is_no_part_of_the_files_name(home, server):
    FILES["/mine.tar.gz?download=1"] = GOOD
    described = task(home, server, name="mine.tar.gz?download=1")
    fetch(described, home / "data", Control())
    assert (home / "data" / "mine.tar.gz").is_file() and (home / "data" / "mine").is_dir()


def test_images_are_counted_before_an_archive_counts_as_unpacked(home, server):
    content = tar({"mine/a/1.png": b"one", "mine/b/2.JPG": b"two", "mine/b/.DS_Store": b"", "mine/list.txt": b""})
    FILES["/mine.tar.gz"] = content
    described = task(home, server, content)
    asks = lambda images: described.model_copy(  # noqa: E731
        update={"archives": (described.archives[0].model_copy(update={"images": images}),)}
    )
    with pytest.raises(FailureError, match=r"contains 2 images, expected 3\. Delete it"):
        fetch(asks(3), home / "data", Control())
    assert not (home / "data" / "mine").exists()
    fetch(asks(2), home / "data", Control())
    # What lrbench unpacked whole is believed; what somebody else unpacked in part is not.
    (home / "data" / "mine" / "a" / "1.png").unlink()
    fetch(asks(2), home / "data", Control())
    (home / "data" / "mine" / ".lrbench-fetched.json").unlink()
    with pytest.raises(FailureError, match=r"is incomplete: it contains 1 images, expected 2\."):
        fetch(asks(2), home / "data", Control())


def test_a_zip_is_unpacked_and_a_leading_out_member_refused(home, server):
    for member, good in (("mine/a/1.txt", True), ("../out.txt", False)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("mine/b/2.txt", "two")
            archive.writestr(member, "x")
        FILES["/mine.zip"] = buffer.getvalue()
        folder = home / ("good" if good else "bad")
        if good:
            fetch(task(home, server, buffer.getvalue(), name="mine.zip"), folder, Control())
            assert (folder / "mine" / "a" / "1.txt").is_file()
        else:
            with pytest.raises(FailureError, match="leads out of it"):
                fetch(task(home, server, buffer.getvalue(), name="mine.zip"), folder, Control())
            assert not (folder / "mine").exists()


def test_a_file_put_by_hand_is_checked_and_unpacked(home, server):
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz").write_bytes(GOOD)
    fetch(task(home, server), home / "data", Control())
    assert (home / "data" / "mine").is_dir()


def test_nothing_to_download_says_how_to_get_it_by_hand(home):
    with pytest.raises(InputError, match=r"image-net\.org"):
        fetch(load_task("imagenet1k"), home / "data", Control())
