"""Checks of a node before it works: folders, libraries and locks that it shares with the other nodes."""

import fcntl
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lrbench.core.files import remove_file, write_text
from lrbench.core.machine import library_versions
from lrbench.core.workspace import Place


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Files and folders that a node must see.

    Attributes:
        nonce: A file in the workspace.
        lock: A file that another process locks.
        roots: Folders of the data.
    """

    nonce: str
    lock: str
    roots: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Findings of a check on a node.

    Attributes:
        sees_workspace: Whether it reads the nonce.
        missing: Folders of the data that it lacks.
        versions: Versions of its libraries.
        shares_locks: Whether it was refused the lock that another process holds.
    """

    sees_workspace: bool
    missing: tuple[str, ...]
    versions: Mapping[str, str]
    shares_locks: bool


@contextmanager
def probing(place: Place) -> Iterator[Probe]:
    """Write a probe into the workspace, and hold its lock until the nodes have been inspected."""
    name = f".nodes-{secrets.token_hex(8)}"
    nonce, lock = place.workspace.root / name, place.workspace.root / f"{name}.lock"
    try:
        write_text(nonce, name)
        with lock.open("w") as handle:
            # On a file system without locks, no node finds it locked.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            roots = tuple(str(root) for root in place.roots if root.is_dir())
            yield Probe(nonce=str(nonce), lock=str(lock), roots=roots)
    finally:
        remove_file(nonce)
        remove_file(lock)


def inspect_node(probe: Probe) -> NodeReport:
    """Return what this node sees."""
    shares_locks = False
    # A file system without locks refuses for another reason.
    with suppress(OSError), open(probe.lock, "r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            shares_locks = True
    return NodeReport(
        sees_workspace=Path(probe.nonce).is_file(),
        missing=tuple(root for root in probe.roots if not Path(root).is_dir()),
        versions=library_versions(),
        shares_locks=shares_locks,
    )


def node_problem(name: str, report: NodeReport, root: Path, versions: Mapping[str, str]) -> str | None:
    """Return why a node cannot work on a suite, or None.

    Args:
        name: The node.
        report: What it sees.
        root: The workspace.
        versions: Versions of the libraries where the suite was started.
    """
    if not report.sees_workspace:
        return f"the node {name} does not see {root}. Mount LRBENCH_HOME under the same path on every node."
    if report.missing:
        return f"the node {name} has no folder {report.missing[0]}. Mount the data under the same path on every node."
    for library, version in versions.items():
        if (other := report.versions.get(library)) != version:
            return f"the node {name} has {library} {other} instead of {version}. Install the same environment on every node."
    return None
