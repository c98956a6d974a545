"""An HTTP server of archives that can redirect, cut connections and send wrong headers, and tasks that download from it."""

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from dataclasses import dataclass, field

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from lrbench.config import load_task
from lrbench.core.control import Control


class RawResponse(Response):
    """A response whose headers are sent unchanged; werkzeug corrects invalid ones."""

    def get_wsgi_headers(self, environ):
        return self.headers


@dataclass
class ArchiveServer:
    """Files on a pytest-httpserver, which itself offers no ranges, cut connections or wrong headers.

    Attributes:
        url: Address of the server.
        files: Content by path.
        requests: Path and `Range` header of each request.
        cut_after: By path, the bytes after which the connection is closed.
        wrong_length: By path, a number to add to `Content-Length`, or a text to send instead.
        without_ranges: Paths for which `Range` is ignored.
        redirects: By path, the address of a redirect.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: dict[str, int] = field(default_factory=dict)
    wrong_length: dict[str, int | str] = field(default_factory=dict)
    without_ranges: set[str] = field(default_factory=set)
    redirects: dict[str, str] = field(default_factory=dict)

    @classmethod
    def on(cls, httpserver: HTTPServer) -> "ArchiveServer":
        """Return a server whose requests `httpserver` receives."""
        server = cls(httpserver.url_for("").rstrip("/"))
        httpserver.expect_request(re.compile(".*")).respond_with_handler(server.respond)
        return server

    def respond(self, request: Request) -> Response:
        """Return the response to a request."""
        path, requested_range = request.environ["RAW_URI"], request.headers.get("Range")
        self.requests.append((path, requested_range))
        if path in self.redirects:
            return RawResponse(status=302, headers={"Location": self.redirects[path], "Content-Length": "0"})
        if path not in self.files:
            return Response(status=404)
        content, start = self.files[path], 0
        if requested_range and path not in self.without_ranges:
            start = int(requested_range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return Response(status=416)
        rest = content[start:]
        wrong = self.wrong_length.get(path, 0)
        length = wrong if isinstance(wrong, str) else str(len(rest) + wrong)
        sent = rest[: self.cut_after.get(path, len(rest))]
        response = RawResponse(sent, status=206 if start else 200)
        response.headers["Content-Length"] = length
        return response


def make_tar(members: dict[str, bytes]) -> bytes:
    """Return a tar file, compressed by gzip."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    # Without the time, which would change the names of parametrised tests.
    return gzip.compress(buffer.getvalue(), mtime=0)


def make_zip(members: dict[str, bytes]) -> bytes:
    """Return a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVE = make_tar({"mine/train/a/1.txt": b"one", "mine/test/a/2.txt": b"two"})


def archive_task(home, server, content=ARCHIVE, mirrors="[]", name="mine.tar.gz"):
    """Return a task with one archive on a server, pinned to the hash of `content`."""
    md5 = hashlib.md5(content).hexdigest()
    (home / "t.toml").write_text(
        f'name = "fetched"\n\n[files]\nlayout = "split-folders"\nroot = "mine"\n\n[[archives]]\nurl = "{server.url}/{name}"\n'
        f'mirrors = {mirrors}\nmd5 = "{md5}"\nunpacks_to = "mine"\n'
    )
    return load_task("t.toml")


def with_archives(task, *changes):
    """Return a task whose archives are its first one with each of the changes."""
    first = task.archives[0]
    return task.model_copy(update={"archives": tuple(first.model_copy(update=change) for change in changes)})


class RecordingControl(Control):
    """Records messages and progress."""

    def __init__(self):
        super().__init__()
        self.messages, self.reports = [], []

    def say(self, text):
        self.messages.append(text)

    def progress(self, done, total, unit):
        self.reports.append((done, total, unit))
