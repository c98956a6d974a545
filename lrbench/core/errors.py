"""Errors that users see: one paragraph with what is wrong, where, and what to do."""

import errno
import os
import sys
import traceback

from lrbench.core.escaping import for_terminal


def as_sentence(text: str) -> str:
    """Return text with a full stop at its end, unless it already ends a sentence."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


class LrbenchError(Exception):
    """Base of every error that is shown without a traceback.

    Attributes:
        exit_status: Exit status of the process.
        silent: True when another process of the group reports the error.
        shared: True when every process of the group raises the error.
    """

    exit_status = 1
    silent = False
    shared = False


class InputError(LrbenchError):
    """Wrong usage or input: an unknown name, a bad file, missing or incomplete data."""

    exit_status = 2


class FailureError(LrbenchError):
    """Failed work: an outdated page, a loss that is not finite, a full disk."""

    exit_status = 1


class OutOfMemory(FailureError):
    """The memory of a device or of the machine is exhausted. With fewer processes the work may succeed."""


class InterruptedWork(LrbenchError):
    """Work stopped by Ctrl-C or SIGTERM after saving. The message says how to continue."""

    exit_status = 130


_SAVED = "Results already saved are kept."
# Advice for system errors.
_REMEDIES = {
    errno.EMFILE: "Raise this process's limit on open files (`ulimit -n 65536`) and run the same command again.",
    errno.ENFILE: "The whole machine has too many files open. Close some programs and run the same command again.",
    errno.ENOSPC: "Free some space and run the same command again.",
    errno.EDQUOT: "Free some space or raise the quota, and run the same command again.",
    errno.ELOOP: "Remove the link that leads back to itself.",
    errno.ENAMETOOLONG: "Use a shorter name or path.",
    errno.EISDIR: "Replace the folder with a file.",
    errno.ENOTDIR: "Replace the file in its path with a folder.",
}
_PATH_ERRORS = {errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}
_CHECK_DISK = "Check the disk or the network file system, then run the same command again."


def as_user_error(error: Exception, where: str = "") -> LrbenchError:
    """Convert any error to one for users. With LRBENCH_DEBUG set, print its traceback.

    Args:
        error: Any error. An `LrbenchError` is returned unchanged.
        where: The work that raised it, named in the message.
    """
    if isinstance(error, LrbenchError):
        return error
    if os.environ.get("LRBENCH_DEBUG"):
        print_traceback(error)
    if isinstance(error, OSError) and error.strerror:
        return _from_os_error(error)
    if isinstance(error, MemoryError):
        return OutOfMemory(f"Out of memory. {_SAVED} Free memory, or use fewer processes (--workers 1).")
    place = f" in {where}" if where else ""
    text = str(error)
    description = type(error).__name__ + (f": {text}" if text else "")
    return FailureError(
        f"Unexpected error{place}: {as_sentence(description)} {_SAVED} Run again with --debug to see the "
        "traceback, and report it."
    )


def picklable(error: LrbenchError) -> LrbenchError:
    """Return the error without what cannot be pickled: traceback, cause and extra attributes."""
    kind = next(base for base in type(error).__mro__ if base.__module__ == __name__)
    plain: LrbenchError = kind(str(error))
    return plain


def _from_os_error(error: OSError) -> LrbenchError:
    reason = (error.strerror or "").lower()
    # `filename` may be a file descriptor.
    file = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    if isinstance(error, PermissionError) and file is not None:
        return InputError(f"{os.fsdecode(file)} cannot be read: {reason}. Change its permissions.")
    name = "A file" if file is None else os.fsdecode(file)
    remedy = _REMEDIES.get(error.errno or 0, _CHECK_DISK)
    kind = InputError if error.errno in _PATH_ERRORS else FailureError
    return kind(f"{name} could not be read or written: {reason}. {remedy} {_SAVED}")


def print_traceback(error: BaseException) -> None:
    """Print an error's traceback on stderr."""
    sys.stderr.write(for_terminal("".join(traceback.format_exception(error))))
