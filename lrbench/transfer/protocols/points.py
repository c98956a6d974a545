"""What is kept of a fine-tuning on its way: the scores of its grid's points, and the training run that is in work."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrbench.core.errors import InputError
from lrbench.core.files import read_json, sha256_json, write_json
from lrbench.pretrain.state import are_tensors, load, save

Point = tuple[float, float, int]
"""Learning rate, weight decay, and the update after which the network was scored."""


class Points:
    """The points of one cell's grid that are done, and the training run that was stopped.

    A file that cannot be read counts as none: what it holds is no more than time saved.

    Args:
        path: Where they are kept; None to keep nothing.

    Attributes:
        spared: Seconds that what was found in the files took when it was done, of the selection and of the fit.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: dict[Point, tuple[dict[str, Any], float]] = {}
        if path is not None:
            # Whatever is wrong with it, what it holds is no more than time saved.
            with suppress(
                InputError, FileNotFoundError, ValueError, TypeError, LookupError, AttributeError, OverflowError
            ):
                content = read_json(path, "")
                if content["sha256"] == sha256_json(content["points"]):
                    self._done = dict(map(_done, content["points"]))
        self.spared = {"selection": sum(seconds for _, seconds in self._done.values()), "fit": 0.0}

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
            points = [[*point, *content] for point, content in self._done.items()]
            write_json(self._path, {"points": points, "sha256": sha256_json(points)})

    def keep(self, run: str, content: dict[str, Any]) -> None:
        """Keep where a training run stands, in place of the one kept before.

        Args:
            run: Which run of the cell's.
            content: Tensors, numbers and words.

        Raises:
            LrbenchError: The file could not be written.
        """
        if self._path is not None:
            save(self._path.with_suffix(".pt"), {"run": run, **content})

    def kept(self, run: str) -> dict[str, Any] | None:
        """Where a training run stands, or None where that is not what was kept last."""
        if self._path is None or not self._path.with_suffix(".pt").exists():
            return None
        try:
            content = load(self._path.with_suffix(".pt"))
        except InputError:
            return None
        if content.get("run") != run:
            return None
        whole = (
            type(content.get("update")) is int
            and content["update"] > 0
            and _is_number(content.get("seconds"))
            and are_tensors(content.get("weights"))
            and isinstance(content.get("optimiser"), dict)
        )
        return content if whole else None

    def forget(self) -> None:
        """Remove the files, once the cell's result is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(".pt").unlink(missing_ok=True)


def _done(entry: list[Any]) -> tuple[Point, tuple[dict[str, Any], float]]:
    """A point and what was measured there.

    Raises:
        ValueError, TypeError: It is none.
    """
    rate, decay, update, measured, seconds = entry
    diverged = measured.get("diverged", False) is True and type(measured.get("updates")) is int
    whole = (
        all(map(_is_number, (rate, decay, seconds, measured["score"])))
        and type(update) is int
        and 0 <= measured["score"] <= 1
        and measured.keys() == ({"score", "diverged", "updates"} if diverged else {"score"})
    )
    if not whole:
        raise ValueError("no point of a grid")
    return (float(rate), float(decay), update), (measured, float(seconds))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
