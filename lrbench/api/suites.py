"""Suites from Python: pretraining and whole runs, as on the command line."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrbench.api.settings import options_of

if TYPE_CHECKING:
    import pandas


def run(
    suite: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    data_root: str | Path | None = None,
    workers: int | None = None,
    partial: bool = False,
    progress: bool = True,
) -> "pandas.DataFrame":
    """Pretrain a suite, transfer every snapshot and write the leaderboard, as `lrbench run` does.

    Existing work in the workspace (`LRBENCH_HOME`) is kept. Workers are processes that import the caller's script, so a script
    must call this under `if __name__ == "__main__":`.

    Args:
        suite: A suite's name, or the path of a suite TOML.
        settings: Changes of the suite, as `{"schedule.batch": 128}`.
        seed: Only this pretraining seed; None for all.
        data_root: Folder of the data; None for `LRBENCH_DATA`, or else `./data`.
        workers: Number of processes; None to choose it.
        partial: Whether to accept incomplete data.
        progress: Whether to show progress on stderr.

    Returns:
        The suite's results, as from `lrbench.load_results`.

    Raises:
        InputError: The suite or a setting is wrong, or data is missing.
        FailureError: A job failed.
        InterruptedWork: Ctrl-C; finished work is saved.
    """
    from lrbench.cli.run import run as command
    from lrbench.config import load_suite
    from lrbench.leaderboard.frames import load_results

    options = options_of(settings or {})
    with _quiet(progress):
        command(str(suite), seed=seed, set_=options, data_root=_folder(data_root), partial=partial, workers=workers)
    name = str((settings or {}).get("name", load_suite(str(suite)).name))
    return load_results(suite=name)


def pretrain(
    suite: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    arms: Sequence[str] | None = None,
    seed: int | None = None,
    data_root: str | Path | None = None,
    workers: int | None = None,
    partial: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Pretrain a suite without transfers, as `lrbench pretrain` does.

    Args:
        suite: As in `run`.
        settings: As in `run`.
        arms: Only these arms; None for all.
        seed: Only this pretraining seed; None for all.
        data_root: As in `run`.
        workers: As in `run`.
        partial: As in `run`.
        progress: As in `run`.

    Returns:
        Files of all snapshots of the suite that exist, in the workspace.

    Raises:
        InputError: The suite or a setting is wrong, or data is missing.
        FailureError: Training diverged or failed.
        InterruptedWork: Ctrl-C; finished work is saved.
    """
    from lrbench.cli.pretrain import pretrain as command
    from lrbench.config import load_suite
    from lrbench.core.workspace import Workspace
    from lrbench.store.snapshots import snapshot_files

    options = options_of(settings or {})
    for arm in arms if arms is not None else (None,):
        with _quiet(progress):
            command(
                str(suite),
                arm=arm,
                seed=seed,
                set_=options,
                data_root=_folder(data_root),
                partial=partial,
                workers=workers,
            )
    name = str((settings or {}).get("name", load_suite(str(suite)).name))
    return snapshot_files(Workspace.current().checkpoints / name)


def _folder(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Hide what commands print, all of it or what is meant for a shell."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        if progress:
            yield
            return
        with redirect_stderr(nowhere):
            yield
