"""The command line: one file per command, with heavy imports inside functions, so that `lrbench --help` is fast.

This file imports only the standard library: Ctrl-C has a handler before anything else is loaded.
"""

import os
import signal
from types import FrameType

INTERRUPTED = "interrupted. Run the same command again to continue."


def main() -> None:
    """Run the command line; print an error as one paragraph on stderr, and exit with its status."""
    before = signal.getsignal(signal.SIGINT)
    # Under nohup and in the background of some shells, Ctrl-C is ignored.
    handles = before is signal.default_int_handler
    if handles:
        signal.signal(signal.SIGINT, _end_at_once)
    from lrbench.cli.app import dispatch

    if handles:
        signal.signal(signal.SIGINT, before)
    dispatch()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process during imports, when there is nothing to save."""
    os.write(2, f"lrbench: {INTERRUPTED}\n".encode())
    os._exit(130)
