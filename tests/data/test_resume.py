"""Resuming downloads; responses other than the file do not lose received bytes."""

import numpy as np
import pytest

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.data.fetch import fetch
from tests.data.archive_server import RecordingControl, archive_task, make_tar

CONTENT = make_tar({"mine/a/1.txt": np.random.default_rng(0).bytes(3_000_000)})
PAGE = b"<!DOCTYPE html><html>Please log in</html>"


@pytest.fixture
def part(home):
    """Two thirds of the archive, left by an earlier call."""
    (home / "data").mkdir()
    path = home / "data" / "mine.tar.gz.part"
    path.write_bytes(CONTENT[:2_000_000])
    return path


def is_complete(home):
    """Return whether the archive is complete and no other files are left."""
    names = {path.name for path in (home / "data").iterdir()}
    return (home / "data" / "mine.tar.gz").read_bytes() == CONTENT and names == {".mine.lock", "mine", "mine.tar.gz"}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("sent", [PAGE, b'{"error": "quota exceeded"}'])
def test_page_instead_of_the_file_keeps_received_bytes(home, server, part, sent, moved):
    task = archive_task(home, server, CONTENT)
    server.files["/login"] = server.files["/mine.tar.gz"] = sent
    server.without_ranges.update({"/login", "/mine.tar.gz"})
    if moved:
        server.redirects["/mine.tar.gz"] = "/login"
    with pytest.raises(FailureError, match=r"The same command continues from the 2,000,000 bytes received"):
        fetch(task, home / "data", Control())
    assert part.read_bytes() == CONTENT[:2_000_000]
    for record in (server.without_ranges, server.redirects, server.requests):
        record.clear()
    server.files["/mine.tar.gz"] = CONTENT
    for bad in (home / "data").glob("*.bad"):
        bad.unlink()
    fetch(task, home / "data", Control())
    assert server.requests == [("/mine.tar.gz", "bytes=2000000-")] and is_complete(home)


def test_different_file_at_the_first_address_keeps_received_bytes(home, server, part):
    server.files.update({"/mine.tar.gz": bytes(2_500_000), "/copy/mine.tar.gz": CONTENT})
    fetch(archive_task(home, server, CONTENT, mirrors=f'["{server.url}/copy/mine.tar.gz"]'), home / "data", Control())
    assert (
        server.requests[-1] == ("/copy/mine.tar.gz", "bytes=2000000-")
        and (home / "data" / "mine.tar.gz").read_bytes() == CONTENT
    )


def test_shorter_file_at_the_first_address_keeps_received_bytes(home, server, part):
    server.files.update({"/mine.tar.gz": PAGE, "/copy/mine.tar.gz": CONTENT})
    fetch(archive_task(home, server, CONTENT, mirrors=f'["{server.url}/copy/mine.tar.gz"]'), home / "data", Control())
    assert server.requests[-1] == ("/copy/mine.tar.gz", "bytes=2000000-") and is_complete(home)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("start", [b"something else", PAGE, bytes(2_000_000), bytes(5_000_000)])
def test_wrong_partial_file_is_replaced(home, server, part, start, ranges):
    server.files["/mine.tar.gz"] = CONTENT
    if not ranges:
        server.without_ranges.add("/mine.tar.gz")
    part.write_bytes(start)
    fetch(archive_task(home, server, CONTENT), home / "data", Control())
    assert is_complete(home) and len(server.requests) == (2 if ranges else 1)


def test_longer_partial_file_is_kept_without_ranges(home, server, part):
    server.files["/mine.tar.gz"] = CONTENT
    server.without_ranges.add("/mine.tar.gz")
    for cut, left in ((1_200_000, 2_000_000), (2_500_000, 2 << 20)):
        server.cut_after["/mine.tar.gz"] = cut
        with pytest.raises(FailureError, match=rf"continues from the {left:,} bytes"):
            fetch(archive_task(home, server, CONTENT), home / "data", Control())
        assert part.read_bytes() == CONTENT[:left]
        assert {path.name for path in (home / "data").iterdir()} == {".mine.lock", part.name}


def test_stop_during_a_restart_keeps_received_bytes(home, server, part):
    server.files["/mine.tar.gz"] = CONTENT
    server.without_ranges.add("/mine.tar.gz")
    control = RecordingControl()
    control.progress = lambda *_: control.stop()
    with pytest.raises(InterruptedWork, match=r"2,000,000 bytes\. Run the same command again to continue"):
        fetch(archive_task(home, server, CONTENT), home / "data", control)
    assert part.read_bytes() == CONTENT[:2_000_000]
