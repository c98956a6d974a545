"""Errors a user meets: one paragraph that says what is wrong, where, and what to do."""

import errno
import os
import sys
import traceback

from lrbench.core.escaping import for_terminal


def sentence(text: str) -> str:
    """A text of somebody else's with a full stop after it, unless it ends as a sentence does."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


class LrbenchError(Exception):
    """Base of every error that is shown without a traceback.

    Attributes:
        exit_status: What the process exits with.
        silent: Whether another process reports it already.
        shared: Whether all processes that work together raise it.
    """

    exit_status = 1
    silent = False
    shared = False


class InputError(LrbenchError):
    """Wrong usage or input: an unknown name, a bad file, missing or half-copied data."""

    exit_status = 2


class FailureError(LrbenchError):
    """The work itself failed: a check that is stale, a loss that is not finite, a disk that is full."""

    exit_status = 1


class InterruptedWork(LrbenchError):
    """Stopped by Ctrl-C or SIGTERM after saving; the message says how to continue."""

    exit_status = 130


_KEPT = "Results already saved are kept."
# What helps against a system error, by its number.
_REMEDIES = {
    errno.EMFILE: "Raise this process's limit on open files (`ulimit -n 65536`) and run the same command again.",
    errno.ENFILE: "The whole machine has too many files open. Close some programs and run the same command again.",
    errno.ENOSPC: "Free some space and run the same command again.",
    errno.EDQUOT: "Free some space or raise the quota, and run the same command again.",
    errno.ELOOP: "Remove the link that leads back to itself.",
    errno.ENAMETOOLONG: "Use a shorter name or path.",
    errno.EISDIR: "Put a file in its place.",
    errno.ENOTDIR: "Put a folder where its path has a file.",
}
_OF_PATHS = {errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}
_CHECK_DISK = "Check the disk or the network file system, then run the same command again."


def reported(error: Exception, where: str = "") -> LrbenchError:
    """Return the error that users are shown instead of `error`; with LRBENCH_DEBUG set, print its traceback.

    Args:
        error: Any error. One of lrbench's own is returned as it is.
        where: The work that raised it, to be named in the message.
    """
    if isinstance(error, LrbenchError):
        return error
    if os.environ.get("LRBENCH_DEBUG"):
        show_traceback(error)
    if isinstance(error, OSError) and error.strerror:
        return _of_system(error)
    if isinstance(error, MemoryError):
        return FailureError(f"Out of memory. {_KEPT} Free memory, or use fewer processes (--workers 1).")
    place = f" in {where}" if where else ""
    text = str(error)
    said = type(error).__name__ + (f": {text}" if text else "")
    return FailureError(
        f"Unexpected error{place}: {sentence(said)} {_KEPT} Run again with --debug to see the traceback, and report it."
    )


def _of_system(error: OSError) -> LrbenchError:
    """An error of the operating system in words: the file, the system's reason, what to do."""
    reason = (error.strerror or "").lower()
    # Some calls name a descriptor, which tells a user nothing.
    file = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    if isinstance(error, PermissionError) and file is not None:
        return InputError(f"{os.fsdecode(file)} cannot be read: {reason}. Change its permissions.")
    named = "A file" if file is None else os.fsdecode(file)
    remedy = _REMEDIES.get(error.errno or 0, _CHECK_DISK)
    kind = InputError if error.errno in _OF_PATHS else FailureError
    return kind(f"{named} could not be read or written: {reason}. {remedy} {_KEPT}")


def show_traceback(error: BaseException) -> None:
    """Print an error's traceback on stderr."""
    sys.stderr.write(for_terminal("".join(traceback.format_exception(error))))
