"""Where things lie: checkpoints, results and caches under LRBENCH_HOME; data under the data roots."""

import os
from dataclasses import dataclass
from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.core.files import user_path
from lrbench.core.leftovers import remove_leftovers

FOREIGN = "foreign"
"""The folder of snapshots that belong to no suite, and of their results."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of one workspace.

    Attributes:
        root: `LRBENCH_HOME`, or else the current folder; empty, it counts as unset.
    """

    root: Path

    @classmethod
    def current(cls) -> "Workspace":
        """The workspace of this process.

        Raises:
            InputError: `LRBENCH_HOME` names something that is not a folder, or a folder whose path is not UTF-8.
        """
        root = user_path(os.environ.get("LRBENCH_HOME") or ".")
        user_path(root.absolute())
        if root.exists() and not root.is_dir():
            raise InputError(
                f"LRBENCH_HOME is {root}, which is a file, not a folder. Set it to a folder (it is made when it does "
                "not exist)."
            )
        return cls(root=root)

    @classmethod
    def for_writing(cls) -> "Workspace":
        """The workspace of this process, for a command that writes: temporary files of killed processes are removed.

        Raises:
            InputError: As `current`.
        """
        workspace = cls.current()
        remove_leftovers([workspace.checkpoints, workspace.leaderboard, workspace.cache])
        # The README's tables are written there; the rest of the folder is the user's.
        remove_leftovers([workspace.root], below=False)
        return workspace

    @property
    def checkpoints(self) -> Path:
        """Snapshots: `<suite>/<arm>/seed<k>/stage<i>.safetensors`."""
        return self.root / "checkpoints"

    @property
    def leaderboard(self) -> Path:
        """Markdown, figures and, under `results/`, one JSON a cell."""
        return self.root / "leaderboard"

    @property
    def results(self) -> Path:
        """One folder a suite, one JSON a cell."""
        return self.leaderboard / "results"

    @property
    def drawn_splits(self) -> Path:
        """Lists of the test images of tasks whose split lrbench drew."""
        return self.leaderboard / "splits"

    @property
    def cache(self) -> Path:
        """Prepared pixels; safe to delete."""
        return self.root / "cache"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where work reads and writes.

    Attributes:
        workspace: Holds the snapshots, the results and the pixel cache.
        roots: Folders in which data is looked for.
        partial: Whether data that is not whole is accepted.
        cached: Whether prepared pixels are kept.
        trackers: What training curves are sent to, beside the log.
    """

    workspace: Workspace
    roots: tuple[Path, ...]
    partial: bool = False
    cached: bool = True
    trackers: tuple[str, ...] = ()

    @property
    def pixel_cache(self) -> Path | None:
        """Where prepared pixels are kept; None to keep none."""
        return self.workspace.cache if self.cached else None


def data_roots(flag: Path | None = None) -> tuple[Path, ...]:
    """The folder in which data is looked for: `--data-root`, else `LRBENCH_DATA`, else `./data`.

    `LRBENCH_DATA` may name several folders, separated as in PATH; empty, it counts as unset.
    """
    if flag is not None:
        return (user_path(flag),)
    named = [part for part in os.environ.get("LRBENCH_DATA", "").split(os.pathsep) if part]
    return tuple(user_path(part) for part in named or ["data"])
