"""What arrived of a download is gone on with, and nothing that a server sends in its place costs it."""

import numpy as np
import pytest

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.data.fetch import fetch
from tests.data.serving import ASKED, CUT, FILES, MOVED, NO_RANGE, Watching, tar, task

CONTENT = tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
PAGE = b"<!DOCTYPE html><html>Please log in</html>"


@pytest.fixture
def part(home):
    """Two thirds of the archive, as an earlier call left them."""
    (home / "data").mkdir()
    path = home / "data" / "mine.tar.gz.part"
    path.write_bytes(CONTENT[:2_000_000])
    return path


def unpacked(home):
    """Whether the archive came whole and nothing else was left."""
    names = {each.name for each in (home / "data").iterdir()}
    return (home / "data" / "mine.tar.gz").read_bytes() == CONTENT and names == {".mine.lock", "mine", "mine.tar.gz"}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("sent", [PAGE, b'{"error": "quota exceeded"}'])
def test_what_is_sent_in_the_files_place_costs_nothing_that_arrived(home, server, part, sent, moved):
    described = task(home, server, CONTENT)
    FILES["/login"] = FILES["/mine.tar.gz"] = sent
    NO_RANGE.update({"/login", "/mine.tar.gz"})
    if moved:
        MOVED["/mine.tar.gz"] = "/login"
    with pytest.raises(FailureError, match=r"The same command continues from the 2,000,000 bytes received"):
        fetch(described, home / "data", Control())
    assert part.read_bytes() == CONTENT[:2_000_000]
    for told in (NO_RANGE, MOVED, ASKED):
        told.clear()
    FILES["/mine.tar.gz"] = CONTENT
    for bad in (home / "data").glob("*.bad"):
        bad.unlink()
    fetch(described, home / "data", Control())
    assert ASKED == [("/mine.tar.gz", "bytes=2000000-")] and unpacked(home)


def test_another_file_at_the_first_address_costs_nothing_that_arrived(home, server, part):
    FILES.update({"/mine.tar.gz": bytes(2_500_000), "/copy/mine.tar.gz": CONTENT})
    fetch(task(home, server, CONTENT, mirrors=f'["{server}/copy/mine.tar.gz"]'), home / "data", Control())
    assert (
        ASKED[-1] == ("/copy/mine.tar.gz", "bytes=2000000-") and (home / "data" / "mine.tar.gz").read_bytes() == CONTENT
    )


def test_a_shorter_file_at_the_first_address_costs_nothing_that_arrived(home, server, part):
    FILES.update({"/mine.tar.gz": PAGE, "/copy/mine.tar.gz": CONTENT})
    fetch(task(home, server, CONTENT, mirrors=f'["{server}/copy/mine.tar.gz"]'), home / "data", Control())
    assert ASKED[-1] == ("/copy/mine.tar.gz", "bytes=2000000-") and unpacked(home)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("start", [b"something else", PAGE, bytes(2_000_000), bytes(5_000_000)])
def test_a_wrong_start_is_replaced(home, server, part, start, ranges):
    FILES["/mine.tar.gz"] = CONTENT
    if not ranges:
        NO_RANGE.add("/mine.tar.gz")
    part.write_bytes(start)
    fetch(task(home, server, CONTENT), home / "data", Control())
    assert unpacked(home) and len(ASKED) == (2 if ranges else 1)


def test_the_longer_one_is_kept_where_a_server_without_ranges_is_cut(home, server, part):
    FILES["/mine.tar.gz"] = CONTENT
    NO_RANGE.add("/mine.tar.gz")
    for cut, left in ((1_200_000, 2_000_000), (2_500_000, 2 << 20)):
        CUT["/mine.tar.gz"] = cut
        with pytest.raises(FailureError, match=rf"continues from the {left:,} bytes"):
            fetch(task(home, server, CONTENT), home / "data", Control())
        assert part.read_bytes() == CONTENT[:left]
        assert {each.name for each in (home / "data").iterdir()} == {".mine.lock", part.name}


def test_a_stop_while_the_whole_is_sent_again_keeps_what_had_arrived(home, server, part):
    FILES["/mine.tar.gz"] = CONTENT
    NO_RANGE.add("/mine.tar.gz")
    control = Watching()
    control.progress = lambda *_: control.stop()
    with pytest.raises(InterruptedWork, match=r"2,000,000 bytes\. Run the same command again to continue"):
        fetch(task(home, server, CONTENT), home / "data", control)
    assert part.read_bytes() == CONTENT[:2_000_000]
