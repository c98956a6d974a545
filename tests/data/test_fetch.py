import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from lrbench.data.fetch import fetch
from lrbench.errors import FailureError, InputError
from lrbench.registry import load_task

FILES: dict[str, bytes] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves what FILES holds."""

    def do_GET(self):
        content = FILES.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    FILES.clear()
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


GOOD = tar({"mine/train/a/1.txt": b"one", "mine/test/a/2.txt": b"two"})


def task(home, url, content=GOOD, mirrors="[]", name="mine.tar.gz"):
    md5 = hashlib.md5(content).hexdigest()
    (home / "t.toml").write_text(
        f'name = "fetched"\n\n[files]\nlayout = "split-folders"\nroot = "mine"\n\n[[archives]]\nurl = "{url}/{name}"\n'
        f'mirrors = {mirrors}\nmd5 = "{md5}"\nunpacks_to = "mine"\n'
    )
    return load_task("t.toml")


def test_an_archive_is_fetched_checked_and_unpacked_and_then_left_alone(home, server):
    FILES["/mine.tar.gz"] = GOOD
    said = []
    fetch(task(home, server), home / "data", said.append)
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    FILES.clear()
    (home / "data" / "mine.tar.gz").unlink()
    fetch(task(home, server), home / "data", said.append)
    assert "is there already" in said[-1]


def test_a_mirror_is_tried_when_the_first_address_fails(home, server):
    FILES["/copy/mine.tar.gz"] = GOOD
    fetch(task(home, server, mirrors=f'["{server}/copy/mine.tar.gz"]'), home / "data", lambda text: None)
    assert (home / "data" / "mine").is_dir()


def test_a_web_page_in_place_of_an_archive_is_named_as_such(home, server):
    FILES["/mine.tar.gz"] = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(FailureError, match=r"is a web page, not the file.*by hand.*put it at"):
        fetch(task(home, server), home / "data", lambda text: None)
    assert not (home / "data" / "mine").exists()


def test_a_wrong_hash_is_shown_with_the_right_one(home, server):
    FILES["/mine.tar.gz"] = GOOD[:-5]
    with pytest.raises(FailureError, match=f"has the md5 .*, not {hashlib.md5(GOOD).hexdigest()}"):
        fetch(task(home, server), home / "data", lambda text: None)


def test_a_member_that_leads_out_is_refused_and_nothing_is_put_in_place(home, server):
    bad = tar({"mine/train/a/1.txt": b"one", "../../escaped.txt": b"x"})
    FILES["/mine.tar.gz"] = bad
    with pytest.raises(FailureError, match="could not be unpacked"):
        fetch(task(home, server, bad), home / "data", lambda text: None)
    assert not (home / "data" / "mine").exists()
    assert not list(home.rglob("escaped.txt")) and not list(home.parent.glob("escaped.txt"))


def test_a_zip_is_unpacked_and_a_leading_out_member_refused(home, server):
    for member, good in (("mine/a/1.txt", True), ("../out.txt", False)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("mine/b/2.txt", "two")
            archive.writestr(member, "x")
        FILES["/mine.zip"] = buffer.getvalue()
        folder = home / ("good" if good else "bad")
        if good:
            fetch(task(home, server, buffer.getvalue(), name="mine.zip"), folder, lambda text: None)
            assert (folder / "mine" / "a" / "1.txt").is_file()
        else:
            with pytest.raises(FailureError, match="leads out of it"):
                fetch(task(home, server, buffer.getvalue(), name="mine.zip"), folder, lambda text: None)
            assert not (folder / "mine").exists()


def test_a_file_put_by_hand_is_checked_and_unpacked(home, server):
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz").write_bytes(GOOD)
    fetch(task(home, server), home / "data", lambda text: None)
    assert (home / "data" / "mine").is_dir()


def test_nothing_to_download_says_how_to_get_it_by_hand(home):
    with pytest.raises(InputError, match=r"image-net\.org"):
        fetch(load_task("imagenet1k"), home / "data", lambda text: None)
