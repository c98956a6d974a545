"""Capturing what C libraries print to standard error, by thread.

libjpeg reports damage in no other way, and without the name of the file. glibc allows a program to replace C's `stderr`; the
replacement is called in the thread that prints. Python's `sys.stderr` is not changed.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_UNBUFFERED = 2
# For __fsetlocking: without a lock of the stream, which a thread waiting for the interpreter lock would hold.
_NO_LOCK = 2

_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _StreamFunctions(ctypes.Structure):
    """`cookie_io_functions_t` of glibc."""

    _fields_ = (("read", ctypes.c_void_p), ("write", _Write), ("seek", ctypes.c_void_p), ("close", ctypes.c_void_p))


class _Replacement:
    """A C stream that replaces `stderr` while at least one thread captures.

    Raises:
        AttributeError: The C library does not support such streams.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        library.fopencookie.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _StreamFunctions]
        library.fopencookie.restype = ctypes.c_void_p
        library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        set_locking = library["__fsetlocking"]
        set_locking.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._write = _Write(self._on_write)
        self._stream = library.fopencookie(None, b"w", _StreamFunctions(None, self._write, None, None))
        library.setvbuf(self._stream, None, _UNBUFFERED, 0)
        set_locking(self._stream, _NO_LOCK)
        self._stderr = ctypes.c_void_p.in_dll(library, "stderr")
        self._original = self._stderr.value
        self._lock = threading.Lock()
        self._captures = 0
        self._thread = threading.local()

    @contextmanager
    def capture(self) -> Iterator[list[str]]:
        messages: list[str] = []
        with self._lock:
            self._captures += 1
            self._stderr.value = self._stream
        outer = getattr(self._thread, "messages", None)
        self._thread.messages = messages
        try:
            yield messages
        finally:
            self._thread.messages = outer
            with self._lock:
                self._captures -= 1
                if not self._captures:
                    self._stderr.value = self._original

    def _on_write(self, cookie: int | None, start: int, length: int) -> int:
        text = ctypes.string_at(start, length)
        messages = getattr(self._thread, "messages", None)
        if messages is None:
            # This thread does not capture.
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
def capture_c_stderr() -> Iterator[list[str] | None]:
    """Collect what this thread's calls print to C's `stderr`; None if the C library does not support it."""
    replacement = _replacement()
    if replacement is None:
        yield None
        return
    with replacement.capture() as messages:
        yield messages
