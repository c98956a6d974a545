"""A server that gives files as well or badly as it is told to, and archives and tasks to fetch from it."""

import gzip
import hashlib
import http.server
import io
import tarfile
import zipfile

from lrbench.config import load_task
from lrbench.core.control import Control

FILES: dict[str, bytes] = {}


ASKED: list[tuple[str, str | None]] = []
# By path: bytes after which the connection is cut; what is added to, or sent instead of, the length; whether Range is refused;
# where the request is redirected.
CUT: dict[str, int] = {}
LIE: dict[str, int | str] = {}
NO_RANGE: set[str] = set()
MOVED: dict[str, str] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves what FILES holds, as well or badly as it is told to."""

    def do_GET(self):
        content, wanted = FILES.get(self.path), self.headers["Range"]
        ASKED.append((self.path, wanted))
        if self.path in MOVED:
            self.send_response(302)
            self.send_header("Location", MOVED[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path not in NO_RANGE else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        rest = content[start:]
        self.send_response(206 if start else 200)
        told = LIE.get(self.path, 0)
        self.send_header("Content-Length", told if isinstance(told, str) else str(len(rest) + told))
        self.end_headers()
        self.wfile.write(rest[: CUT.get(self.path, len(rest))])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    # Without the time, which would name tests otherwise each time.
    return gzip.compress(buffer.getvalue(), mtime=0)


GOOD = tar({"mine/train/a/1.txt": b"one", "mine/test/a/2.txt": b"two"})


def task(home, url, content=GOOD, mirrors="[]", name="mine.tar.gz"):
    md5 = hashlib.md5(content).hexdigest()
    (home / "t.toml").write_text(
        f'name = "fetched"\n\n[files]\nlayout = "split-folders"\nroot = "mine"\n\n[[archives]]\nurl = "{url}/{name}"\n'
        f'mirrors = {mirrors}\nmd5 = "{md5}"\nunpacks_to = "mine"\n'
    )
    return load_task("t.toml")


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_archives(described, *changes):
    """A task whose archives are its first one with each of some changes."""
    first = described.archives[0]
    return described.model_copy(update={"archives": tuple(first.model_copy(update=change) for change in changes)})


class Watching(Control):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.said, self.seen = [], []

    def say(self, text):
        self.said.append(text)

    def progress(self, done, total, unit):
        self.seen.append((done, total, unit))
