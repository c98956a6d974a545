"""Files of an unfinished fine-tuning: scores of the grid's points, and the state of the current training run."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrbench.core.errors import InputError
from lrbench.core.files import read_json, sha256_json, write_json
from lrbench.pretraining.state import are_tensors, load, save

Point = tuple[float, float, int]
"""Learning rate, weight decay, and the update after which the network was scored."""


class Points:
    """Scored points of a cell's grid, and its interrupted training run.

    A damaged file is ignored, because it only saves time.

    Args:
        path: JSON file of the points; the run is stored next to it. None stores nothing.

    Attributes:
        earlier_seconds: Seconds of the stored work, by step (`selection` and `fit`).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: dict[Point, tuple[dict[str, Any], float]] = {}
        if path is not None:
            with suppress(
                InputError, FileNotFoundError, ValueError, TypeError, LookupError, AttributeError, OverflowError
            ):
                content = read_json(path, "")
                if content["sha256"] == sha256_json(content["points"]):
                    self._done = dict(map(_parse_point, content["points"]))
        self.earlier_seconds = {"selection": sum(seconds for _, seconds in self._done.values()), "fit": 0.0}

    def __len__(self) -> int:
        return len(self._done)

    def get(self, point: Point) -> dict[str, Any] | None:
        """Return the measurement of a point, or None if it is not stored."""
        return self._done[point][0] if point in self._done else None

    def add(self, point: Point, measured: dict[str, Any], seconds: float) -> None:
        """Store the measurement of a point and its duration.

        Raises:
            LrbenchError: The file could not be written.
        """
        self._done[point] = measured, round(seconds, 4)
        if self._path is not None:
            points = [[*point, *content] for point, content in self._done.items()]
            write_json(self._path, {"points": points, "sha256": sha256_json(points)})

    def save_run(self, run: str, content: dict[str, Any]) -> None:
        """Store the state of a training run, which replaces the one stored before.

        Args:
            run: Name of the run within the cell.
            content: Update, seconds, weights and state of the optimiser.

        Raises:
            LrbenchError: The file could not be written.
        """
        if self._path is not None:
            save(self._path.with_suffix(".pt"), {"run": run, **content})

    def load_run(self, run: str) -> dict[str, Any] | None:
        """Return the state of a training run, or None if the stored state is damaged or of another run."""
        if self._path is None or not self._path.with_suffix(".pt").exists():
            return None
        try:
            content = load(self._path.with_suffix(".pt"))
        except InputError:
            return None
        if content.get("run") != run:
            return None
        is_whole = (
            type(content.get("update")) is int
            and content["update"] > 0
            and _is_number(content.get("seconds"))
            and are_tensors(content.get("weights"))
            and isinstance(content.get("optimiser"), dict)
        )
        return content if is_whole else None

    def delete(self) -> None:
        """Delete the files."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(".pt").unlink(missing_ok=True)


def _parse_point(entry: list[Any]) -> tuple[Point, tuple[dict[str, Any], float]]:
    """Return a point with its measurement and duration.

    Raises:
        ValueError, TypeError, LookupError, AttributeError, OverflowError: The entry is damaged.
    """
    rate, decay, update, measured, seconds = entry
    diverged = measured.get("diverged", False) is True and type(measured.get("updates")) is int
    is_whole = (
        all(map(_is_number, (rate, decay, seconds, measured["score"])))
        and type(update) is int
        and 0 <= measured["score"] <= 1
        and measured.keys() == ({"score", "diverged", "updates"} if diverged else {"score"})
    )
    if not is_whole:
        raise ValueError("not a point of a grid")
    return (float(rate), float(decay), update), (measured, float(seconds))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
