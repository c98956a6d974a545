"""A context in which libraries can read files but cannot write or download."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Names of Python's audit events.
_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.copyfile",
    "shutil.move", "shutil.rmtree", "shutil.unpack_archive", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip
_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"}
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}

_thread = threading.local()


class ReadOnlyError(PermissionError):
    """Code that should only read tried to write a file, download, or start a program."""


@contextmanager
def reading_only() -> Iterator[None]:
    """Raise `ReadOnlyError` if this thread changes files, opens a connection or starts a program.

    The error is an `OSError`, which libraries expect of a read-only disk: `os.makedirs(path, exist_ok=True)` succeeds if the
    folder exists, and Python skips writing bytecode.
    """
    _add_hook()
    before = getattr(_thread, "reading_only", False)
    _thread.reading_only = True
    try:
        yield
    finally:
        _thread.reading_only = before


@cache
def _add_hook() -> None:
    # Audit hooks cannot be removed; this one does nothing outside `reading_only`.
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not getattr(_thread, "reading_only", False):
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING and path != os.devnull:
            raise ReadOnlyError(f"writing {path!r} is not allowed while data is read")
    elif event in _CHANGES:
        raise ReadOnlyError(f"changing {arguments[0]!r} is not allowed while data is read")
    elif event in _NETWORK:
        raise ReadOnlyError("downloading is not allowed while data is read")
    elif event in _PROGRAMS:
        raise ReadOnlyError(f"starting {arguments[0]!r} is not allowed while data is read")
