"""Libraries that read data and may also write or download: while they read, they can do neither."""

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
    """Code that should only read tried to write a file, to download, or to start a program."""


@contextmanager
def reading_only() -> Iterator[None]:
    """Let this thread open files for reading and do nothing else to the system; refused calls raise `ReadOnlyError`.

    It is an `OSError`, as libraries expect of a folder that cannot be made: `os.makedirs(path, exist_ok=True)` passes where the
    folder is there, and Python leaves its bytecode unwritten.
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
    # Hooks cannot be removed; this one passes everything unless its thread is within `reading_only`.
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not getattr(_thread, "reading_only", False):
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING and path != os.devnull:
            raise ReadOnlyError(f"it would write {path!r}, and data is only read here")
    elif event in _CHANGES:
        raise ReadOnlyError(f"it would make or change {arguments[0]!r}, and data is only read here")
    elif event in _NETWORK:
        raise ReadOnlyError("it would download, and data is only read here")
    elif event in _PROGRAMS:
        raise ReadOnlyError(f"it would start {arguments[0]!r}, and data is only read here")
