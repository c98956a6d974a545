"""How much memory the images may take that threads decode at the same time.

A photograph takes a hundred times the memory of its resized copy, and there is one for each thread. How large an image is
stands in its head, so that a thread can wait before it is decoded.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_BYTES = 512 << 20


class DecodingRoom:
    """Room that threads share.

    Args:
        size: Bytes that all images decoded at one time may take, half a GiB unless given; a larger one is decoded alone.
    """

    def __init__(self, size: int | None = None) -> None:
        self._size = _BYTES if size is None else size
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def one_image(self) -> Iterator[None]:
        """Around all that one thread does with one decoded image."""
        claim = _Claim(self)
        token = _CLAIM.set(claim)
        try:
            yield
        finally:
            _CLAIM.reset(token)
            self._give(claim.held)

    def _take(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._size)
            self._taken += count

    def _give(self, count: int) -> None:
        with self._changed:
            self._taken -= count
            self._changed.notify_all()


class _Claim:
    def __init__(self, room: DecodingRoom) -> None:
        self.room, self.held = room, 0


_CLAIM: ContextVar[_Claim | None] = ContextVar("claim", default=None)


def wait_for_room(width: int, height: int) -> None:
    """Wait until an image of so many pixels may be decoded; at once where no room is shared, or some is held already."""
    claim = _CLAIM.get()
    if claim is not None and not claim.held:
        # Three bytes a pixel, and what decoding and resizing take beside them.
        count = 4 * width * height
        claim.room._take(count)
        claim.held = count
