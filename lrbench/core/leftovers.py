"""Temporary file names that identify their writer, and removal of files that killed processes left."""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
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

    Files of running processes stay, and so do those that another machine wrote less than a day ago.

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
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not below:
                break


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
    with suppress(OSError):
        return max(p.lstat().st_mtime for p in [path, *path.rglob("*")]) < time.time() - _STALE_SECONDS
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
