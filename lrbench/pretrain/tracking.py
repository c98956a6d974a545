"""Training curves for TensorBoard and Weights & Biases, in addition to the log."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lrbench.config import Suite
from lrbench.core.errors import InputError

TRACKERS = ("tensorboard", "wandb")
"""Values of `--track`; each is an extra of the same name."""

_CURVES = ("loss", "training_accuracy", "learning_rate")


class Tracker:
    """Receives the log record of each epoch; this one discards it."""

    def record(self, record: dict[str, Any]) -> None:
        """Record an epoch."""

    def close(self) -> None:
        """End the segment."""


class _All(Tracker):
    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def record(self, record: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.record(record)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


class _TensorBoard(Tracker):
    def __init__(self, folder: Path) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def record(self, record: dict[str, Any]) -> None:
        for name in _CURVES:
            self._writer.add_scalar(name, record[name], record["epoch"])

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases(Tracker):
    def __init__(self, suite: Suite, run: str, folder: Path) -> None:
        self._run: Any = import_module("wandb").init(
            project="lrbench",
            group=suite.name,
            name=run,
            # A fixed id continues the same run when training resumes.
            id=f"{suite.name}-{run}".replace("/", "-"),
            resume="allow",
            dir=str(folder),
            config=suite.model_dump(mode="json", exclude={"task_files"}),
        )

    def record(self, record: dict[str, Any]) -> None:
        self._run.log({name: record[name] for name in ("epoch", *_CURVES)})

    def close(self) -> None:
        self._run.finish()


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers are known and installed, before any work starts.

    Raises:
        InputError: A tracker is unknown, or its library is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--track {name} is unknown. Use {' or '.join(TRACKERS)}.")
        try:
            import_module(name)
        except ImportError as error:
            raise InputError(
                f"--track {name} needs a library that is not installed ({error}). Run `pip install '.[{name}]'` in the "
                "source folder of lrbench."
            ) from error


def open_trackers(names: Sequence[str], suite: Suite, snapshot: Path) -> Tracker:
    """Open trackers for the segment that ends in a snapshot.

    Args:
        names: Names of the trackers; without any, nothing is recorded.
        suite: The suite.
        snapshot: The segment's snapshot. TensorBoard writes to a folder next to it, Weights & Biases to the suite's folder.
    """
    folder, stage = snapshot.parent, snapshot.stem
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        trackers.append(_TensorBoard(folder / "tensorboard"))
    if "wandb" in names:
        trackers.append(_WeightsAndBiases(suite, f"{folder.parent.name}/{folder.name}/{stage}", folder.parents[1]))
    return _All(trackers)
