"""Temporary names that say who writes, so that what a killed process left can be removed."""

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

# Whether a writer on another machine still runs is unknown; nothing that runs leaves a temporary file alone for so long.
_SECONDS_ELSEWHERE = 24 * 3600
# The longest name of a file on Linux's file systems, in bytes.
_LONGEST_NAME = 255
_TEMPORARY = re.compile(r"\..*\.(?P<place>[0-9a-f]{8})-(?P<process>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.part", re.DOTALL)
# Names that earlier versions gave say nothing of the writer.
_NAMELESS = re.compile(r"\..*\.[a-z0-9_]{8}\.part", re.DOTALL)


def temporary_name(path: Path) -> Path:
    """An unused hidden name next to `path`: `.NAME.PLACE-PROCESS-STARTED-RANDOM.part`.

    PLACE is a hash of the running machine and its process numbers; STARTED is when the process began, because process
    numbers are used again. A long NAME is cut off.
    """
    process = os.getpid()
    ending = f".{_place()}-{process}-{_started(process) or 0}-{secrets.token_hex(4)}.part"
    name = os.fsencode(path.name)[: _LONGEST_NAME - 1 - len(ending)].decode(errors="ignore")
    return path.with_name(f".{name}{ending}")


def remove_leftovers(folders: Iterable[Path], *, below: bool = True) -> None:
    """Remove the temporary files and folders of dead writers.

    What a living process writes stays; so does what another machine wrote less than a day ago.

    Args:
        folders: Where to look.
        below: Whether to look in all folders below them, too.
    """
    for folder in folders:
        for parent, names, files in os.walk(folder):
            for name in [*names, *files]:
                if name.endswith(".part") and _is_left(path := Path(parent, name)):
                    # Another process may remove the same, or the file may be another user's.
                    with suppress(OSError):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not below:
                break


def _is_left(path: Path) -> bool:
    """Whether a file or folder is a temporary one whose writer is dead, as far as can be known here."""
    temporary = _TEMPORARY.fullmatch(path.name)
    if temporary is None:
        return _NAMELESS.fullmatch(path.name) is not None and path.is_file() and _untouched(path)
    if temporary["place"] != _place() or temporary["started"] == "0":
        return _untouched(path)
    return not _lives(int(temporary["process"]), int(temporary["started"]))


def _untouched(path: Path) -> bool:
    """Whether nothing in a file or folder was written for a day."""
    with suppress(OSError):
        return max(p.lstat().st_mtime for p in [path, *path.rglob("*")]) < time.time() - _SECONDS_ELSEWHERE
    return False


def _lives(process: int, started: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # Another user's process may be hidden: then the number alone has to do.
    return _started(process) in {started, None}


def _started(process: int) -> int | None:
    """When a process began, in clock ticks after the machine's start; None where that cannot be read."""
    try:
        # The command's name, in parentheses, may hold anything.
        return int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return None


@cache
def _place() -> str:
    """A hash of this running machine and of the space that its process numbers are from, which a container has to itself."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(os.stat("/proc/self/ns/pid").st_ino)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]
