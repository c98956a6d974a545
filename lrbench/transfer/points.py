"""Scores of a grid's points as they are found, so that a stopped fine-tuning goes on after the last point that was done."""

import json
from pathlib import Path
from typing import Any

from lrbench.files import write_json

Point = tuple[float, float, int]
"""Learning rate, weight decay, and the update after which the network was scored."""


class Points:
    """The points of one cell's grid that are done.

    A file that cannot be read counts as none: points are no more than time saved.

    Args:
        path: Where they are kept; None to keep nothing.

    Attributes:
        spared: Seconds that the points found in the file took when they were done.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: dict[Point, tuple[dict[str, Any], float]] = {}
        if path is not None:
            try:
                self._done = {
                    (float(rate), float(decay), int(update)): (dict(found), float(seconds))
                    for rate, decay, update, found, seconds in json.loads(path.read_text(encoding="utf-8"))
                }
            except (OSError, ValueError, TypeError):
                self._done = {}
        self.spared = sum(seconds for _, seconds in self._done.values())

    def __len__(self) -> int:
        return len(self._done)

    def get(self, point: Point) -> dict[str, Any] | None:
        """What was found at a point, or None where it was not done."""
        return self._done[point][0] if point in self._done else None

    def put(self, point: Point, found: dict[str, Any], seconds: float) -> None:
        """Keep what was found at a point, and how long that took.

        Raises:
            LrbenchError: The file could not be written.
        """
        self._done[point] = found, round(seconds, 4)
        if self._path is not None:
            write_json(self._path, [[*each, *content] for each, content in self._done.items()])

    def forget(self) -> None:
        """Remove the file, once the cell's result is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
