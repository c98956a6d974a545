"""The command line: one file a command, with heavy imports inside it, so that `lrbench --help` answers at once.

This file imports only the standard library: Ctrl-C has a handler before anything else is loaded.
"""

import os
import signal
from types import FrameType

INTERRUPTED = "interrupted. Run the same command again to continue."


def main() -> None:
    """Run the command line; an error of lrbench ends as one paragraph on stderr and its exit status."""
    before = signal.getsignal(signal.SIGINT)
    # nohup and shells that start a command in the background have Ctrl-C ignored.
    heard = before is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, _end_at_once)
    from lrbench.cli.app import dispatch

    if heard:
        signal.signal(signal.SIGINT, before)
    dispatch()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process while it still imports, when there is nothing to save."""
    os.write(2, f"lrbench: {INTERRUPTED}\n".encode())
    os._exit(130)
