"""Temporary file names that identify their writer, and removal of files that killed processes left."""

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

# Writers on other machines cannot be checked; a running one writes to its temporary file at least once a day.
_STALE_SECONDS = 24 * 3600
# Limit of Linux file systems, in bytes.
_LONGEST_NAME = 255
_TEMPORARY = re.compile(
    r"\..*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.part", re.DOTALL
)
# Names of earlier versions do not identify the writer.
_ANONYMOUS = re.compile(r"\..*\.[a-z0-9_]{8}\.part", re.DOTALL)


def temporary_name(path: Path) -> Path:
    """Return an unused hidden path next to `path`: `.NAME.MACHINE-PROCESS-STARTED-RANDOM.part`.

    MACHINE is a hash of the machine's boot and the PID namespace. STARTED is the start time of the process, because process
    numbers are reused. A long NAME is cut off.
    """
    process = os.getpid()
    ending = f".{_machine_id()}-{process}-{_start_time(process) or 0}-{secrets.token_hex(4)}.part"
    name = os.fsencode(path.name)[: _LONGEST_NAME - 1 - len(ending)].decode(errors="ignore")
    return path.with_name(f".{name}{ending}")


def remove_leftovers(folders: Iterable[Path], *, below: bool = True) -> None:
    """Remove the temporary files and folders of dead processes.

    Files of this machine's running processes stay, and so do those of another machine whose content changed within a day, by
    the clock of their file system. That machine's processes cannot be checked: after a day without a change, the writer counts
    as dead, although it may be stopped or may wait for its storage. It then loses that write and nothing else. Files under
    their final names are never removed, so that earlier versions, saved progress and results stay. The writer cannot put what
    remains of its file or folder in place: it fails with an error when it goes on, and the same command continues from what is
    saved. A file system that stamps files with its clients' clocks needs machines whose clocks agree within hours.

    Args:
        folders: Folders to search.
        below: True to search their subfolders, too.
    """
    for folder in folders:
        for parent, names, files in os.walk(folder):
            for name in [*names, *files]:
                if name.endswith(".part") and _is_leftover(path := Path(parent, name)):
                    # Another process may remove it first, or it may belong to another user.
                    with suppress(OSError):
                        _remove(path)
            if not below:
                break


def _remove(path: Path) -> None:
    """Remove a file or a folder, at once under the name that its writer knows."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    # While a large folder is being deleted, a writer that was only stopped could put it in place.
    renamed = temporary_name(path)
    path.rename(renamed)
    shutil.rmtree(renamed)


def _is_leftover(path: Path) -> bool:
    """Return True for a temporary file or folder whose writer is dead or presumed dead."""
    temporary = _TEMPORARY.fullmatch(path.name)
    if temporary is None:
        return _ANONYMOUS.fullmatch(path.name) is not None and path.is_file() and _is_stale(path)
    if temporary["machine"] != _machine_id() or temporary["started"] == "0":
        return _is_stale(path)
    return not _is_running(int(temporary["process"]), int(temporary["started"]))


def _is_stale(path: Path) -> bool:
    """Return True if nothing in a file or folder was written for a day."""
    # Not this machine's clock, which may be wrong.
    clock = temporary_name(path.with_name("clock"))
    with suppress(OSError):
        try:
            clock.touch()
            now = clock.stat().st_mtime
        finally:
            clock.unlink(missing_ok=True)
        return max(p.lstat().st_mtime for p in [path, *path.rglob("*")]) < now - _STALE_SECONDS
    return False


def _is_running(process: int, started: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # The start time of another user's process may be hidden.
    return _start_time(process) in {started, None}


def _start_time(process: int) -> int | None:
    """Return the start time of a process in clock ticks after boot, or None if it cannot be read."""
    try:
        # The command's name, in parentheses, may contain spaces and parentheses.
        return int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return None


@cache
def _machine_id() -> str:
    """Return a hash of the host name, the boot and the PID namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(os.stat("/proc/self/ns/pid").st_ino)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]
