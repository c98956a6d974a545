"""Training curves and results of transfers for TensorBoard, Weights & Biases and trackio, besides lrbench's own files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lrbench.config import Suite
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.store.results import Result

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Values of `--track`; each is an extra of the same name."""

_CURVES = ("loss", "training_accuracy", "learning_rate")


class Tracker:
    """Receives the log record of each epoch."""

    def record(self, record: dict[str, Any]) -> None:
        """Record an epoch."""

    def close(self) -> None:
        """End the segment."""


class Trackers(Tracker):
    """The trackers of the segment that ends in a snapshot. One that fails is reported and receives nothing more.

    Args:
        names: Names of the trackers; without any, nothing is recorded.
        suite: The suite.
        snapshot: The segment's snapshot. TensorBoard writes to a folder next to it, Weights & Biases to the suite's folder, and
            trackio to its own.
        say: Called with the report of a failure.
    """

    def __init__(self, names: Sequence[str], suite: Suite, snapshot: Path, say: Callable[[str], None]) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._say = say
        for name in names:
            with self._reporting(name):
                self._trackers[name] = _open(name, suite, snapshot)

    def record(self, record: dict[str, Any]) -> None:
        """Record an epoch."""
        for name, tracker in list(self._trackers.items()):
            with self._reporting(name):
                tracker.record(record)

    def close(self) -> None:
        """End the segment."""
        for name, tracker in list(self._trackers.items()):
            with self._reporting(name):
                tracker.close()

    @contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Services fail in any way.
            self._trackers.pop(name, None)
            self._say(f"--track {name} failed and receives nothing more of this stage: {type(error).__name__}: {error}")


class _TensorBoard(Tracker):
    def __init__(self, folder: Path) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def record(self, record: dict[str, Any]) -> None:
        for name in _CURVES:
            self._writer.add_scalar(name, record[name], record["epoch"])

    def close(self) -> None:
        self._writer.close()


class _Run(Tracker):
    """A run of Weights & Biases or trackio, which have one interface."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def record(self, record: dict[str, Any]) -> None:
        self._run.log({name: record[name] for name in ("epoch", *_CURVES)})

    def close(self) -> None:
        self._run.finish()


def _start_run(tracker: str, *, group: str, name: str, folder: Path, config: dict[str, Any], kind: str) -> Any:
    """Start a run, or continue the one of this name."""
    # Unique in the project, so that a run continues when training resumes.
    identity = f"{group}-{name}".replace("/", "-")
    if tracker == "wandb":
        return import_module("wandb").init(
            project="lrbench",
            group=group,
            name=name,
            id=identity,
            resume="allow",
            dir=str(folder),
            job_type=kind,
            config=config,
        )
    return import_module("trackio").init(
        project="lrbench",
        group=group,
        name=identity,
        resume="allow",
        config={**config, "kind": kind},
        # No dashboard in notebooks, and no records of the machine.
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )


def track_result(names: Sequence[str], result: Result, workspace: Workspace) -> None:
    """Send the metrics of a transfer to trackers: one run for each result, or points of TensorBoard.

    Args:
        names: Names of the trackers.
        result: The result.
        workspace: Its workspace, in whose folder of snapshots TensorBoard writes.
    """
    snapshot, folder = result.snapshot, workspace.checkpoints / result.suite
    numbers = {**result.metrics, "epoch": snapshot.epoch or 0, "stage": snapshot.stage or 0}
    described = {
        "snapshot": snapshot.reference,
        "arm": snapshot.arm,
        "pretraining_seed": snapshot.pretraining_seed,
        "stage": snapshot.stage,
        "task": result.task.name,
        "protocol": result.protocol,
        "seed": result.seed,
        "chosen": dict(result.chosen),
    }
    for name in names:
        if name == "tensorboard":
            place = folder / "tensorboard" / "transfers" / f"{result.task.name}.{result.protocol}.seed{result.seed}"
            writer = import_module("torch.utils.tensorboard").SummaryWriter(str(place / _series(result)))
            for metric, value in result.metrics.items():
                writer.add_scalar(f"transfer/{metric}", value, snapshot.epoch or 0)
            writer.close()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            run = _start_run(
                name,
                group=result.suite,
                name=f"transfers/{result.cell}",
                folder=folder,
                config=described,
                kind="transfer",
            )
            run.log(numbers)
            run.finish()


def _series(result: Result) -> str:
    """Return the curve to which a result belongs: an arm and seed, whose stages follow one another, or a foreign snapshot."""
    snapshot = result.snapshot
    if snapshot.arm is None:
        return result.cell.partition(f".{result.task.name}.")[0]
    return f"{snapshot.arm}-seed{snapshot.pretraining_seed}"


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers are known and installed, before any work starts.

    Raises:
        InputError: A tracker is unknown, or its library is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--track {name} is unknown. Use {', '.join(TRACKERS[:-1])} or {TRACKERS[-1]}.")
        try:
            import_module(name)
        except ImportError as error:
            raise InputError(
                f"--track {name} needs a library that is not installed ({error}). Run `pip install '.[{name}]'` in the "
                "source folder of lrbench."
            ) from error


def _open(name: str, suite: Suite, snapshot: Path) -> Tracker:
    folder, stage = snapshot.parent, snapshot.stem
    if name == "tensorboard":
        return _TensorBoard(folder / "tensorboard")
    run = _start_run(
        name,
        group=suite.name,
        name=f"{folder.parent.name}/{folder.name}/{stage}",
        folder=folder.parents[1],
        config=suite.model_dump(mode="json", exclude={"task_files"}),
        kind="pretraining",
    )
    return _Run(run)
