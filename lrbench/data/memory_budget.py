"""Limit on the memory of images that threads decode at the same time.

A photograph takes a hundred times the memory of its resized copy, and every thread holds one. The image header gives the size,
so a thread can wait before it decodes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_DEFAULT_BYTES = 512 << 20
# Three bytes for RGB, and what decoding and resizing need in addition.
_BYTES_PER_PIXEL = 4


class DecodingBudget:
    """Memory for decoded images, shared by threads.

    Args:
        size: Bytes that all images decoded at one time may take, 512 MiB by default. A larger image is decoded alone.
    """

    def __init__(self, size: int | None = None) -> None:
        self._size = _DEFAULT_BYTES if size is None else size
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def one_image(self) -> Iterator[None]:
        """Return the memory that `reserve_memory` reserves inside this context when it ends."""
        reservation = _Reservation(self)
        token = _RESERVATION.set(reservation)
        try:
            yield
        finally:
            _RESERVATION.reset(token)
            self._release(reservation.size)

    def _acquire(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._size)
            self._used += size

    def _release(self, size: int) -> None:
        with self._changed:
            self._used -= size
            self._changed.notify_all()


class _Reservation:
    def __init__(self, budget: DecodingBudget) -> None:
        self.budget, self.size = budget, 0


_RESERVATION: ContextVar[_Reservation | None] = ContextVar("reservation", default=None)


def reserve_memory(width: int, height: int) -> None:
    """Wait until an image of this size may be decoded. Outside `one_image`, or after a first call in it, return at once."""
    reservation = _RESERVATION.get()
    if reservation is not None and not reservation.size:
        size = _BYTES_PER_PIXEL * width * height
        reservation.budget._acquire(size)
        reservation.size = size
