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
    """What a node should see.

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
    """What a node sees.

    Attributes:
        sees_workspace: Whether it reads the nonce.
        missing: Folders of the data that it lacks.
        versions: Versions of its libraries.
        locked_twice: Whether it locked the file that another process holds.
    """

    sees_workspace: bool
    missing: tuple[str, ...]
    versions: Mapping[str, str]
    locked_twice: bool


@contextmanager
def probing(place: Place) -> Iterator[Probe]:
    """Write a probe into the workspace, and hold its lock until the nodes have been inspected."""
    name = f".nodes-{secrets.token_hex(8)}"
    nonce, lock = place.workspace.root / name, place.workspace.root / f"{name}.lock"
    try:
        write_text(nonce, name)
        with lock.open("w") as handle:
            # A file system without locks refuses; then no node locks it twice, and files are written without locks.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            roots = tuple(str(root) for root in place.roots if root.is_dir())
            yield Probe(nonce=str(nonce), lock=str(lock), roots=roots)
    finally:
        remove_file(nonce)
        remove_file(lock)


def inspect_node(probe: Probe) -> NodeReport:
    """Return what this node sees."""
    locked_twice = False
    with suppress(OSError), open(probe.lock, "r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked_twice = True
    return NodeReport(
        sees_workspace=Path(probe.nonce).is_file(),
        missing=tuple(root for root in probe.roots if not Path(root).is_dir()),
        versions=library_versions(),
        locked_twice=locked_twice,
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
