"""Folders of snapshots, results and caches (`LRBENCH_HOME`, `LRBENCH_CACHE`) and of data (`LRBENCH_DATA`)."""

import os
from dataclasses import dataclass
from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.core.files import user_path
from lrbench.core.leftovers import remove_leftovers

FOREIGN = "foreign"
"""Folder of snapshots that belong to no suite, and of their results."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of one workspace.

    Attributes:
        root: `LRBENCH_HOME`, or the current folder when that is unset or empty.
    """

    root: Path

    @classmethod
    def current(cls) -> "Workspace":
        """Return the workspace of this process.

        Raises:
            InputError: `LRBENCH_HOME` or `LRBENCH_CACHE` is not a folder, or a path is not UTF-8.
        """
        root = user_path(os.environ.get("LRBENCH_HOME") or ".")
        user_path(root.absolute())
        folders = {"LRBENCH_HOME": root}
        if os.environ.get("LRBENCH_CACHE"):
            folders["LRBENCH_CACHE"] = cls(root=root).pixels
        for name, folder in folders.items():
            if folder.exists() and not folder.is_dir():
                raise InputError(
                    f"{name} is {folder}, which is a file, not a folder. Set it to a folder; lrbench creates a missing one."
                )
        return cls(root=root)

    @classmethod
    def for_writing(cls) -> "Workspace":
        """Return the workspace of this process after removing the temporary files of killed processes.

        Raises:
            InputError: See `current`.
        """
        workspace = cls.current()
        remove_leftovers([workspace.checkpoints, workspace.leaderboard, workspace.cache, workspace.pixels / "pixels"])
        # README files with tables are in the root; its subfolders belong to the user.
        remove_leftovers([workspace.root], below=False)
        return workspace

    @property
    def checkpoints(self) -> Path:
        """Snapshots: `<suite>/<arm>/seed<k>/stage<i>.safetensors`."""
        return self.root / "checkpoints"

    @property
    def leaderboard(self) -> Path:
        """Pages and figures, with the results in `results/`."""
        return self.root / "leaderboard"

    @property
    def results(self) -> Path:
        """Results: one folder per suite, one JSON file per cell."""
        return self.leaderboard / "results"

    @property
    def registrations(self) -> Path:
        """Registrations: one JSON file per suite."""
        return self.leaderboard / "registrations"

    @property
    def drawn_splits(self) -> Path:
        """Lists of test images of tasks whose split lrbench draws at random."""
        return self.leaderboard / "splits"

    @property
    def cache(self) -> Path:
        """Indices, unfinished grids and, unless `LRBENCH_CACHE` is set, prepared pixels. It can be deleted at any time."""
        return self.root / "cache"

    @property
    def pixels(self) -> Path:
        """Folder with prepared pixels in `pixels/`: `LRBENCH_CACHE`, which several workspaces may share, or else `cache`."""
        shared = os.environ.get("LRBENCH_CACHE")
        return user_path(shared) if shared else self.cache


@dataclass(frozen=True, kw_only=True)
class Place:
    """Folders and options of a command's work.

    Attributes:
        workspace: Folders of snapshots, results and the pixel cache.
        roots: Folders to search for data.
        partial: True to accept incomplete data.
        cached: True to cache prepared pixels.
        trackers: Experiment trackers that receive training curves and results of transfers, in addition to the files.
    """

    workspace: Workspace
    roots: tuple[Path, ...]
    partial: bool = False
    cached: bool = True
    trackers: tuple[str, ...] = ()

    @property
    def pixel_cache(self) -> Path | None:
        """Folder of the pixel cache, or None without a cache."""
        return self.workspace.pixels if self.cached else None


def data_roots(flag: Path | None = None) -> tuple[Path, ...]:
    """Return the folders to search for data: `--data-root`, else `LRBENCH_DATA`, else `./data`.

    `LRBENCH_DATA` may name several folders, separated as in PATH. An empty value counts as unset.
    """
    if flag is not None:
        return (user_path(flag),)
    named = [part for part in os.environ.get("LRBENCH_DATA", "").split(os.pathsep) if part]
    return tuple(user_path(part) for part in named or ["data"])
