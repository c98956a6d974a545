"""Errors a user meets: one paragraph that says what is wrong, where, and what to do."""

import os
import traceback


def sentence(text: str) -> str:
    """A text of somebody else's with a full stop after it, unless it ends as a sentence does."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


class LrbenchError(Exception):
    """Base of every error that is shown without a traceback.

    Attributes:
        exit_status: What the process exits with.
        silent: Whether another process says it already.
        shared: Whether all processes that work together meet it.
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
    """Stopped by Ctrl-C or SIGTERM after saving; the message says how to go on."""

    exit_status = 130


def unforeseen(error: Exception, who: str) -> str:
    """What is said of an error that is none of these; LRBENCH_DEBUG has its traceback printed.

    Args:
        error: The error.
        who: What met it.
    """
    if os.environ.get("LRBENCH_DEBUG"):
        traceback.print_exception(error)
    return f"{who} met an error that lrbench did not foresee: {type(error).__name__}: {error}"
