"""What C libraries print to standard error, given to the thread whose call printed it.

libjpeg reports damage in no other way: it prints a line that names no file. glibc lets a program replace C's `stderr`; the
replacement calls back in the thread that prints. Python's own `sys.stderr` is not touched.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_UNBUFFERED = 2
# __fsetlocking: no lock of the stream's own, which a thread that waits for Python's lock would hold.
_NO_LOCK = 2

_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _StreamFunctions(ctypes.Structure):
    """glibc's `cookie_io_functions_t`."""

    _fields_ = (("read", ctypes.c_void_p), ("write", _Write), ("seek", ctypes.c_void_p), ("close", ctypes.c_void_p))


class _Replacement:
    """A C stream that stands for `stderr` while at least one thread listens.

    Raises:
        AttributeError: The C library has no such streams.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        library.fopencookie.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _StreamFunctions]
        library.fopencookie.restype = ctypes.c_void_p
        library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        set_locking = library["__fsetlocking"]
        set_locking.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._write = _Write(self._printed)
        self._stream = library.fopencookie(None, b"w", _StreamFunctions(None, self._write, None, None))
        library.setvbuf(self._stream, None, _UNBUFFERED, 0)
        set_locking(self._stream, _NO_LOCK)
        self._place = ctypes.c_void_p.in_dll(library, "stderr")
        self._original = self._place.value
        self._lock = threading.Lock()
        self._listeners = 0
        self._thread = threading.local()

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        messages: list[str] = []
        with self._lock:
            self._listeners += 1
            self._place.value = self._stream
        outer = getattr(self._thread, "messages", None)
        self._thread.messages = messages
        try:
            yield messages
        finally:
            self._thread.messages = outer
            with self._lock:
                self._listeners -= 1
                if not self._listeners:
                    self._place.value = self._original

    def _printed(self, cookie: int | None, start: int, length: int) -> int:
        text = ctypes.string_at(start, length)
        messages = getattr(self._thread, "messages", None)
        if messages is None:
            # Another thread's.
            os.write(2, text)
        else:
            messages.append(text.decode(errors="replace").strip())
        return length


@cache
def _replacement() -> _Replacement | None:
    try:
        return _Replacement()
    except (AttributeError, ValueError):
        return None


@contextmanager
def c_messages() -> Iterator[list[str] | None]:
    """Collect what this thread's calls print to C's `stderr`; None where the C library does not allow it."""
    replacement = _replacement()
    if replacement is None:
        yield None
        return
    with replacement.listening() as messages:
        yield messages
